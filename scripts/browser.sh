#!/usr/bin/env bash
# browser.sh chromium    prints the path of Chromium, from Debian's package, with which tests open the
#                        console and `make pictures` photographs it
# browser.sh axe         prints the path of axe-core's script, which looks for pages that a person with
#                        a screen reader or without a mouse could not use
# Installs it first if needed. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

name=${1:?give a name, chromium or axe}

without() {
    if in_ci; then
        echo "$name: $1, and CI needs it" >&2
        exit 1
    fi
    echo "$name: $1; the tests that need it are skipped" >&2
    exit 3
}

chromium() {
    # Not the script beside it in /usr/bin, which starts other programs first.
    local program=/usr/lib/chromium/chromium
    if [ ! -x $program ]; then
        command -v apt-get >/dev/null || without "$program does not exist, and neither does apt-get"
        [ "$(id -u)" = 0 ] || without "$program does not exist; run as root: apt-get install chromium"
        scratch
        echo "installing chromium" >&2
        {
            apt-get update || true
            # The fonts: a minimal machine has none, and a page would be shown without letters.
            DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
                chromium fonts-dejavu-core
        } >"$tmp/log" 2>&1 || true
        [ -x $program ] || { tail -n 20 "$tmp/log" >&2; without "apt-get install failed"; }
    fi
    echo $program
}

axe() {
    local sources=$root/tests/axe folder
    folder=$cache/axe-$(digest "$sources/package-lock.json")
    if [ ! -e "$folder" ]; then
        command -v npm >/dev/null || without "npm is not installed"
        scratch
        echo "installing axe-core in $folder" >&2
        mkdir "$tmp/made"
        cp "$sources"/package*.json "$sources/.npmrc" "$tmp/made/"
        (cd "$tmp/made" && npm ci --ignore-scripts --no-audit --no-fund >"$tmp/log" 2>&1) ||
            { cat "$tmp/log" >&2; without "npm ci failed"; }
        keep "$tmp/made" "$folder"
    fi
    echo "$folder/node_modules/axe-core/axe.min.js"
}

case $name in
chromium) chromium ;;
axe) axe ;;
*)
    echo "browser: there is no $name" >&2
    exit 2
    ;;
esac
