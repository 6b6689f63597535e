"""The chart's values: a reference that is whole, and refusals that name what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from helm import BASE, BUILDS, CHART, helm

pytestmark = pytest.mark.timeout(BUILDS)


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

    loose = re.compile(r"^\.(?:global$|(?:\w+\.)?resources\.)")
    listed = {name for name in names(values, "") if not loose.match(name)}
    assert listed == {name for name in known(schema, "") if not loose.match(name)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("image.repository=", "image.repository: name the image"),
        ("image.tag=", "image.tag or image.digest"),
        ("replicas=0", "replicas"),
        ("replica=3", "replica"),
        ("store.url=sqlite:///keyfold.db", "store.url|/store/url"),
        ("store.url=postgresql://keyfold:secret@db/keyfold", "the password must not stand in a"),
        ("store.listenUrl=postgresql://db/k?password=s", "the password must not stand in a url"),
        ("serviceKey.secret.name=", "32 bytes of the service key"),
        ("tls.secret=", "tls.secret: name the Secret"),
        ("tls.clientAuth=false", "tls.clientAuth or tokens.issuer"),
        ("tokens.issuer=https://issuer", "tokens.jwksUrl or tokens.jwksConfigMap"),
        ("policyConfigMap=", "policy: say what each caller may do"),
        ("settings=listen = '0.0.0.0:1'", "settings: .*listen.* is set by a value of the chart"),
        ("extraEnv[0].name=KEYFOLD_POLICY", "extraEnv: KEYFOLD_POLICY is set by a value"),
        ("drain.graceSeconds=601", "graceSeconds"),
        ("bindAddress=127.0.0.1", "bindAddress"),
        ("probe.cluster=prod", "probe.cluster|/probe/cluster"),
        ("export.enabled=true", "export.claim: name the PersistentVolumeClaim"),
        ("relay.enabled=true", "relay.targets: name the targets"),
        ("externalSecrets.enabled=true", "externalSecrets.storeRef.name"),
        ("console.enabled=true", "tokens.issuer: the console's visitors"),
        ("serves={*,eu}", "serves: [*] stands for every region"),
        ("serves={eu us}", "serves/0|serves.0"),
        ("servedAt.eu=https://eu.example", "servedAt.eu|/servedAt/eu"),
        ("settings=[served_at]", "settings: .*served_at.* is set by the value servedAt"),
        ("settings=serves = 'eu'", "settings: .*serves.* is set by a value of the chart"),
        ("console.embed={portal.example}", "console.embed|/console/embed"),
        ("resources.requests.cpu=banana", "resources.requests.cpu|/resources/requests/cpu"),
        # Without ports a rule of a NetworkPolicy would let servers connect to any port.
        ("networkPolicy.egressPorts=null", "/networkPolicy.*egressPorts"),
        ("serves=null", "missing property 'serves'"),
        ("tls=null", "missing property 'tls'"),
    ],
)
def test_a_wrong_value_is_refused(given: str, message: str) -> None:
    """Helm refuses a wrong value before anything reaches the cluster, and names it."""
    said = helm("template", "keyfold", CHART, "-f", BASE, "--set", given, code=1)
    assert re.search(message, said), said
