#!/usr/bin/env bash
# sbom.sh VERSION SITE_PACKAGES FILE...: prints a release's list of parts. scripts/sbom.py does it, in an
# environment of its own, so that the packages that it needs are not in everybody's.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

locked_env sbom
exec "$env/bin/python" "$root/scripts/sbom.py" "$@"
