#!/usr/bin/env bash
# interop.sh NAME: prints the folder with what a client of another project needs, which the end-to-end
# tests let call Keyfold: grpc-go, grpc-js or grpc-java (the sources are in tests/interop), ghz, or
# h2spec, which checks an HTTP/2 server. Makes it first if it is not in the cache. Without the language's
# tools it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tool=$1
sources=$root/tests/interop
ghz=v0.120.0
dependency_plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1

# made_of FILE...: sets $folder to the place in the cache for what is made of these files.
made_of() { folder=$cache/$tool-$(digest "$@"); }

go_build() { (cd "$sources/go" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$tmp/made/" "$@"); }

case $tool in
grpc-go) made_of "$sources"/go/* ;;
h2spec) made_of "$sources"/go/go.* ;;
grpc-js) made_of "$sources"/js/* ;;
grpc-java) made_of "$sources"/java/* ;;
ghz) folder=$cache/ghz-$ghz ;;
*)
    echo "interop: there is no $tool" >&2
    exit 2
    ;;
esac
if [ ! -e "$folder" ]; then
    case $tool in
    grpc-js) need npm npm ;;
    grpc-java)
        need mvn Maven
        need java Java
        ;;
    *) need go Go ;;
    esac
    scratch
    echo "making $folder (once, up to a minute or two)" >&2
    case $tool in
    grpc-go) get "Go could not build it" go_build . ;;
    h2spec) get "Go could not build it" go_build github.com/summerwind/h2spec/cmd/h2spec ;;
    ghz) get "Go could not build it" go_install "$tmp/made" "github.com/bojand/ghz/cmd/ghz@$ghz" ;;
    grpc-js)
        get "npm ci failed" npm_ci "$sources/js" "$tmp/made"
        cp "$sources"/js/*.js "$tmp/made/"
        ;;
    grpc-java)
        mkdir "$tmp/made"
        cp "$sources"/java/* "$tmp/made/"
        get "Maven could not fetch its libraries" mvn -q -B -f "$sources/java/pom.xml" \
            "$dependency_plugin:copy-dependencies" "-DoutputDirectory=$tmp/made"
        ;;
    esac
    keep "$tmp/made" "$folder"
fi
echo "$folder"
