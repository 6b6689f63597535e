#!/usr/bin/env bash
# Prints the folder of `prometheus` and `promtool`, from Debian's package, with which tests check the
# metrics and the alerts. Installs it first if needed; the package's own service is not started. If it
# cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

without() {
    if in_ci; then
        echo "prometheus: $1, and CI needs it" >&2
        exit 1
    fi
    echo "prometheus: $1; the tests that need it are skipped" >&2
    exit 3
}

folder=/usr/bin
if [ ! -x $folder/promtool ]; then
    command -v apt-get >/dev/null || without "$folder/promtool does not exist, and neither does apt-get"
    [ "$(id -u)" = 0 ] || without "$folder/promtool does not exist; run as root: apt-get install prometheus"
    scratch
    echo "installing prometheus" >&2
    {
        apt-get update || true
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends prometheus
    } >"$tmp/log" 2>&1 || true
    [ -x $folder/promtool ] || { tail -n 20 "$tmp/log" >&2; without "apt-get install failed"; }
fi
echo "$folder"
