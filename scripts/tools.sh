#!/usr/bin/env bash
# tools.sh           tries to get every program that tests use; one that it cannot get is skipped
# tools.sh NAME...   gets these programs, and fails if it cannot get one of them
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

names=(grpcurl axe chromium compose connectconformance kubernetes model localstack moto openbao postgres-15
    postgres-16 postgres-18 pgbouncer patroni prometheus grpc-go grpc-js grpc-java ghz h2spec)

# fetch NAME: ends with the exit code of the tool's own script.
fetch() {
    case $1 in
    grpcurl | compose | connectconformance | kubernetes | model | localstack | moto | openbao | patroni | prometheus) "$root/scripts/$1.sh" ;;
    postgres-15 | postgres-16 | postgres-18) "$root/scripts/postgres.sh" "${1#postgres-}" ;;
    pgbouncer) "$root/scripts/postgres.sh" pgbouncer ;;
    axe | chromium) "$root/scripts/browser.sh" "$1" ;;
    grpc-go | grpc-js | grpc-java | ghz | h2spec) "$root/scripts/interop.sh" "$1" ;;
    *)
        echo "tools: there is no $1; the names are: ${names[*]}" >&2
        exit 2
        ;;
    esac
}

if [ $# -gt 0 ]; then
    for one in "$@"; do fetch "$one"; done
else
    for one in "${names[@]}"; do fetch "$one" || [ $? -eq 3 ]; done
fi
