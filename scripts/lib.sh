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

# scratch: makes a temporary folder, removes it when the script ends, and sets $tmp to it.
scratch() {
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
