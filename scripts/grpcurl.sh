#!/usr/bin/env bash
# Prints the path of grpcurl, which the end-to-end tests use as a client from another project. Builds
# grpcurl first if it is not in the cache. Without Go it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=v1.9.3
folder=$cache/grpcurl-$version

if [ ! -e "$folder" ]; then
    need go Go
    scratch
    echo "building grpcurl $version in $folder (once, a minute or two)" >&2
    get "Go could not build it" \
        go_install "$tmp/made" "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version"
    keep "$tmp/made" "$folder"
fi
echo "$folder/grpcurl"
