#!/usr/bin/env bash
# Prints the folder of connectconformance, the tests that the Connect project has for servers of
# Connect and gRPC: the program, and conformance.binpb, which describes the service that a server has
# to offer. Builds both first if they are not in the cache. Without Go it prints why and ends with exit
# code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

module=connectrpc.com/conformance
version=v1.0.5
folder=$cache/connectconformance-$version

if [ ! -e "$folder" ]; then
    need go Go
    scratch
    echo "building connectconformance $version in $folder (once, some minutes)" >&2
    get "Go could not build it" go_install "$tmp/made" "$module/cmd/connectconformance@$version"
    protos=$(cd "$tmp" && GOFLAGS=-mod=mod go mod download -json "$module@$version" |
        "$python" -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')/proto
    locked_env stubs
    "$env/bin/python" -m grpc_tools.protoc -I "$protos" --include_imports \
        --descriptor_set_out="$tmp/made/conformance.binpb" \
        "$protos"/connectrpc/conformance/v1/server_compat.proto \
        "$protos"/connectrpc/conformance/v1/service.proto
    keep "$tmp/made" "$folder"
fi
echo "$folder"
