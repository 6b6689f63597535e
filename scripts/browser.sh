#!/usr/bin/env bash
# browser.sh chromium    prints the path of Chromium, from Debian's package, with which tests open the
#                        console and `make pictures` photographs it
# browser.sh axe         prints the path of axe-core's script, which looks for pages that a person with
#                        a screen reader or without a mouse could not use
# Installs it first if needed. If it cannot, it prints why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tool=${1:?give a name, chromium or axe}

chromium() {
    # Not the script beside it in /usr/bin, which starts other programs first.
    local program=/usr/lib/chromium/chromium
    # The fonts: a minimal machine has none, and a page would be shown without letters.
    debian $program chromium fonts-dejavu-core
    echo $program
}

axe() {
    local sources=$root/tests/axe folder
    folder=$cache/axe-$(digest "$sources/package-lock.json")
    if [ ! -e "$folder" ]; then
        need npm npm
        scratch
        echo "installing axe-core in $folder" >&2
        get "npm ci failed" npm_ci "$sources" "$tmp/made"
        keep "$tmp/made" "$folder"
    fi
    echo "$folder/node_modules/axe-core/axe.min.js"
}

case $tool in
chromium) chromium ;;
axe) axe ;;
*)
    echo "browser: there is no $tool" >&2
    exit 2
    ;;
esac
