"""docs/kubernetes.md, followed on rendered manifests: what it names exists, what it runs runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml
from typer.main import get_command

import pages
from helm import (
    BUILDS,
    CHART,
    EXAMPLES,
    ROOT,
    documented,
    found,
    helm,
    kubeconform,
    pods,
    read,
)
from keyfold.cli.app import app as keyfold_cli
from keyfold_server.admin import app as server_cli

PAGE: Final = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
POD: Final = (ROOT / "deploy" / "helm" / "operator-pod.yaml").read_text(encoding="utf-8")
NOTES: Final = (CHART / "templates" / "NOTES.txt").read_text(encoding="utf-8")

PROGRAMS: Final = {"keyfold": keyfold_cli, "keyfold-server": server_cli}

pytestmark = pytest.mark.timeout(BUILDS)


def commands() -> list[str]:
    """Returns every command of the page, in its order: its indented blocks, and those in a line."""
    return [
        first or second
        for first, second in re.findall(
            r"(?m)^    (\S.*)$|`((?:kubectl|helm) [^`\n]*--[^`\n]*)`",
            re.sub(r"(?s)```.*?```", "", PAGE),
        )
    ]


def words(command: str, program: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yields the words and the options of each command of a program that stands in a line."""
    for one in re.findall(rf"\b{program} [^|;)]+", command):
        plain: list[str] = []
        options: dict[str, str] = {}
        given = iter(shlex.split(one.partition(" -- ")[0])[1:])
        for word in given:
            if word in {"--namespace", "--selector", "--filename", "--values"}:
                options[word] = next(given)
            elif word.startswith("-"):
                name, _, value = word.partition("=")
                options[name] = value
            else:
                plain.append(word)
        yield plain, options


def objects() -> set[tuple[str, str]]:
    """Returns kind, in lower case, and name of every object of the examples and of the page."""
    return {
        (one["kind"].lower(), one["metadata"]["name"])
        for manifests in (*documented().values(), read(POD))
        for one in manifests
    }


