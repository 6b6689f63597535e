#!/usr/bin/env bash
# Prints the Python that has Patroni, and the program etcd, a line each: Patroni from its wheel, etcd from
# Debian's package. Installs them first if needed. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v etcd >/dev/null || debian /usr/bin/etcd etcd-server
locked_env patroni || without "its wheel cannot be installed"
echo "$env/bin/python"
command -v etcd
