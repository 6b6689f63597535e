"""The chart's promises, kept without a cluster: helm renders it, kubeconform reads what comes out.

What the manifests give to Keyfold's programs goes to those programs: settings, policy, the relay's
file and the commands of the Jobs.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import pages
from e2e.server import ROOT
from keyfold_relay.config.reading import load as load_relay
from keyfold_server.access.policy.watcher import read as read_policy
from keyfold_server.settings import load as load_settings
from keyfold_server.settings import unknown_variables

CHART: Final = ROOT / "deploy" / "helm" / "keyfold"
EXAMPLES: Final = sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))
PAGE: Final = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
BUILDS: Final = 900
"""Seconds that building helm may take, on a machine that has not built it yet."""

pytestmark = pytest.mark.timeout(BUILDS)

Manifest = dict[str, Any]


@functools.cache
def tools() -> Path:
    """Returns the folder of helm, kubeconform and schemas; skips without Go, except in CI."""
    script = ROOT / "scripts" / "kubernetes.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False, timeout=BUILDS)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word from the script"])[-1]
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(done.stdout.strip())


def helm(*arguments: str | Path, code: int = 0) -> str:
    """Runs helm, and returns what it prints."""
    done = subprocess.run(
        [tools() / "helm", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def kubeconform(folder: Path, manifests: str) -> str:
    """Returns what kubeconform says of manifests."""
    where = f"{folder}/schemas/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    done = subprocess.run(
        [folder / "kubeconform", "-strict", "-summary", "-schema-location", where, "-"],
        input=manifests,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


def rendered(values: Path, *arguments: str) -> str:
    """Returns the manifests, in namespace and release `keyfold`."""
    return helm("template", "keyfold", CHART, "-n", "keyfold", "-f", values, *arguments)


def read(text: str) -> list[Manifest]:
    """Returns the objects of manifests."""
    return [one for one in yaml.safe_load_all(text) if one]


@functools.cache
def _documented() -> dict[str, str]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip([e.stem for e in EXAMPLES], pool.map(rendered, EXAMPLES), strict=True))


def documented() -> dict[str, list[Manifest]]:
    """Returns the manifests of every example, by its name."""
    return {name: read(text) for name, text in _documented().items()}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yields the part and the spec of every pod."""
    for one in manifests:
        spec = one.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def found(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Returns one object."""
    (one,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return one


def environment(pod: Manifest) -> dict[str, str]:
    """Returns the variables of a pod's container."""
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"]}


def test_every_documented_combination_is_what_kubernetes_takes() -> None:
    """Lint has no complaint, and every object has the fields of its kind's schema and no other."""
    folder = tools()
    for example in EXAMPLES:
        helm("lint", "--strict", "--quiet", CHART, "-f", example)
    manifests = "\n---\n".join(_documented().values())
    assert "Invalid: 0, Errors: 0, Skipped: 0" in kubeconform(folder, manifests)
    # And it would say so.
    assert "Invalid: 4," in kubeconform(folder, manifests.replace("maxSurge:", "maxSurges:"))


@pytest.mark.parametrize("name", [example.stem for example in EXAMPLES])
def test_the_servers_take_their_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings and policy of every example are ones that a server reads, and drain in time."""
    manifests = documented()[name]
    server = dict(pods(manifests))["server"]
    given = environment(server)
    for setting, value in given.items():
        monkeypatch.setenv(setting, value)
    settings = tmp_path / "keyfold.toml"
    settings.write_text(found(manifests, "ConfigMap", "keyfold")["data"]["keyfold.toml"])
    monkeypatch.setenv("KEYFOLD_CONFIG", str(settings))
    loaded = load_settings()
    assert unknown_variables() == []
    container = server["containers"][0]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert server["terminationGracePeriodSeconds"] > pause + loaded.drain_grace
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert given["KEYFOLD_LISTEN"].endswith(f":{ports['grpc']}")
    assert given["KEYFOLD_METRICS"].endswith(f":{ports['metrics']}")
    if not any(m["metadata"]["name"] == "keyfold-policy" for m in manifests):
        return
    policy = tmp_path / "policy.toml"
    policy.write_text(found(manifests, "ConfigMap", "keyfold-policy")["data"]["policy.toml"])
    read_policy(policy)


def test_every_file_that_a_pod_names_is_mounted() -> None:
    """Every path in a pod's variables lies in a volume, and every mount has its volume."""
    for name, manifests in documented().items():
        for part, pod in pods(manifests):
            container = pod["containers"][0]
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            volumes = [volume["name"] for volume in pod["volumes"]]
            assert len(volumes) == len(set(volumes)), (name, part)
            assert {m["name"] for m in container["volumeMounts"]} == set(volumes), (name, part)
            for value in environment(pod).values() if "env" in container else ():
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


def test_only_what_needs_the_service_key_has_it() -> None:
    """The probe and the relay have neither the service key nor the server's private key."""
    for manifests in documented().values():
        for part, pod in pods(manifests):
            secrets = {
                v["secret"]["secretName"]: v["secret"] for v in pod["volumes"] if "secret" in v
            }
            assert ("keyfold-service-key" in secrets) == (part in {"server", "migrate", "export"})
            if part in {"probe", "relay"}:
                assert [i["key"] for i in secrets["keyfold-tls"]["items"]] == ["ca.crt"]


def test_the_relay_takes_its_file(tmp_path: Path) -> None:
    """The relay reads the file that the chart makes, and listens where it is probed."""
    manifests = documented()["vault"]
    file = tmp_path / "relay.toml"
    file.write_text(found(manifests, "ConfigMap", "keyfold-relay")["data"]["relay.toml"])
    load_relay(file)
    container = dict(pods(manifests))["relay"]["containers"][0]
    (port,) = container["ports"]
    assert f'monitoring = "0.0.0.0:{port["containerPort"]}"' in file.read_text()
    assert found(manifests, "Deployment", "keyfold-relay")["spec"]["strategy"]["type"] == "Recreate"


def test_the_schema_knows_the_values_of_the_reference() -> None:
    """values.yaml, the reference, and values.schema.json have the same names."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def names(value: Any, place: str) -> Iterator[str]:
        yield place
        for key, one in value.items() if isinstance(value, dict) else ():
            yield from names(one, f"{place}.{key}")

    def known(one: Any, place: str) -> Iterator[str]:
        yield place
        for key, under in one.get("properties", {}).items():
            yield from known(under, f"{place}.{key}")

    loose = re.compile(r"^\.(?:global$|(?:relay\.)?resources\.)")
    listed = {name for name in names(values, "") if not loose.match(name)}
    assert listed == {name for name in known(schema, "") if not loose.match(name)}


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


def test_the_alerts_are_those_that_are_tested() -> None:
    """The chart brings deploy/prometheus/keyfold.rules.yaml whole."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "keyfold.rules.yaml").read_text())
    assert found(documented()["aws"], "PrometheusRule", "keyfold")["spec"] == rules


def test_requests_come_from_the_measurement() -> None:
    """The memory that a server asks for is what bench/README.md measured, and the CPU, too."""
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    bench = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    wrap = re.search(r"\| Wrap, 4 x 16, tls \| keyfold on grpc \| ([\d.]+) ", bench)
    memory = re.search(r"20,000 / 25,000 clusters used \| \d+ / (\d+) MiB", bench)
    assert wrap is not None
    assert memory is not None
    resources = yaml.safe_load(values)["resources"]
    assert int(memory[1]) < int(resources["requests"]["memory"].removesuffix("Mi"))
    assert f"{memory[1]} MiB" in values
    assert 0.5 / (float(wrap[1]) / 1e6) > 1_250, "half a core no longer makes 1,300 calls a second"


BASE: Final = next(example for example in EXAMPLES if example.stem == "gcp")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("image.repository=", "image.repository: name the image"),
        ("image.tag=", "image.tag or image.digest"),
        ("replicas=0", "replicas"),
        ("replica=3", "replica"),
        ("store.url=sqlite:///keyfold.db", "store.url|/store/url"),
        ("store.url=postgresql://keyfold:secret@db/keyfold", "the password must not stand there"),
        ("serviceKey.secret.name=", "32 bytes of the service key"),
        ("tls.secret=", "tls.secret: name the Secret"),
        ("tls.clientAuth=false", "tls.clientAuth or tokens.issuer"),
        ("tokens.issuer=https://issuer", "tokens.jwksUrl or tokens.jwksConfigMap"),
        ("policyConfigMap=", "policy: say what each caller may do"),
        ("settings=listen = '0.0.0.0:1'", "settings: .*listen.* is set by a value of the chart"),
        ("drain.graceSeconds=601", "graceSeconds"),
        ("probe.cluster=prod", "probe.cluster|/probe/cluster"),
        ("export.enabled=true", "export.claim: name the PersistentVolumeClaim"),
        ("relay.enabled=true", "relay.targets: name the targets"),
        ("externalSecrets.enabled=true", "externalSecrets.storeRef.name"),
    ],
)
def test_a_wrong_value_is_refused(given: str, message: str) -> None:
    """Helm refuses a wrong value before anything reaches the cluster, and names it."""
    said = helm("template", "keyfold", CHART, "-f", BASE, "--set", given, code=1)
    assert re.search(message, said), said


