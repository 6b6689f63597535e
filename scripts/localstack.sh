#!/usr/bin/env bash
# Prints the python of an environment that runs LocalStack, the AWS KMS of the tests, as
# `PYTHON -m localstack.runtime.main`; tests/counterparts/localstack.py says with what settings.
# Makes the environment first where that can be done; otherwise exit code 3, and one line that
# says why.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

without() {
    if in_ci; then
        echo "localstack: $1, and CI needs it" >&2
        exit 1
    fi
    echo "localstack: $1; the tests that need it are skipped" >&2
    exit 3
}

locked_env localstack || without "its packages cannot be installed"
"$env/bin/python" -c "import localstack.runtime.main" 2>/dev/null ||
    without "its packages do not load with this Python"
echo "$env/bin/python"
