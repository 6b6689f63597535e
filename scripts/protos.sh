#!/usr/bin/env bash
# protos.sh check      runs buf: lint, format, and breaking changes against the last release
# protos.sh release    makes the current protos the last release: protos/released.binpb
#
# Before the first release there is no released.binpb, and the contract may change in any way. Once
# CHANGELOG.md has a version that is not called unreleased, the file must exist. Without buf it prints why
# and ends with exit code 3.
# PROTOS=folder checks the protos of another folder, CHANGELOG=file reads another changelog.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

protos=${PROTOS:-$root/protos}
released=$protos/released.binpb
changelog=${CHANGELOG:-$root/CHANGELOG.md}

otherwise="buf's checks are skipped"

# Sets $buf to the path of the program, which it installs first if needed.
find_buf() {
    local name folder
    name=buf-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m | sed -e 's/x86_64/x64/' -e 's/arm64/aarch64/')
    grep -q "\"node_modules/@bufbuild/$name\"" "$root/protos/package-lock.json" ||
        without "protos/package-lock.json has no $name"
    folder=$cache/buf-$(digest "$root/protos/package-lock.json")
    if [ ! -e "$folder" ]; then
        need npm npm
        echo "installing buf in $folder" >&2
        get "npm ci failed" npm_ci "$root/protos" "$tmp/buf"
        keep "$tmp/buf" "$folder"
    fi
    buf=$folder/node_modules/@bufbuild/$name/bin/buf
    export BUF_CACHE_DIR=$tmp/buf-cache
}

# Copies protos/ to $tmp/protos, and google/rpc beside it. Otherwise buf would fetch the imported
# files from its own registry; the generator's environment holds the same files.
stage() {
    locked_env stubs
    mkdir -p "$tmp/protos/google/rpc"
    cp -R "$protos/keyfold" "$tmp/protos/"
    cp "$root/protos/buf.yaml" "$tmp/protos/"
    cp "$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"/google/rpc/*.proto \
        "$tmp/protos/google/rpc/"
    cd "$tmp/protos"
}

scratch
task=${1:-}
case $task in
check)
    find_buf
    stage
    failed=
    "$buf" lint || failed=" lint"
    "$buf" format --diff --exit-code --path keyfold || failed="$failed format"
    checked="lint and format are right"
    if [ -e "$released" ]; then
        "$buf" breaking --against "$released" || failed="$failed breaking"
        checked="lint, format and compatibility are right"
    elif grep -E '^## \[[0-9]' "$changelog" | grep -qv 'unreleased$'; then
        echo "protos/released.binpb is missing: \`make release-protos\` writes it; commit it" >&2
        failed="$failed breaking"
    fi
    if [ -n "$failed" ]; then
        echo "protos: failed:$failed" >&2
        exit 1
    fi
    echo "protos: $checked"
    ;;
release)
    otherwise="nothing is released"
    find_buf
    stage
    # Comments and positions are not part of the promise.
    "$buf" build --path keyfold --exclude-source-info --output "$released"
    echo "$released"
    ;;
*)
    echo "usage: protos.sh check|release" >&2
    exit 2
    ;;
esac
