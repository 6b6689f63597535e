#!/usr/bin/env bash
# Makes the secrets of compose.yaml in the folder secrets/, and .env, which says who owns them. Needs
# openssl and no more. What is there stays; tokens and certificates are made anew, for a year.
#
# The folder is for its owner alone. Most files in it are for all to read, because containers of other
# users get some of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

umask 077
mkdir -p secrets
chmod 700 secrets
cd secrets
days=365

# once FILE COMMAND...: writes a command's output to a file that does not exist yet.
once() {
    [ -e "$1" ] && return
    "${@:2}" >"$1.new"
    mv "$1.new" "$1"
}

# Without a line's end, which would be a part of the secret elsewhere.
word() { openssl rand -hex 24 | tr -d '\n'; }

once service-key openssl rand 32
once postgres-password word
once openbao-seal-key openssl rand 32
once openbao-secret-id word
once openbao-customer-token word

# --- certificates ------------------------------------------------------------------------

key() { openssl ecparam -name prime256v1 -genkey -noout; }

once ca.key key
if [ ! -e ca.crt ]; then
    printf '[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=ca\n[name]\nCN=Keyfold on this laptop\n' >ca.cnf
    printf '[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n' >>ca.cnf
    openssl req -x509 -new -key ca.key -days 3650 -config ca.cnf -out ca.crt
    rm ca.cnf
fi

# certificate NAME: for a service, as the others and this machine call it.
certificate() {
    once "$1.key" key
    printf '[req]\nprompt=no\ndistinguished_name=name\n[name]\nCN=%s\n' "$1" >"$1.cnf"
    printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\n' "$1" >"$1.ext"
    printf 'extendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\n' >>"$1.ext"
    printf 'authorityKeyIdentifier=keyid\nbasicConstraints=critical,CA:FALSE\n' >>"$1.ext"
    openssl req -new -key "$1.key" -config "$1.cnf" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" \
        -days $days -extfile "$1.ext" -out "$1.crt.new" 2>/dev/null
    mv "$1.crt.new" "$1.crt"
    rm "$1.cnf" "$1.ext" "$1.csr"
}

for service in keyfold console openbao; do certificate $service; done

# --- tokens, in the place of an identity provider ----------------------------------------

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

once jwt.key openssl genrsa 2048 2>/dev/null
hex=$(openssl rsa -in jwt.key -noout -modulus 2>/dev/null)
# shellcheck disable=SC2001  # every two digits become one byte
modulus=$(printf '%b' "$(sed 's/../\\x&/g' <<<"${hex#Modulus=}")" | base64url)
printf '{"keys": [{"kty": "RSA", "kid": "laptop", "use": "sig", "alg": "RS256", "e": "AQAB", "n": "%s"}]}\n' \
    "$modulus" >jwks.json.new
mv jwks.json.new jwks.json

now=$(date +%s)
# token SUBJECT [CLAIMS]
token() {
    local said
    said=$(printf '{"alg": "RS256", "typ": "JWT", "kid": "laptop"}' | base64url).$(printf \
        '{"iss": "laptop", "aud": "keyfold", "sub": "%s", "iat": %d, "exp": %d%s}' \
        "$1" "$now" $((now + days * 86400)) "${2:-}" | base64url)
    printf '%s.%s\n' "$said" "$(printf %s "$said" | openssl dgst -sha256 -sign jwt.key -binary | base64url)" \
        >"$1.jwt.new"
    mv "$1.jwt.new" "$1.jwt"
}

for caller in operator app relay; do token $caller; done
token customer ', "org": "acme"'

chmod 444 ./*
# Nobody but their owner may read these, in a container either.
chmod 600 service-key ca.key jwt.key
printf 'KEYFOLD_USER=%s:%s\n' "$(id -u)" "$(id -g)" >../.env
echo "made deploy/compose/secrets and deploy/compose/.env"
