"""The catalog of providers: one way in, each key uri one provider's, each made on first use."""

from __future__ import annotations

import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fakes
from checked import faults
from fakes import FakeProvider
from keyfold_server.bootstrap import regions
from keyfold_server.bootstrap.providers import catalog, key_names
from keyfold_server.domain.errors import SetupError, UnknownProviderError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers import catalog as catalog_module
from keyfold_server.providers.catalog import Catalog, installed
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.providers.shared.patterns import UriPattern
from keyfold_server.settings import Settings

ROOT: Final = Path(__file__).parents[2]
OWN: Final = ("AWS_KMS", "AZURE_KEY_VAULT", "GCP_CLOUD_KMS", "LOCAL", "VAULT_TRANSIT")
SET_UP: Final[dict[str, Any]] = {
    "local_keys": Path("keys.json"),
    "providers": {
        "aws": {"session_name": "k"},
        "gcp": {"endpoint": "kms.example"},
        "azure": {"instance_discovery": False},
    },
    "vault": {"https://vault.example:8200": {"auth": "token", "credential": "/nowhere"}},
}
"""Settings that set every provider of Keyfold's own up."""

ENDPOINT: Final = "https://kms.example:8443"
ENTRIES: Final = {type_: each for type_, each in installed().items() if type_ in OWN}


def entry(make: Callable[[], KeyProvider] = FakeProvider, **told: Any) -> Entry:
    """Returns the entry of a provider that needs no settings."""
    return Entry(make=lambda _: make(), example="fake:NAME", **told)


@pytest.fixture
def own() -> Catalog:
    """The catalog of Keyfold's own providers, with one allowed endpoint."""
    return Catalog(ENTRIES, lambda _: Setup(allowed_endpoints=(ENDPOINT,)))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs packages beside Keyfold: an entry, or the text of an entry point, by type."""
    points = list(entry_points(group=catalog_module.ENTRY_POINTS))
    points = [point for point in points if point.name in OWN]

    def install(*added: tuple[str, Entry | str]) -> None:
        for number, (type_, what) in enumerate(added):
            value = what
            if isinstance(what, Entry):
                value = f"fakes:entry_{number}"
                monkeypatch.setattr(fakes, f"entry_{number}", what, raising=False)
            points.append(EntryPoint(type_, str(value), catalog_module.ENTRY_POINTS))
        monkeypatch.setattr(catalog_module, "entry_points", lambda group: points)

    return install


def settings(**values: Any) -> Settings:
    """Returns settings with these values, whatever the environment holds."""
    return Settings(store="sqlite:///unused.db", **values)


# Making providers


def test_a_provider_is_made_once_on_first_use() -> None:
    """Sixteen first callers at once get one and the same provider; nobody else's is made."""
    made: list[KeyProvider] = []
    start = threading.Barrier(16)

    def make() -> KeyProvider:
        made.append(FakeProvider())
        return made[-1]

    def ask(_: int) -> KeyProvider:
        start.wait(timeout=10)
        return made_by.provider("FAKE")

    made_by = Catalog({"FAKE": entry(make), "OTHER": entry()})
    assert not made
    with ThreadPoolExecutor(16) as pool:
        assert set(map(id, pool.map(ask, range(16)))) == {id(made_by.provider("FAKE"))}
    assert len(made) == 1


def test_one_provider_in_the_making_holds_up_no_other() -> None:
    """A slow import of one SDK does not delay calls to another provider."""
    release = threading.Event()

    def slow() -> KeyProvider:
        assert release.wait(timeout=10)
        return FakeProvider()

    catalog = Catalog({"SLOW": entry(slow), "FAKE": entry()})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(catalog.provider, "SLOW")
        assert isinstance(catalog.provider("FAKE"), FakeProvider)
        release.set()
        assert isinstance(waiting.result(timeout=10), FakeProvider)


def test_an_unknown_type_lists_those_that_exist() -> None:
    """A typing error is answered with the types to choose from, and the field."""
    catalog = Catalog({"B": entry(), "A": entry()})
    assert catalog.types() == ("A", "B")
    with pytest.raises(UnknownProviderError, match="A, B") as raised:
        catalog.provider("C")
    assert raised.value.field == "key_spec.type"


