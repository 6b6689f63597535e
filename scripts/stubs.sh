#!/usr/bin/env bash
# stubs.sh generate   generates clients/python/keyfold/v1 from protos/
# stubs.sh prepare    only makes the generator's environment
# stubs.sh check      fails if the committed stubs differ from the generated ones
#
# PROTOS=folder reads other protos, and STUBS=folder is another folder that contains keyfold/v1.
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
    # shellcheck disable=SC2086  # the names of our protos contain no spaces
    (cd "$protos" && "$env/bin/python" -m grpc_tools.protoc -I . -I "$packages" \
        --plugin="protoc-gen-mypy=$tmp/plugins/mypy" \
        --plugin="protoc-gen-mypy_grpc=$tmp/plugins/mypy_grpc" \
        --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" \
        $files)
    # Remove the empty gRPC stubs of a proto without a service.
    find "$1" -name '*_pb2_grpc.py' | while read -r file; do
        grep -q '^class .*Stub' "$file" || rm "$file" "${file}i"
    done
    # protoc does not write __init__.py, and without one the import contracts do not see the stubs.
    local folder
    (cd "$1" && find keyfold -name '*_pb2.py' -exec dirname {} \; | sort -u) | while read -r folder; do
        echo "\"\"\"Generated from protos/$folder by \`make stubs\`; never edited.\"\"\"" >"$1/$folder/__init__.py"
    done
}

# plugin NAME FUNCTION: writes the program that protoc needs for a plugin.
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
    # Remove all old stubs, so that those whose proto is gone go, too.
    mkdir -p "$stubs/keyfold"
    rm -rf "$stubs/keyfold/v1"
    cp -R "$tmp/out/keyfold/v1" "$stubs/keyfold/v1"
    ;;
check)
    generate "$tmp/out"
    if ! diff -ru -x __pycache__ "$stubs/keyfold/v1" "$tmp/out/keyfold/v1"; then
        echo "the stubs are not up to date with protos/: run \`make stubs\` and commit the result" >&2
        exit 1
    fi
    echo "stubs: up to date"
    ;;
*)
    echo "usage: stubs.sh prepare|generate|check" >&2
    exit 2
    ;;
esac
