#!/usr/bin/env bash
# Prints the python of an environment for moto, whose STS the tests of AWS credentials use. Run moto as
# `PYTHON -m moto.server`; tests/counterparts/moto.py has the settings. Makes the environment first if
# it does not exist. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

locked_env moto || without "its packages cannot be installed"
"$env/bin/python" -c "import moto.server" 2>/dev/null || without "its packages do not load"
echo "$env/bin/python"
