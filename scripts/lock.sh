#!/usr/bin/env bash
# Resolves pyproject.toml into the locks in requirements/: dev (.venv), stubs, resolver; postgres,
# localstack, moto, openbao and patroni (servers for tests), awsencryption (for the benchmark), sbom (for a
# release's list of parts); and, for installations elsewhere, client (the base dependencies), cli (the
# base and the command line), console (its extra), relay (its extra and S3's SDK), server (its extra,
# PostgreSQL's driver and uvloop), all (the extra `all`) and build (the tools that build the wheel). A
# locked package keeps its version as long as pyproject.toml allows it; `UPGRADE=1` moves every package
# to the newest version allowed.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

locked_env resolver

resolve() {
    local lock=requirements/$1.lock
    shift
    # Universal: one lock serves every operating system and every Python from 3.11 on. A lock has no
    # registry's address, so that everyone may use a mirror of their own.
    "$env/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
        ${UPGRADE:+--upgrade} --output-file "$lock" "$@" >/dev/null
    if grep -n '://' "$lock"; then
        echo "$lock: contains an address" >&2
        return 1
    fi
    echo "$lock"
}

resolve dev pyproject.toml --all-extras --group dev
resolve stubs --group stubs
resolve resolver --group resolver
resolve postgres --group postgres-servers
resolve localstack --group localstack
resolve moto --group moto
resolve openbao --group openbao
resolve patroni --group patroni
resolve awsencryption --group awsencryption
resolve sbom --group sbom

# tested NAME ...: resolves a lock for installations elsewhere, with the versions that the tests use.
tested() {
    resolve "$@" --constraint requirements/dev.lock
}

tested client pyproject.toml
tested cli pyproject.toml --extra cli
tested console pyproject.toml --extra console
tested relay pyproject.toml --extra relay --extra aws
tested server pyproject.toml --extra server --extra postgres --extra uvloop
tested all pyproject.toml --extra all

# pip cannot lock a build, so the build tools have a lock of their own and are installed beforehand.
scratch
"$python" -c 'import sys, tomllib
print(*tomllib.load(sys.stdin.buffer)["build-system"]["requires"], sep="\n")' <pyproject.toml >"$tmp/build.in"
tested build "$tmp/build.in" --no-annotate