def test_a_platform_key_makes_platform_a_type() -> None:
    """Where the settings name the vendor's own key, the list of types has PLATFORM."""
    catalog = Catalog({"Q": entry(), "A": entry()}, platform=True)
    with pytest.raises(UnknownProviderError, match=r"the types are: A, PLATFORM, Q$"):
        catalog.provider("PLATFROM")
    assert catalog.types() == ("A", "Q")


def test_a_missing_package_breaks_its_own_provider_only() -> None:
    """Where an SDK is not installed, its type says so, and the others serve; it is tried anew."""
    attempts: list[int] = []

    def missing() -> KeyProvider:
        attempts.append(1)
        raise ModuleNotFoundError("no", name="the_sdk")

    catalog = Catalog({"MISSING": entry(missing, install="the-package[extra]"), "FAKE": entry()})
    for _ in range(2):
        with pytest.raises(UnknownProviderError, match=r"the_sdk.* install the-package\[extra\]"):
            catalog.provider("MISSING")
    assert len(attempts) == 2
    assert isinstance(catalog.provider("FAKE"), FakeProvider)


def test_a_broken_sdk_breaks_its_own_provider_only() -> None:
    """Whatever an SDK raises when it is imported, its type says so, and shows none of the text."""

    def broken() -> KeyProvider:
        raise AttributeError("secret")

    catalog = Catalog({"BROKEN": entry(broken, install="keyfold[x]"), "FAKE": entry()})
    with pytest.raises(UnknownProviderError, match=r"AttributeError.*keyfold\[x\]") as raised:
        catalog.provider("BROKEN")
    assert "secret" not in raised.value.message
    assert isinstance(catalog.provider("FAKE"), FakeProvider)


# One way in


def test_the_entry_points_are_the_table() -> None:
    """The installed entry points are those of pyproject.toml, and each makes its provider."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = project["entry-points"][catalog_module.ENTRY_POINTS]
    assert tuple(sorted(named)) == OWN
    assert set(OWN) <= installed().keys()
    extras = project["optional-dependencies"]
    for type_ in OWN:
        install = installed()[type_].install
        assert not install or install.removeprefix("keyfold[").removesuffix("]") in extras
    made = catalog(settings(**SET_UP))
    assert set(OWN) <= set(made.types())
    for type_ in OWN:
        assert made.provider(type_).account is not None
    assert isinstance(made.provider("LOCAL"), LocalProvider)


def test_entries_do_not_import_an_sdk() -> None:
    """Every entry loads where no SDK is installed, so a missing one takes out its own provider."""
    code = (
        "import sys; from keyfold_server.providers.catalog import installed; installed();"
        "print(sorted({'boto3', 'botocore', 'azure.identity', 'google.cloud', 'hvac', 'requests'}"
        " & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_local_is_there_once_it_has_a_key_file() -> None:
    """Without its key file there is no type LOCAL; most others are there without settings."""
    hidden = {type_ for type_ in OWN if ENTRIES[type_].only_if_set_up}
    assert "LOCAL" in hidden
    assert set(catalog(settings()).types()) & set(OWN) == set(OWN) - hidden


def test_a_provider_that_does_not_load_does_not_stop_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names a provider that lacks its SDK at the start; the server starts without it."""

    def missing() -> KeyProvider:
        raise ModuleNotFoundError("no", name="the_sdk")

    made = Catalog({"FAKE": entry(missing, only_if_set_up=True)})
    made.start()
    assert "the_sdk" in caplog.text
    absent = entry(only_if_set_up=True, is_set_up=lambda _: False, check=lambda _: 1 / 0)
    assert Catalog({"ABSENT": absent}).types() == ()


def test_a_package_that_breaks_on_its_settings_is_named() -> None:
    """A package whose check fails in its own code stops the start with its type, no traceback."""
    with pytest.raises(SetupError, match=r"FAKE cannot read its settings \(ZeroDivisionError\)"):
        Catalog({"FAKE": entry(check=lambda _: 1 / 0)})


