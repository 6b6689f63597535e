# The other scripts source this file. It needs Bash 3.2 or newer, and no GNU tools.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Outside the clone, so that a `make clean` or a fresh clone need not fetch everything again.
cache=${KEYFOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keyfold}
python=${PYTHON:-python3}

# Says whether this is CI. There a missing program is an error, because nobody would read that a check
# was skipped.
in_ci() { [ "${CI:-}" = true ]; }

# What a script gets, in its messages, and what happens where it cannot. A script may set both.
tool=$(basename "$0" .sh)
otherwise="the tests that need it are skipped"

# without WHY: says why there is no $tool, and ends the script with exit code 3; in CI with 1.
without() {
    if in_ci; then
        echo "$tool: $1, and CI needs it" >&2
        exit 1
    fi
    echo "$tool: $1; $otherwise" >&2
    exit 3
}

# need PROGRAM NAME: goes without the tool if a program that makes it is not installed.
need() { command -v "$1" >/dev/null || without "$2 is not installed"; }

# get WHY COMMAND...: runs a command, and shows the end of its output only if it fails. Then the script
# goes without the tool, and says why. `scratch` has to be called before.
get() {
    "${@:2}" >"$tmp/log" 2>&1 || { tail -n 20 "$tmp/log" >&2; without "$1"; }
}

# go_install FOLDER ARGUMENT...: builds programs of Go into a folder. It runs outside any Go module, and
# without the caller's GOFLAGS, which might forbid downloads. Without cgo it needs no C compiler.
go_install() {
    (cd "$tmp" && CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN=$1 go install -trimpath "${@:2}")
}

# npm_ci SOURCES FOLDER: installs into a new folder what the lock of another folder names.
npm_ci() {
    mkdir "$2"
    cp "$1"/package.json "$1"/package-lock.json "$1/.npmrc" "$2/"
    (cd "$2" && npm ci --ignore-scripts --no-audit --no-fund)
}

# debian PROGRAM PACKAGE...: installs packages of Debian, unless the program that they bring is there.
# None of them starts a server.
debian() {
    local program=$1
    shift
    [ -x "$program" ] && return
    command -v apt-get >/dev/null || without "$program does not exist, and neither does apt-get"
    [ "$(id -u)" = 0 ] || without "$program does not exist; run as root: apt-get install $*"
    scratch
    echo "installing $*" >&2
    {
        apt-get update || true
        # Packages look for the runlevel before they start a server.
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends "$@" || true
    } >"$tmp/log" 2>&1
    [ -x "$program" ] || { tail -n 20 "$tmp/log" >&2; without "apt-get install failed"; }
}

# scratch: makes a temporary folder, removes it when the script ends, and sets $tmp to it.
tmp=
scratch() {
    [ -n "$tmp" ] && return
    tmp=$(mktemp -d "${TMPDIR:-/tmp}/keyfold.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
}

# digest FILE...: prints a digest of files, for the name of a cache folder. It is not a security check;
# the hashes in the locks are. The digest includes the interpreter, because an environment works with
# that interpreter only.
digest() {
    "$python" - "$@" <<'PY'
import hashlib, pathlib, sys
made_of = hashlib.sha256(f"{sys.version}{sys.executable}".encode())
for name in sys.argv[1:]:
    made_of.update(pathlib.Path(name).read_bytes())
print(made_of.hexdigest()[:16])
PY
}

# keep BUILT PLACE: moves a finished folder into the cache in one step, so that no other process ever
# sees half of it. If two scripts make the same folder, the second one removes its own.
keep() {
    mkdir -p "$(dirname "$2")"
    mv "$1" "$2.$$"
    if [ -e "$2" ] || ! "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$2.$$" "$2" 2>/dev/null; then
        rm -rf "$2.$$"
    fi
    [ -e "$2" ]
}

# locked_env NAME: makes the environment of requirements/NAME.lock if it does not exist yet, and sets
# $env to it. Run its programs as `$env/bin/python -m …`: the first line of an installed script names
# the folder in which the environment was made, before this function moved it.
locked_env() {
    local lock=$root/requirements/$1.lock
    env=$cache/$1-$(digest "$lock")
    [ -e "$env" ] && return
    echo "making the $1 environment in $env" >&2
    local made
    made=$(mktemp -d "${TMPDIR:-/tmp}/keyfold.XXXXXX")
    "$python" -m venv "$made/env" &&
        "$made/env/bin/python" -m pip install --quiet --disable-pip-version-check \
            --require-hashes --no-deps -r "$lock" >&2 &&
        keep "$made/env" "$env" || { rm -rf "$made"; return 1; }
    rm -rf "$made"
}
