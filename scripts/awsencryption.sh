#!/usr/bin/env bash
# Prints the python of an environment that has the AWS Encryption SDK, whose cache of data keys the
# benchmark compares the client's with. Makes the environment first if it does not exist. If it
# cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tool="the AWS Encryption SDK"
otherwise="it is not measured"
locked_env awsencryption || without "its packages cannot be installed"
"$env/bin/python" -c "import aws_encryption_sdk" 2>/dev/null || without "its packages do not load"
echo "$env/bin/python"