def test_the_export_writes_and_removes(tmp_path: Path) -> None:
    """The CronJob's own command writes an export, and removes what is older than it says."""
    pod = dict(pods(documented()["aws"]))["export"]
    old, young = tmp_path / "keyfold-old.jsonl", tmp_path / "keyfold-young.jsonl"
    for file in (old, young):
        file.touch()
    os.utime(old, (0, 0))
    stand_in = tmp_path / "bin" / "keyfold-server"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\n[ "$1 $2" = "export --out" ] && : > "$3"\n')
    stand_in.chmod(0o755)
    subprocess.run(
        pod["containers"][0]["command"],
        env={"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "EXPORTS": str(tmp_path)},
        check=True,
        timeout=30,
    )
    left = {file.name for file in tmp_path.glob("*.jsonl")}
    assert old.name not in left
    assert young.name in left
    assert len(left) == 2


def test_the_probe_asks_every_address(tmp_path: Path) -> None:
    """The CronJob's own command resolves the Service, and checks certificates by its name."""
    pod = dict(pods(documented()["aws"]))["probe"]
    stand_in = tmp_path / "keyfold"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        pod["containers"][0]["command"],
        env={"PATH": path, "SERVERS": "localhost:7443", "CLUSTER": "keyfold-probe"},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    said = done.stdout.split()
    assert said[:3] == ["probe", "keyfold-probe", "--target"]
    assert "127.0.0.1:7443" in said[3].split(",")
    assert said[4:] == ["--server-name", "localhost"]


def test_a_change_of_the_migration_makes_another_job() -> None:
    """No upgrade changes a Job, which Kubernetes would refuse; another image has another Job."""

    def job(*given: str) -> Manifest:
        (one,) = [m for m in read(rendered(BASE, *given)) if m["kind"] == "Job"]
        return one

    same = job("--set", "replicas=5,drain.graceSeconds=60")
    assert same == job()
    others = [job("--set", given) for given in ("image.tag=0.2.0", "priorityClassName=high")]
    assert len({one["metadata"]["name"] for one in (same, *others)}) == 3


def test_the_page_names_what_exists() -> None:
    """Every value and file that docs/kubernetes.md names exists, and it names every example."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for name in re.findall(r"`([a-z]\w+(?:\.\w+)*)`", PAGE):
        if name.split(".")[0] in values and name not in {"tls.crt", "tls.key"}:
            place: Any = values
            for part in name.split("."):
                assert part in place, name
                place = place[part]
    for file in re.findall(r"deploy/[\w./-]+", PAGE):
        assert (ROOT / file.rstrip(".")).exists(), file
    for example in EXAMPLES:
        assert f"deploy/helm/examples/{example.name}" in PAGE, example.name
    for block in pages.fenced(PAGE, "yaml"):
        given = yaml.safe_load(block)
        if "apiVersion" not in given:
            assert set(given) <= set(values), block
