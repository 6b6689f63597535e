#!/usr/bin/env bash
# Prints a folder with helm, kubeconform and schemas/, with which tests check the chart. Builds the two
# programs, and takes the schemas from the OpenAPI file of Kubernetes and from the custom resources of
# cert-manager, External Secrets and the Prometheus operator, all from Go modules. Without Go it prints
# why and ends with exit code 3.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

helm=v3.19.2
kubeconform=v0.7.0
# Where a module has what kubeconform needs to know: MODULE@VERSION FILE
schemas='k8s.io/kubernetes@v1.34.2 api/openapi-spec/swagger.json
github.com/cert-manager/cert-manager@v1.19.1 deploy/crds/cert-manager.io_certificates.yaml
github.com/external-secrets/external-secrets@v0.20.4 config/crds/bases/external-secrets.io_externalsecrets.yaml
github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml
github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml'

program=$root/.venv/bin/python
[ -x "$program" ] || without "run make venv first, because reading the schemas needs its PyYAML"
folder=$cache/kubernetes-$(digest "${BASH_SOURCE[0]}" "$root/scripts/kubernetes_schemas.py")

# read_schemas MODULE@VERSION FILE: writes the schemas that a file of a Go module has.
read_schemas() {
    local place
    (cd "$tmp" && GOFLAGS=-mod=mod go mod download -json "$1" >"$tmp/module.json") &&
        place=$("$program" -c 'import json, sys; print(json.load(open(sys.argv[1]))["Dir"])' "$tmp/module.json") &&
        "$program" "$root/scripts/kubernetes_schemas.py" "$place/$2" "$tmp/made/schemas"
}

if [ ! -e "$folder" ]; then
    need go Go
    scratch
    echo "building helm and kubeconform in $folder (once, a few minutes)" >&2
    mkdir -p "$tmp/made/schemas"
    # Without these flags helm takes the cluster that it renders for to be Kubernetes 1.20.
    version=helm.sh/helm/v3/pkg/chartutil.k8sVersion
    flags="-X ${version}Major=1 -X ${version}Minor=34"
    for one in "github.com/yannh/kubeconform/cmd/kubeconform@$kubeconform" "helm.sh/helm/v3/cmd/helm@$helm"; do
        get "Go could not build them" go_install "$tmp/made" -ldflags "$flags" "$one"
    done
    while read -r module file; do
        get "Go could not get the schemas" read_schemas "$module" "$file"
    done <<<"$schemas"
    keep "$tmp/made" "$folder"
fi
echo "$folder"
