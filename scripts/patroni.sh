#!/usr/bin/env bash
# Prints the Python that has Patroni, and the program etcd, a line each: Patroni from its wheel, etcd from
# Debian's package. Installs them first if needed. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

without() {
    if in_ci; then
        echo "patroni: $1, and CI needs it" >&2
        exit 1
    fi
    echo "patroni: $1; the tests that need it are skipped" >&2
    exit 3
}

if ! command -v etcd >/dev/null; then
    command -v apt-get >/dev/null || without "etcd does not exist, and neither does apt-get"
    [ "$(id -u)" = 0 ] || without "etcd does not exist; run as root: apt-get install etcd-server"
    scratch
    echo "installing etcd-server" >&2
    {
        apt-get update || true
        # Without a runlevel the package does not start a server.
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends etcd-server
    } >"$tmp/log" 2>&1 || { tail -n 20 "$tmp/log" >&2; without "apt-get install failed"; }
fi
locked_env patroni || without "its wheel cannot be installed"
echo "$env/bin/python"
command -v etcd
