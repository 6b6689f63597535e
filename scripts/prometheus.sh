#!/usr/bin/env bash
# Prints the folder of `prometheus` and `promtool`, from Debian's package, with which tests check the
# metrics and the alerts. Installs it first if needed; the package's own service is not started. If it
# cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=/usr/bin
debian $folder/promtool prometheus
echo "$folder"
