"""What a started server offers, beside what the catalog says; a third party's provider in use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from acme_row import TYPE, AcmeCounterpart
from e2e.conftest import StartServer
from e2e.server import Server
from e2e.wire import refused, spec, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.bootstrap.providers import catalog
from keyfold_server.providers.catalog import installed
from keyfold_server.settings import Settings

_REGION: Final = "acme-eu"


@pytest.fixture
def acme(tmp_path: Path) -> Iterator[AcmeCounterpart]:
    """Acme KMS, whose provider is installed in this environment as a third party's package."""
    there = AcmeCounterpart(tmp_path)
    yield there
    there.close()


def _start(start_server: StartServer, acme: AcmeCounterpart, *lines: str) -> Server:
    """Starts a server whose settings file has Acme's table, and these lines before it."""
    server = start_server(ready=False, KEYFOLD_CACHE_TTL="0s")
    file = server.folder / "keyfold.toml"
    table = [f"{name} = {json.dumps(value)}" for name, value in acme.table.items()]
    file.write_text("\n".join([*lines, "[providers.acme_kms]", *table, ""]))
    server.settings["KEYFOLD_CONFIG"] = str(file)
    server.start()
    return server


def test_a_server_offers_what_the_catalog_says(
    start_server: StartServer, acme: AcmeCounterpart
) -> None:
    """Every installed provider is served, and an unknown type is answered with all of them."""
    server = _start(start_server, acme)
    types = catalog(
        Settings(
            store="sqlite:///unused.db", local_keys=server.keys, providers={"acme_kms": acme.table}
        )
    ).types()
    always = {name for name, entry in installed().items() if not entry.only_if_set_up}
    assert set(types) == always | {"LOCAL", TYPE}
    with stubs(server.target) as stub:
        for type_ in types:
            wish = pb.EnableRequest(cluster="c", region_specs=[spec("eu", "no key's uri", type_)])
            assert refused(stub.Enable, wish).reason == "INVALID_KEY_SPEC"
        wish = pb.EnableRequest(cluster="c", region_specs=[spec("eu", "x", "NO_SUCH")])
        refusal = refused(stub.Enable, wish)
        assert refusal.reason == "UNKNOWN_PROVIDER"
        assert refusal.message.endswith(f"the types are: {', '.join(types)}")


def test_a_provider_without_its_settings_is_not_offered(start_server: StartServer) -> None:
    """A package that is installed and not set up neither stops the server nor appears in a list."""
    server = start_server()
    with stubs(server.target) as stub:
        wish = pb.EnableRequest(cluster="c", region_specs=[spec("eu", "x", TYPE)])
        refusal = refused(stub.Enable, wish)
        assert refusal.reason == "UNKNOWN_PROVIDER"
        types = refusal.message.partition("the types are")[2]
        assert TYPE not in types
        assert "PLATFORM" not in types


def test_a_misspelt_platform_is_told_the_types(start_server: StartServer) -> None:
    """Keyfold looks at the type before the uri, and lists PLATFORM where it is configured."""
    server = start_server(keys=("eu",), KEYFOLD_PLATFORM_KEY="local:eu")
    with stubs(server.target) as stub:
        key = res.KeySpec(type="PLATFROM")
        wish = pb.EnableRequest(
            cluster="c", region_specs=[res.RegionSpec(region="eu", key_spec=key)]
        )
        refusal = refused(stub.Enable, wish)
        assert refusal.reason == "UNKNOWN_PROVIDER"
        assert "PLATFORM" in refusal.message.partition("the types are")[2]
        wish.region_specs[0].key_spec.type = "PLATFORM"
        assert stub.Enable(wish, timeout=9).status.cluster == "c"


def test_a_third_partys_provider_in_use(start_server: StartServer, acme: AcmeCounterpart) -> None:
    """Keys of a third party's KMS wrap, refuse, and have regions and PLATFORM keys as others do."""
    key, vendors = acme.create_key(), acme.create_key()
    host = key.uri.split("/")[2]
    server = _start(
        start_server,
        acme,
        f"platform_key = {json.dumps(vendors.uri)}",
        'residency = "require"',
        f"regions = {{ {_REGION} = {{ {TYPE} = {json.dumps(host)} }} }}",
    )
    with stubs(server.target) as stub:
        elsewhere = pb.EnableRequest(cluster="c", region_specs=[spec("eu", key.uri, TYPE)])
        assert refused(stub.Enable, elsewhere).reason == "KEY_ELSEWHERE"
        wish = pb.EnableRequest(
            cluster="theirs", region_specs=[spec(_REGION, key.uri.replace("https", "HTTPS"), TYPE)]
        )
        stub.Enable(wish, timeout=9)
        wrap = pb.WrapRequest(cluster="theirs", region=_REGION, plaintext=b"k" * 32)
        wrapped = stub.Wrap(wrap, timeout=9).wrapped_key
        unwrap = pb.UnwrapRequest(cluster="theirs", wrapped_key=wrapped)
        assert stub.Unwrap(unwrap, timeout=9).plaintext == b"k" * 32
        acme.disable(key)
        assert refused(stub.Unwrap, unwrap).reason == "KEY_DISABLED"

        ours = pb.EnableRequest(
            cluster="ours",
            region_specs=[res.RegionSpec(region=_REGION, key_spec=res.KeySpec(type="PLATFORM"))],
        )
        stub.Enable(ours, timeout=9)
        acme.disable(vendors)
        wrap = pb.WrapRequest(cluster="ours", region=_REGION, plaintext=b"k" * 32)
        assert refused(stub.Wrap, wrap).reason == "KEY_DISABLED"