def test_every_command_is_one_that_a_shell_takes() -> None:
    """Each line is whole in itself, and the page has the commands of all its steps."""
    found = commands()
    assert len(found) > 20
    done = subprocess.run(
        ["bash", "-n"], input="\n".join(found), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    programs = {command.strip("(").split()[0] for command in found}
    assert {"docker", "kubectl", "cp", "helm"} <= programs


def test_every_kubectl_names_an_object_of_the_chart() -> None:
    """`kubectl … NAME` is an object of the chart, and a selector selects one of its pods."""
    parts = {part for manifests in documented().values() for part, _ in pods(manifests)}
    looked = 0
    for command in [*commands(), *re.findall(r"(?m)^ {4}(kubectl .*)$", _notes())]:
        for plain, options in words(command, "kubectl"):
            verb, *rest = plain
            # `create` and `label` concern what is not the chart's.
            if verb == "label":
                continue
            if verb != "create" or "job" in rest:
                named = [options["--from"]] if "--from" in options else rest
                for one in named:
                    if "/" in one:
                        kind, _, name = one.partition("/")
                        assert (kind, name) in objects(), command
                        looked += 1
            assert (ROOT / options.get("--filename", ".")).exists(), command
            if "--selector" in options:
                label, _, part = options["--selector"].partition("=")
                assert label == "app.kubernetes.io/component", command
                assert part in parts, command
                looked += 1
            assert options.get("--namespace", "keyfold") == "keyfold", command
    assert looked > 6


def _notes() -> str:
    """Returns the notes of an installation, for which helm need not ask a cluster."""
    text = re.sub(r"\{\{ \$name \}\}", "keyfold", NOTES)
    return re.sub(r"\{\{ \.Release\.Namespace \}\}", "keyfold", text)


def test_the_page_makes_what_the_examples_need() -> None:
    """What a pod mounts is the chart's, or made on the page, or named by a value that is there."""
    made = {
        name
        for command in commands()
        for plain, _ in words(command, "kubectl")
        if plain[0] == "create"
        for name in plain[2:]
    }
    assert {"keyfold-service-key", "keyfold-store-password", "keyfold-store-ca"} <= made
    for example, manifests in documented().items():
        values = yaml.safe_load((ROOT / f"deploy/helm/examples/{example}.yaml").read_text())
        known = made | {name for _, name in objects()}
        known |= {m["spec"]["secretName"] for m in manifests if m["kind"] == "Certificate"}
        for part, pod in pods(manifests):
            for volume in pod["volumes"]:
                name = (
                    volume.get("secret", {}).get("secretName")
                    or volume.get("configMap", {}).get("name")
                    or volume.get("persistentVolumeClaim", {}).get("claimName")
                )
                if name is not None and name not in known:
                    found = [path for path in _paths(values, name) if f"`{path}`" in PAGE]
                    assert found or f"`{name}`" in PAGE, (example, part, name)


def _paths(value: Any, name: str, place: str = "") -> Iterator[str]:
    """Yields the dotted path of every value that is a name, or a list with it."""
    if value == name or (isinstance(value, list) and name in value):
        yield place.lstrip(".")
    for key, under in value.items() if isinstance(value, dict) else ():
        yield from _paths(under, name, f"{place}.{key}")


def test_the_operators_pod() -> None:
    """Kubernetes takes it, its files are mounted, and the example's policy knows its name."""
    assert "Invalid: 0, Errors: 0, Skipped: 0" in kubeconform(POD)
    manifests = read(POD)
    certificate = found(manifests, "Certificate", "keyfold-operator")["spec"]
    pod = found(manifests, "Pod", "keyfold-operator")["spec"]
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == certificate["secretName"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    for one in container["env"]:
        assert one["name"] == "KEYFOLD_TARGET" or one["value"].startswith(mount["mountPath"])
    policy = found(documented()["aws"], "ConfigMap", "keyfold-policy")["data"]["policy.toml"]
    assert certificate["uris"][0] in policy
    service = found(documented()["aws"], "Service", "keyfold")
    target = f"{service['metadata']['name']}.keyfold.svc:{service['spec']['ports'][0]['port']}"
    assert container["env"][0]["value"] == target


def test_the_commands_of_keyfold_exist() -> None:
    """What runs in a pod is a command of a program in the image, with options that it has."""
    looked = 0
    for command in commands():
        program, _, rest = command.partition(" -- ")[2].partition(" ")
        if program in PROGRAMS:
            given = shlex.split(rest)
            found_command = get_command(PROGRAMS[program])
            verb = found_command.get_command(  # type: ignore[attr-defined]
                typer.Context(found_command), given[0]
            )
            assert verb is not None, command
            verb.make_context(given[0], given[1:])
            looked += 1
    assert looked > 3


def test_helm_takes_every_command(tmp_path: Path) -> None:
    """The commands that need no cluster run; the others come as far as asking for one."""
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    ran = 0
    for command in commands():
        if command.startswith("cp "):
            subprocess.run(shlex.split(command), cwd=tmp_path, check=True, timeout=10)
        if command.startswith("helm "):
            given = [
                str(tmp_path / word) if (tmp_path / word).exists() else word
                for word in shlex.split(command)[1:]
            ]
            if given[0] == "template":
                assert "kind: Deployment" in helm(*given)
            else:
                nowhere = ["--kubeconfig", str(tmp_path / "none")]
                assert "cluster unreachable" in helm(*given, *nowhere, code=1), command
            ran += 1
    assert ran >= 4


def test_the_image_is_one_that_the_dockerfile_makes() -> None:
    """What `docker build` gets as an argument is an argument of the Dockerfile."""
    built = [command for command in commands() if command.startswith("docker build")]
    assert built
    for command in built:
        for name in re.findall(r"--build-arg (\w+)=", command):
            assert f"\nARG {name}=" in DOCKERFILE


def test_the_page_names_what_exists() -> None:
    """Every value and file that the page names exists, and it names every example."""
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
