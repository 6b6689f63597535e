"""The console of the chart: it takes its options, and has no rights of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml
from typer.main import get_command

from helm import BASE, BUILDS, ROOT, Manifest, documented, found, pods, read, rendered
from keyfold.transport.tls import Tls
from keyfold_console.command import app
from keyfold_console.settings import Settings

pytestmark = pytest.mark.timeout(BUILDS)

ITSELF: Final = (
    *("console.enabled=true", "console.tlsSecret=web", "console.embed={https://portal.example}"),
    *("tokens.issuer=https://issuer.example", "tokens.jwksConfigMap=jwks", "bindAddress=[::]"),
)
"""A console that ends TLS itself."""


def by_itself() -> list[Manifest]:
    """Returns the manifests with a console that ends TLS itself."""
    return read(rendered(BASE, *(word for one in ITSELF for word in ("--set", one))))


def options(manifests: list[Manifest]) -> dict[str, Any]:
    """Returns the options of the console's command, as the program itself reads them."""
    program, verb, *words = dict(pods(manifests))["console"]["containers"][0]["command"]
    assert program == "keyfold-console"
    command = get_command(app)
    context = typer.Context(command)
    run = command.get_command(context, verb)  # type: ignore[attr-defined]
    params: dict[str, Any] = run.make_context(verb, words).params
    return params


@pytest.mark.parametrize("proxy", [True, False])
def test_it_takes_its_options(*, proxy: bool) -> None:
    """The console starts with the chart's options: TLS at the pod, or at a proxy that is named."""
    manifests = documented()["console"] if proxy else by_itself()
    given = options(manifests)
    settings = Settings(
        target=given["target"],
        tls=Tls(given["ca"], given["cert"], given["key"]),
        listen=given["listen"],
        certificate=given["tls_cert"],
        private_key=given["tls_key"],
        behind_proxy=given["behind_proxy"],
        embed=tuple(given["embed"] or ()),
    )
    assert settings.secure
    assert not settings.without_token
    container = dict(pods(manifests))["console"]["containers"][0]
    (port,) = container["ports"]
    assert settings.address[1] == port["containerPort"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == ("HTTP" if proxy else "HTTPS")
    mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
    for file in (given["ca"], given["cert"], given["key"], given["tls_cert"], given["tls_key"]):
        assert file is None or file.parent in mounts


def test_browsers_reach_it_by_tls_alone() -> None:
    """The Ingress ends TLS for its host, and leads to the Service, which leads to the pods."""
    manifests = documented()["console"]
    ingress = found(manifests, "Ingress", "keyfold-console")["spec"]
    (tls,) = ingress["tls"]
    (rule,) = ingress["rules"]
    assert tls["hosts"] == [rule["host"]]
    service = rule["http"]["paths"][0]["backend"]["service"]
    made = found(manifests, "Service", service["name"])["spec"]
    assert service["port"]["name"] == made["ports"][0]["name"]
    labels = found(manifests, "Deployment", "keyfold-console")["spec"]["template"]["metadata"]
    assert made["selector"].items() <= labels["labels"].items()


def test_it_has_no_rights_of_its_own() -> None:
    """It has no token, and the example's policy does not name its certificate."""
    manifests = documented()["console"]
    pod = dict(pods(manifests))["console"]
    assert not any("projected" in volume for volume in pod["volumes"])
    certificate = found(manifests, "Certificate", "keyfold-console")["spec"]
    (name,) = certificate["uris"]
    assert name.endswith("/sa/keyfold-console")
    values = yaml.safe_load((ROOT / "deploy/helm/examples/console.yaml").read_text())
    assert name not in values["policy"]


def test_programs_of_the_chart_never_bring_tokens_of_another_issuer() -> None:
    """With an identity provider as the issuer, the relay proves itself by its certificate alone."""
    manifests = documented()["console"]
    file = found(manifests, "ConfigMap", "keyfold-relay")["data"]["relay.toml"]
    assert "cert =" in file
    assert "token_file" not in file
    assert not any("projected" in v for v in dict(pods(manifests))["relay"]["volumes"])
