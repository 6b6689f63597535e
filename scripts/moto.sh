#!/usr/bin/env bash
# Prints the python of an environment that runs moto, whose STS the AWS credentials are tested
# against, as `PYTHON -m moto.server`; tests/counterparts/moto.py says with what settings. Makes
# the environment first where that can be done; otherwise exit code 3, and one line that says why.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

without() {
    if in_ci; then
        echo "moto: $1, and CI needs it" >&2
        exit 1
    fi
    echo "moto: $1; the tests that need it are skipped" >&2
    exit 3
}

locked_env moto || without "its packages cannot be installed"
"$env/bin/python" -c "import moto.server" 2>/dev/null || without "its packages do not load"
echo "$env/bin/python"
