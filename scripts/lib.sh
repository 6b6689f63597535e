# Sourced by the other scripts. Bash 3.2 is enough, and nothing here needs GNU tools.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Outside the clone, so that `make clean` and a fresh clone do not fetch everything again.
cache=${KEYFOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keyfold}
python=${PYTHON:-python3}

# What the machine lacks stops CI, where nobody would read that a check was skipped.
in_ci() { [ "${CI:-}" = true ]; }

# scratch: a temporary folder that goes away with the script, in $tmp.
scratch() {
    tmp=$(mktemp -d "${TMPDIR:-/tmp}/keyfold.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
}

# digest FILE...: names a cache folder after what it is made from; never a security check,
# that is done by the hashes inside the locks. The interpreter belongs to the key because
# an environment works with no other.
digest() {
    "$python" - "$@" <<'PY'
import hashlib, pathlib, sys
made_of = hashlib.sha256(f"{sys.version}{sys.executable}".encode())
for name in sys.argv[1:]:
    made_of.update(pathlib.Path(name).read_bytes())
print(made_of.hexdigest()[:16])
PY
}

# keep BUILT PLACE: moves a finished folder into the cache in one step, so that no other
# process ever sees half of one. Whoever comes second throws its own away.
keep() {
    mkdir -p "$(dirname "$2")"
    mv "$1" "$2.$$"
    if [ -e "$2" ] || ! "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$2.$$" "$2" 2>/dev/null; then
        rm -rf "$2.$$"
    fi
    [ -e "$2" ]
}

# locked_env NAME: makes, once, the environment of requirements/NAME.lock and sets $env.
# It is moved after it was made, so its programs are run as `$env/bin/python -m …`: the
# first line of an installed script would name the old place.
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