def test_what_the_settings_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider is set up by its table, its sections or its own setting."""
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    assert not set(OWN) & set(catalog(settings()).set_up())
    assert set(OWN) <= set(catalog(settings(**SET_UP)).set_up())
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example:8200")
    assert "VAULT_TRANSIT" in catalog(settings()).set_up()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"providers": {"azur": {}}},
            r"\[providers.azur\] belongs to no installed provider; .*aws, azure, gcp",
        ),
        (
            {"providers": {"vault": {"auth": "token"}}},
            r'\[providers.vault\] belongs .*; VAULT_TRANSIT reads \[vault."https://HOST:PORT"\]$',
        ),
        ({"providers": {"aws": {"principle": "x"}}}, r"\[providers.aws\] principle: .*no such"),
        (
            {"providers": {"aws": {"canary": {"role": "x"}}}},
            r"\[providers.aws\] canary.external_id",
        ),
        ({"vault": {"https://v": {}}}, r'\[vault."https://v"\] auth: it is missing'),
        ({"providers": {"gcp": {"endpoint": 1}}}, r"\[providers.gcp\] endpoint: .*string"),
        ({"vault": {"https://v": {"auth": "ldap"}}}, r'\[vault."https://v"\] auth: .*approle'),
    ],
)
def test_a_table_that_cannot_work_stops_the_start(values: dict[str, Any], told: str) -> None:
    """A fault in a table stops the start, with an error that names the table."""
    with pytest.raises(SetupError, match=told) as raised:
        catalog(settings(**values))
    shown = " ".join(faults(settings(**values)))
    assert all(line.partition("; ")[0] in shown for line in raised.value.message.splitlines())


def test_a_package_adds_a_provider(packages: Callable[..., None]) -> None:
    """A package's provider has its own settings, uris, PLATFORM keys and regions."""
    setups: list[Setup] = []

    def make(setup: Setup) -> KeyProvider:
        setups.append(setup)
        return FakeProvider()

    extra = Entry(make=make, uris=("fake:**",), example="fake:NAME", table="extra")
    packages(("EXTRA", extra))
    told = settings(
        providers={"extra": {"endpoint": "x", "more": {"a": [1]}}},
        regions={"eu": {"EXTRA": ("eu-1",)}},
        platform_key="fake:vendor",
        allowed_endpoints=[ENDPOINT],
    )
    made = catalog(told)
    assert "EXTRA" in made.types()
    assert made.type_of("fake:key") == "EXTRA"
    assert key_names(told, made).platform("eu") == RootKey("EXTRA", "fake:vendor")
    assert regions(told, made).locations("eu", "EXTRA") == ("eu-1",)
    assert isinstance(made.provider("EXTRA"), FakeProvider)
    assert setups == [Setup({"endpoint": "x", "more": {"a": [1]}}, (ENDPOINT,))]


@pytest.mark.parametrize("taken", ["LOCAL", "PLATFORM", "EXTRA"])
def test_a_package_takes_no_type_that_is_taken(packages: Callable[..., None], taken: str) -> None:
    """No package comes between a server and its own provider, or another package's."""
    packages(("EXTRA", entry()), (taken, entry()))
    with pytest.raises(SetupError, match=f"package adds a provider {taken}.*is taken"):
        installed()


def test_two_packages_with_one_type_are_both_named(packages: Callable[..., None]) -> None:
    """The order of installation does not say which of two packages is the wrong one."""
    packages(("EXTRA", entry()), ("EXTRA", entry()))
    both = r"EXTRA \(fakes:entry_1\).* taken by .*\(fakes:entry_0\); remove one of them"
    with pytest.raises(SetupError, match=both):
        installed()


@pytest.mark.parametrize(
    ("uris", "whose"),
    [
        (("local:**",), "LOCAL"),
        (("**",), "AWS_KMS"),
        (("extra:*", "arn:extra:*"), "AWS_KMS"),
        (("https://keys.vault.azure.net/keys/*",), "AZURE_KEY_VAULT"),
        (("https://*.extra.example/v1/projects/*/keys/*",), "VAULT_TRANSIT"),
        (("projects/*",), "GCP_CLOUD_KMS"),
    ],
)
def test_a_package_takes_no_uris_that_are_taken(
    packages: Callable[..., None], uris: tuple[str, ...], whose: str
) -> None:
    """A package that claims key uris of another provider keeps the server from starting."""
    packages(("EXTRA", entry(uris=uris)))
    with pytest.raises(SetupError, match=f"provider EXTRA that claims.* belong to {whose}"):
        installed()


