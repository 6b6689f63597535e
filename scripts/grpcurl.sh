#!/usr/bin/env bash
# Prints the path of grpcurl, which the end-to-end tests use as a client from another project. Builds
# grpcurl first if it is not in the cache. Without Go it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=v1.9.3
folder=$cache/grpcurl-$version

without() {
    if in_ci; then
        echo "grpcurl: $1, and CI needs it" >&2
        exit 1
    fi
    echo "grpcurl: $1; the tests that need it are skipped" >&2
    exit 3
}

if [ ! -e "$folder" ]; then
    command -v go >/dev/null || without "Go is not installed"
    scratch
    echo "building grpcurl $version in $folder (once, a minute or two)" >&2
    # Run outside any Go module, and without the caller's GOFLAGS, which might forbid downloads.
    # Without cgo the build needs no C compiler.
    (cd "$tmp" && CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN=$tmp/bin \
        go install -trimpath "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version" >"$tmp/log" 2>&1) ||
        { cat "$tmp/log" >&2; without "go install failed"; }
    keep "$tmp/bin" "$folder"
fi
echo "$folder/grpcurl"
