"""What helm makes of the chart: manifests that Kubernetes takes, with the least rights."""

from __future__ import annotations

import re

import pytest
import yaml

from helm import (
    BASE,
    BUILDS,
    CHART,
    EXAMPLES,
    ROOT,
    Manifest,
    documented,
    environment,
    found,
    helm,
    kubeconform,
    pods,
    read,
    rendered,
    texts,
)

pytestmark = pytest.mark.timeout(BUILDS)

EVERYTHING = (
    *("relay.enabled=true", "relay.targets=[targets.out]", "probe.enabled=true"),
    *("export.enabled=true", "export.claim=exports", "serviceMonitor.enabled=true"),
    *("prometheusRule.enabled=true", "bindAddress=[::]", "console.enabled=true"),
    *("console.tlsSecret=web", "tokens.issuer=https://issuer", "tokens.jwksConfigMap=jwks"),
    "relay.serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn=arn:aws:iam::1:role/relay",
    "relay.metadataAddresses={169.254.170.23/32}",
)
"""What no example has, or not in this combination."""


def everything() -> str:
    """Returns the manifests with every option, on a cluster whose pods have IPv6 addresses."""
    return rendered(BASE, *(word for one in EVERYTHING for word in ("--set", one)))


def test_every_documented_combination_is_what_kubernetes_takes() -> None:
    """Lint has no complaint, and every object has the fields of its kind's schema and no other."""
    for example in EXAMPLES:
        helm("lint", "--strict", "--quiet", CHART, "-f", example)
    manifests = "\n---\n".join([*texts().values(), everything()])
    assert "Invalid: 0, Errors: 0, Skipped: 0" in kubeconform(manifests)
    # And it would say so.
    broken = kubeconform(manifests.replace("maxSurge:", "maxSurges:"))
    assert f"Invalid: {manifests.count('maxSurge:')}," in broken


def test_no_object_is_there_twice() -> None:
    """Each object of a release has a kind and name of its own, and is of the release's labels."""
    for manifests in (*documented().values(), read(everything())):
        names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
        assert len(names) == len(set(names))
        for one in manifests:
            assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "keyfold", one


def test_every_file_that_a_pod_names_is_mounted() -> None:
    """Every path in a pod's variables lies in a volume, and every mount has its volume."""
    for name, manifests in documented().items():
        for part, pod in pods(manifests):
            container = pod["containers"][0]
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            volumes = [volume["name"] for volume in pod["volumes"]]
            assert len(volumes) == len(set(volumes)), (name, part)
            assert {m["name"] for m in container["volumeMounts"]} == set(volumes), (name, part)
            for value in environment(pod).values():
                for path in re.findall(r"(?:^|=)(/[^?&]+)", value):
                    assert any(path == m or path.startswith(f"{m}/") for m in mounts), (part, path)


def test_nothing_runs_as_root_or_writes_outside_of_its_volumes() -> None:
    """Every pod of every example is one that the restricted pod security standard takes."""
    for manifests in documented().values():
        for part, pod in pods(manifests):
            assert pod["securityContext"]["runAsNonRoot"], part
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["enableServiceLinks"] is pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                context = container["securityContext"]
                assert context["readOnlyRootFilesystem"]
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert container["resources"]["requests"].keys() == {"cpu", "memory"}
                assert "memory" in container["resources"]["limits"], part


def test_only_what_needs_the_service_key_has_it() -> None:
    """The probe, the relay and the console have neither the service key nor the server's own."""
    for manifests in documented().values():
        for part, pod in pods(manifests):
            secrets = {
                v["secret"]["secretName"]: v["secret"] for v in pod["volumes"] if "secret" in v
            }
            assert ("keyfold-service-key" in secrets) == (part in {"server", "migrate", "export"})
            if part in {"probe", "relay", "console"}:
                assert [i["key"] for i in secrets["keyfold-tls"]["items"]] == ["ca.crt"]


def test_every_pod_has_a_network_policy() -> None:
    """No pod is reachable by all, and none reaches everything: one policy selects each of them."""

    def selects(policy: Manifest, labels: dict[str, str]) -> bool:
        selector = policy["spec"]["podSelector"]
        return all(labels[k] == v for k, v in selector["matchLabels"].items()) and all(
            labels[one["key"]] in one["values"] for one in selector.get("matchExpressions", ())
        )

    for manifests in (*documented().values(), read(everything())):
        policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
        for part, _ in pods(manifests):
            labels = {
                "app.kubernetes.io/name": "keyfold",
                "app.kubernetes.io/instance": "keyfold",
                "app.kubernetes.io/component": part,
            }
            (policy,) = [one for one in policies if selects(one, labels)]
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_workload_identity() -> None:
    """Each cloud finds on the service account what its own documentation names."""
    named: dict[str, str] = {}
    for cloud in ("aws", "azure", "gcp"):
        account = found(documented()[cloud], "ServiceAccount", "keyfold")
        named |= account["metadata"]["annotations"]
    assert set(named) == {
        "eks.amazonaws.com/role-arn",
        "azure.workload.identity/client-id",
        "azure.workload.identity/tenant-id",
        "iam.gke.io/gcp-service-account",
    }
    deployment = found(documented()["azure"], "Deployment", "keyfold")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["azure.workload.identity/use"] == "true"
    # The relay writes to buckets as somebody else than the servers, who call the customers' KMSs.
    relay = found(read(everything()), "ServiceAccount", "keyfold-relay")
    assert relay["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/relay"
    }


def test_the_alerts_are_those_that_are_tested() -> None:
    """The chart brings deploy/prometheus/keyfold.rules.yaml whole."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "keyfold.rules.yaml").read_text())
    assert found(documented()["aws"], "PrometheusRule", "keyfold")["spec"] == rules