def test_a_package_takes_no_table_that_is_taken(packages: Callable[..., None]) -> None:
    """No package reads the settings of another provider."""
    packages(("EXTRA", entry(table="aws")))
    with pytest.raises(SetupError, match=r"EXTRA that reads the settings \[providers.aws\]"):
        installed()


@pytest.mark.parametrize(
    ("type_", "what", "told"),
    [("extra", entry(), "not a type"), ("EXTRA", "fakes:FakeProvider", "is not an Entry")],
)
def test_what_is_not_a_provider_is_refused(
    packages: Callable[..., None], type_: str, what: Entry | str, told: str
) -> None:
    """An entry point that cannot be a provider stops the start; nothing ignores it."""
    packages((type_, what))
    with pytest.raises(SetupError, match=told):
        installed()


def test_a_package_that_does_not_load_breaks_its_own_provider_only(
    packages: Callable[..., None],
) -> None:
    """A package whose entry imports what is missing is pointed out; the others serve."""
    packages(("EXTRA", "the_missing_package.entry:ENTRY"))
    told = settings(local_keys=Path("keys.json"), providers={"extra": {"endpoint": "x"}})
    made = catalog(told)
    assert "EXTRA" in made.types()
    with pytest.raises(UnknownProviderError, match="the_missing_package"):
        made.provider("EXTRA")
    assert isinstance(made.provider("LOCAL"), LocalProvider)
    assert any("the_missing_package" in fault for fault in faults(told))


# Whose a key uri is


_word = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9-]{0,20}", fullmatch=True)
_host = st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){0,3}(:[1-9][0-9]{2,3})?", fullmatch=True)
_domain = st.sampled_from(
    [
        "vault.azure.net",
        "managedhsm.azure.net",
        "vault.azure.cn",
        "managedhsm.azure.cn",
        "vault.usgovcloudapi.net",
        "managedhsm.usgovcloudapi.net",
    ]
)
_URIS: Final[dict[str, st.SearchStrategy[str]]] = {
    "AWS_KMS": st.builds("arn:aws:kms:{0}:111122223333:key/{1}".format, _word, _word),
    "AZURE_KEY_VAULT": st.one_of(
        st.builds("https://{0}.{1}/keys/{2}".format, _word, _domain, _word),
        st.builds("HTTPS://{0}.{1}:443/keys/{2}/{3}".format, _word, _domain, _word, _word),
    ),
    "GCP_CLOUD_KMS": st.builds(
        "projects/{0}/locations/{0}/keyRings/{1}/cryptoKeys/{1}".format, _word, _word
    ),
    "LOCAL": st.builds("local:{0}".format, _word),
    "VAULT_TRANSIT": st.one_of(
        st.builds("https://{0}/v1/{1}/keys/{2}".format, _host, _word, _word),
        st.builds("http://{0}/v1/{1}/{2}/keys/{3}".format, _host, _word, _word, _word),
    ),
}


def test_each_type_has_uris_to_try() -> None:
    """The tests below have uris to try for every provider of Keyfold's own."""
    assert tuple(sorted(_URIS)) == OWN


@given(st.data())
def test_a_uri_is_claimed_by_one_type(data: st.DataObject) -> None:
    """Whatever key uri of a provider is named, that provider claims it and no other does."""
    type_ = data.draw(st.sampled_from(sorted(_URIS)))
    uri = data.draw(_URIS[type_])
    assert Catalog(ENTRIES, lambda _: Setup(allowed_endpoints=(ENDPOINT,))).type_of(uri) == type_
    text = "".join(catalog_module._split(uri))
    claimed = [
        name
        for name, one in ENTRIES.items()
        if any(UriPattern(pattern).matches(text) for pattern in one.uris)
    ]
    assert claimed == [type_]


@given(st.text(max_size=40) | st.builds("https://{0}/{1}".format, _host, st.text(max_size=20)))
def test_no_uri_is_claimed_by_two_types(text: str) -> None:
    """Any text at all is some provider's key uri, or nobody's, and never two providers'."""
    claimed = [
        type_
        for type_, one in ENTRIES.items()
        if any(UriPattern(pattern).matches(text) for pattern in one.uris)
    ]
    assert len(claimed) < 2


