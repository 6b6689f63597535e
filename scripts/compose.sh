#!/usr/bin/env bash
# Prints the path of a program that reads a Compose file as Docker does: it checks the file against the
# specification, and prints what it means. Builds the specification's own program first if needed.
# Without Go it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=v2.16.2

folder=$cache/compose-$version
if [ ! -e "$folder" ]; then
    need go Go
    scratch
    echo "building the reader of Compose files in $folder (once, up to a minute)" >&2
    get "Go could not build it" \
        go_install "$tmp/made" "github.com/compose-spec/compose-go/v2/cmd@$version"
    keep "$tmp/made" "$folder"
fi
echo "$folder/cmd"
