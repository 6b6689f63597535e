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

without() {
    if in_ci; then
        echo "connectconformance: $1, and CI needs it" >&2
        exit 1
    fi
    echo "connectconformance: $1; the tests that need it are skipped" >&2
    exit 3
}

if [ ! -e "$folder" ]; then
    command -v go >/dev/null || without "Go is not installed"
    scratch
    echo "building connectconformance $version in $folder (once, some minutes)" >&2
    # As in grpcurl.sh: outside any Go module, without the caller's GOFLAGS, and without cgo.
    (cd "$tmp" && CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN=$tmp/made \
        go install -trimpath "$module/cmd/connectconformance@$version" >"$tmp/log" 2>&1) ||
        { cat "$tmp/log" >&2; without "go install failed"; }
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
