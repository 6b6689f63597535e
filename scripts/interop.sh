#!/usr/bin/env bash
# interop.sh NAME: prints the folder with what a client of another project needs, which the end-to-end
# tests let call Keyfold: grpc-go, grpc-js or grpc-java (the sources are in tests/interop), ghz, or
# h2spec, which checks an HTTP/2 server. Makes it first if it is not in the cache. Without the language's
# tools it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

name=$1
sources=$root/tests/interop
ghz=v0.120.0
dependency_plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1

without() {
    if in_ci; then
        echo "$name: $1, and CI needs it" >&2
        exit 1
    fi
    echo "$name: $1; the tests that need it are skipped" >&2
    exit 3
}

# made_of FILE...: sets $folder to the place in the cache for what is made of these files.
made_of() { folder=$cache/$name-$(digest "$@"); }

# make_in COMMAND...: runs a command in the scratch folder, and shows its output only if it fails.
make_in() {
    echo "making $folder (once, up to a minute or two)" >&2
    (cd "$tmp" && "$@" >"$tmp/log" 2>&1) || { cat "$tmp/log" >&2; without "$1 failed"; }
}

need() { command -v "$1" >/dev/null || without "$1 is not installed"; }

go_build() { (cd "$sources/go" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$tmp/made/" "$@"); }

go_install() { CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN=$tmp/made go install -trimpath "$1"; }

npm_install() { cd "$tmp/made" && npm ci --ignore-scripts --no-audit --no-fund; }

case $name in
grpc-go) made_of "$sources"/go/* ;;
h2spec) made_of "$sources"/go/go.* ;;
grpc-js) made_of "$sources"/js/* ;;
grpc-java) made_of "$sources"/java/* ;;
ghz) folder=$cache/ghz-$ghz ;;
*)
    echo "interop: there is no $name" >&2
    exit 2
    ;;
esac
if [ ! -e "$folder" ]; then
    scratch
    mkdir "$tmp/made"
    case $name in
    grpc-go)
        need go
        make_in go_build .
        ;;
    h2spec)
        need go
        make_in go_build github.com/summerwind/h2spec/cmd/h2spec
        ;;
    ghz)
        need go
        make_in go_install "github.com/bojand/ghz/cmd/ghz@$ghz"
        ;;
    grpc-js)
        need npm
        cp "$sources"/js/* "$sources/js/.npmrc" "$tmp/made/"
        make_in npm_install
        ;;
    grpc-java)
        need mvn
        need java
        cp "$sources"/java/* "$tmp/made/"
        make_in mvn -q -B -f "$sources/java/pom.xml" "$dependency_plugin:copy-dependencies" \
            "-DoutputDirectory=$tmp/made"
        ;;
    esac
    keep "$tmp/made" "$folder"
fi
echo "$folder"
