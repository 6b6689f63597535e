#!/usr/bin/env bash
# Prints the path of a program that reads a Compose file as Docker does: it checks the file against the
# specification, and prints what it means. Builds the specification's own program first if needed.
# Without Go it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=v2.16.2

without() {
    if in_ci; then
        echo "compose: $1, and CI needs it" >&2
        exit 1
    fi
    echo "compose: $1; the tests that need it are skipped" >&2
    exit 3
}

folder=$cache/compose-$version
if [ ! -e "$folder" ]; then
    command -v go >/dev/null || without "Go is not installed"
    scratch
    echo "building the reader of Compose files in $folder (once, up to a minute)" >&2
    # As in grpcurl.sh: outside any module, without the caller's GOFLAGS and without cgo.
    (cd "$tmp" && CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN=$tmp/made \
        go install -trimpath "github.com/compose-spec/compose-go/v2/cmd@$version") >"$tmp/log" 2>&1 ||
        { tail -n 20 "$tmp/log" >&2; without "Go could not build it"; }
    keep "$tmp/made" "$folder"
fi
echo "$folder/cmd"
