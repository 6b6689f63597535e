#!/usr/bin/env bash
# stubs.sh generate   writes clients/python/keyfold/v1 from protos/
# stubs.sh prepare    only makes the generator's environment
# stubs.sh check      fails if what is committed there is not what protos/ give
#
# Input and output can be elsewhere: PROTOS=folder, STUBS=folder that holds keyfold/v1.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

protos=${PROTOS:-$root/protos}
stubs=${STUBS:-$root/clients/python}

# generate FOLDER
generate() {
    locked_env stubs
    local packages files file
    packages=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    files=$(cd "$protos" && find keyfold -name '*.proto' | LC_ALL=C sort)
    if [ -z "$files" ]; then
        echo "$protos/keyfold: no protos" >&2
        return 1
    fi
    mkdir -p "$tmp/plugins" "$1"
    plugin mypy main
    plugin mypy_grpc grpc
    # shellcheck disable=SC2086  # the names of our protos hold no spaces
    (cd "$protos" && "$env/bin/python" -m grpc_tools.protoc -I . -I "$packages" \
        --plugin="protoc-gen-mypy=$tmp/plugins/mypy" \
        --plugin="protoc-gen-mypy_grpc=$tmp/plugins/mypy_grpc" \
        --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" \
        $files)
    # A proto without a service has nothing to say to gRPC.
    find "$1" -name '*_pb2_grpc.py' | while read -r file; do
        grep -q '^class .*Stub' "$file" || rm "$file" "${file}i"
    done
    # protoc leaves this to us; without it the import contracts would not see the stubs.
    local folder
    (cd "$1" && find keyfold -name '*_pb2.py' -exec dirname {} \; | sort -u) | while read -r folder; do
        echo "\"\"\"Generated from protos/$folder by \`make stubs\`; never edited.\"\"\"" >"$1/$folder/__init__.py"
    done
}

# plugin NAME FUNCTION: protoc wants a program per plugin.
plugin() {
    printf '#!/bin/sh\nexec "%s" -c "from mypy_protobuf.main import %s; %s()"\n' \
        "$env/bin/python" "$2" "$2" >"$tmp/plugins/$1"
    chmod +x "$tmp/plugins/$1"
}

scratch
case ${1:-} in
prepare)
    locked_env stubs
    ;;
generate)
    generate "$tmp/out"
    # What has no proto any more must go too.
    mkdir -p "$stubs/keyfold"
    rm -rf "$stubs/keyfold/v1"
    cp -R "$tmp/out/keyfold/v1" "$stubs/keyfold/v1"
    ;;
check)
    generate "$tmp/out"
    if ! diff -ru -x __pycache__ "$stubs/keyfold/v1" "$tmp/out/keyfold/v1"; then
        echo "the stubs are not those of protos/: run \`make stubs\` and commit the result" >&2
        exit 1
    fi
    echo "stubs: up to date"
    ;;
*)
    echo "usage: stubs.sh prepare|generate|check" >&2
    exit 2
    ;;
esac