_pattern = st.lists(st.sampled_from(["a", "b", "/", "*", "**"]), max_size=5).map("".join)


@given(_pattern, _pattern, st.text(alphabet="ab/", max_size=7))
def test_patterns_that_share_a_uri_overlap(one: str, other: str, text: str) -> None:
    """Where two patterns match the same text, the check at the start finds it."""
    first, second = UriPattern(one), UriPattern(other)
    if first.matches(text) and second.matches(text):
        assert first.overlaps(second)
        assert second.overlaps(first)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a*", "*b", True),
        ("a*", "b*", False),
        ("a/*", "*/b", True),
        ("a*", "a/b", False),
        ("a**", "a/b", True),
        ("a*", "a", False),
        ("https://*/keys/*", "https://*/v1/**/keys/*", False),
        ("https://*.x/**", "https://a.*/**", True),
        ("https://*.x/**", "https://*.y/**", False),
    ],
)
def test_patterns_overlap_or_not(one: str, other: str, overlap: bool) -> None:  # noqa: FBT001
    """The check at the start refuses what can collide, and nothing else."""
    assert UriPattern(one).overlaps(UriPattern(other)) is overlap
    assert UriPattern(other).overlaps(UriPattern(one)) is overlap


def test_a_uri_tells_its_type(own: Catalog) -> None:
    """The platform key's setting is a uri alone; one that fits nothing is refused."""
    assert own.type_of("local:key") == "LOCAL"
    for uri in ("", "key", "LOCAL:key", "other:key"):
        with pytest.raises(UnknownProviderError, match="local:"):
            own.type_of(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://kms.example/keys/x",
        "https://kms.example:8444/keys/x",
        "http://kms.example:8443/keys/x",
        "https://vault.azure.net.evil.example/keys/x",
        "https://evil.example/a.vault.azure.net/keys/x",
        "https://evilvault.azure.net/keys/x",
        "https://v.vault.azure.net/secrets/x",
        "https://vault.example/v1/transit/x",
        "https://vault.example/v2/transit/keys/x",
    ],
)
def test_a_path_alone_makes_no_provider(own: Catalog, uri: str) -> None:
    """`/keys/x` on some host is not Azure's: the host must be in Azure's domains, or allowed."""
    with pytest.raises(UnknownProviderError, match="give the type"):
        own.type_of(uri)


def test_an_allowed_endpoint_may_be_azures(own: Catalog) -> None:
    """On an origin that the operator allows, the path tells a key of Azure from one of Vault."""
    assert own.type_of(f"{ENDPOINT}/keys/x") == "AZURE_KEY_VAULT"
    assert own.type_of("HTTPS://KMS.example:8443/keys/x") == "AZURE_KEY_VAULT"
    assert own.type_of(f"{ENDPOINT}/v1/transit/keys/x") == "VAULT_TRANSIT"


def test_where_a_uri_cannot_tell_the_type_must_be_given() -> None:
    """Two providers at one endpoint with equal paths: the operator writes the type."""
    entries = {
        "ONE": entry(endpoint_paths=("/keys/*",)),
        "TWO": entry(endpoint_paths=("/keys/**",)),
    }
    made = Catalog(entries, lambda _: Setup(allowed_endpoints=(ENDPOINT,)))
    with pytest.raises(UnknownProviderError, match="ONE or TWO; give the type") as raised:
        made.type_of(f"{ENDPOINT}/keys/x")
    assert raised.value.field == "key_spec.uri"
    told = settings(platform_key={"eu": f"{ENDPOINT}/keys/x"})
    with pytest.raises(SetupError, match=r"KEYFOLD_PLATFORM_KEY: .* give the type"):
        key_names(told, made)


def test_a_platform_key_may_name_its_type() -> None:
    """The type before the uri is what counts, and must exist."""
    made = Catalog({"FAKE": entry()})
    told = settings(platform_key={"eu": "FAKE fake:vendor"})
    names = key_names(told, made)
    assert names.platform("eu") == RootKey("FAKE", "fake:vendor")
    assert names.platform("us") is None
    assert names.platform_keys == (RootKey("FAKE", "fake:vendor"),)
    with pytest.raises(SetupError, match="no provider FAK"):
        key_names(settings(platform_key="FAK fake:vendor"), made)
