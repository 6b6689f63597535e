#!/usr/bin/env bash
# Prints the python of an environment for LocalStack, the tests' AWS KMS. Run LocalStack as
# `PYTHON -m localstack.runtime.main`; tests/counterparts/localstack.py has the settings. Makes the
# environment first if it does not exist. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

locked_env localstack || without "its packages cannot be installed"
"$env/bin/python" -c "import localstack.runtime.main" 2>/dev/null ||
    without "its packages do not load with this Python"
echo "$env/bin/python"
