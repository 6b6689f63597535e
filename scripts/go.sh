#!/usr/bin/env bash
# go.sh prepare                 gets the generators of clients/go/v1
# go.sh generate                generates clients/go/v1 from protos/
# go.sh check-stubs             fails if the committed stubs differ from the generated ones
# go.sh check                   checks clients/go: its format, `go vet` and its tests
# go.sh build PACKAGE FILE      builds a program of clients/go, such as ./internal/cases
# go.sh run FOLDER ARGUMENT...  runs the go command in a folder, with the cached modules
#
# What it downloads and builds is kept in the cache folder. Without Go it prints why it does nothing and
# ends with exit code 3, or fails in CI.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The runtime in clients/go/go.mod must not be older than the generator.
protoc_gen_go=v1.36.12
protoc_gen_go_grpc=v1.6.2

sources=$root/clients/go
protos=$root/protos
# The protos do not say where a language keeps its stubs, so that the contract does not depend on it.
package='keyfold/clients/go/v1;keyfoldv1'
generators=$cache/go-generators-$protoc_gen_go-$protoc_gen_go_grpc

otherwise="nothing of clients/go is generated or checked"

# The folders of modules and of built packages, in the cache: CI keeps that folder from run to run.
# Without the caller's GOFLAGS, which might forbid downloads, and without cgo, which needs a C compiler.
settle() {
    need go Go
    mkdir -p "$cache/go"
    export GOMODCACHE=$cache/go/modules GOCACHE=$cache/go/built GOFLAGS="-modcacherw -buildvcs=false"
    export CGO_ENABLED=0
}

get_generators() {
    settle
    [ -e "$generators" ] && return
    local made
    made=$(mktemp -d "${TMPDIR:-/tmp}/keyfold.XXXXXX")
    echo "making the Go generators in $generators (once, up to a minute)" >&2
    (cd "$made" && export GOBIN=$made/bin &&
        go install -trimpath "google.golang.org/protobuf/cmd/protoc-gen-go@$protoc_gen_go" &&
        go install -trimpath "google.golang.org/grpc/cmd/protoc-gen-go-grpc@$protoc_gen_go_grpc") &&
        keep "$made/bin" "$generators" || { rm -rf "$made"; return 1; }
    rm -rf "$made"
}

# generate FOLDER: writes the stubs into FOLDER/v1.
generate() {
    get_generators
    locked_env stubs
    local packages files file options=()
    packages=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    files=$(cd "$protos" && find keyfold -name '*.proto' | LC_ALL=C sort)
    for file in $files; do options+=("--go_opt=M$file=$package" "--go-grpc_opt=M$file=$package"); done
    mkdir -p "$1"
    # shellcheck disable=SC2086  # the names of our protos contain no spaces
    (cd "$protos" && "$env/bin/python" -m grpc_tools.protoc -I . -I "$packages" \
        --plugin="protoc-gen-go=$generators/protoc-gen-go" \
        --plugin="protoc-gen-go-grpc=$generators/protoc-gen-go-grpc" \
        --go_out="$1" --go_opt=module=keyfold/clients/go \
        --go-grpc_out="$1" --go-grpc_opt=module=keyfold/clients/go "${options[@]}" $files)
}

case ${1:-} in
prepare)
    get_generators
    ;;
generate)
    scratch
    generate "$tmp/out"
    # Remove all old stubs, so that those whose proto is gone go, too.
    rm -rf "$sources/v1"
    mkdir -p "$sources"
    cp -R "$tmp/out/v1" "$sources/v1"
    ;;
check-stubs)
    scratch
    generate "$tmp/out"
    if ! diff -ru "$sources/v1" "$tmp/out/v1"; then
        echo "the Go stubs are not up to date with protos/: run \`make stubs\` and commit the result" >&2
        exit 1
    fi
    echo "stubs for Go: up to date"
    ;;
check)
    settle
    cd "$sources"
    unformatted=$(gofmt -l .)
    if [ -n "$unformatted" ]; then
        echo "not in gofmt's format; run \`gofmt -w clients/go\`:" $unformatted >&2
        exit 1
    fi
    go vet -mod=readonly ./...
    go test -mod=readonly ./...
    ;;
build)
    settle
    cd "$sources"
    go build -mod=readonly -o "$3" "$2"
    ;;
run)
    settle
    cd "$2"
    shift 2
    exec go "$@"
    ;;
*)
    echo "usage: go.sh prepare|generate|check-stubs|check|build PACKAGE FILE|run FOLDER ARGUMENT..." >&2
    exit 2
    ;;
esac
