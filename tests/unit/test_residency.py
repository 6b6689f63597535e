"""Where keys are and where they should be: the table, what is pointed out, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from checked import faults
from keyfold_server.bootstrap import regions
from keyfold_server.bootstrap.providers import catalog
from keyfold_server.domain.errors import KeyElsewhereError, SetupError
from keyfold_server.domain.residency import KeyLocation, ResidencyPolicy, Table
from keyfold_server.settings import load, toml

ROOT: Final = Path(__file__).parents[2]

TABLE: Final[Table] = {
    "eu": {
        "AWS_KMS": ("eu-west-1",),
        "GCP_CLOUD_KMS": ("europe-west1", "europe"),
        "AZURE_KEY_VAULT": ("acme-eu.vault.azure.net",),
        "VAULT_TRANSIT": ("vault.eu.example:8200",),
        "LOCAL": ("local:eu",),
    },
    "us-east-1": {"AWS_KMS": ("us-east-2",)},
}


def aws(region: str) -> KeyLocation:
    """Returns an AWS key's whereabouts."""
    return KeyLocation("AWS_KMS", region, f"arn:aws:kms:{region}:111122223333:key/x")


def host(type_: str, name: str) -> KeyLocation:
    """Returns the whereabouts of a key whose uri tells no region."""
    return KeyLocation(type_, "", name)


@pytest.mark.parametrize(
    ("region", "key"),
    [
        ("eu", aws("eu-west-1")),
        ("us-east-1", aws("us-east-2")),
        ("eu-west-1", aws("eu-west-1")),
        ("eu", KeyLocation("GCP_CLOUD_KMS", "europe-west1", "projects/…")),
        ("eu", KeyLocation("GCP_CLOUD_KMS", "europe", "projects/…")),
        ("global", KeyLocation("GCP_CLOUD_KMS", "global", "projects/…")),
        ("eu", host("AZURE_KEY_VAULT", "acme-eu.vault.azure.net")),
        ("eu", host("VAULT_TRANSIT", "vault.eu.example:8200")),
        ("eu", host("LOCAL", "local:eu")),
    ],
)
def test_a_key_where_it_should_be_is_good_everywhere(region: str, key: KeyLocation) -> None:
    """A key whose region has the same name, or is in the table, gets no notice and no refusal."""
    for known in (ResidencyPolicy(TABLE), ResidencyPolicy(TABLE, required=True)):
        assert known.notice(region, key) == ""
        known.check(region, key)


@pytest.mark.parametrize(
    ("region", "key", "told"),
    [
        ("eu", aws("us-east-1"), "in us-east-1, and region eu in eu-west-1"),
        ("us-east-1", aws("us-east-1"), "in us-east-1, and region us-east-1 in us-east-2"),
        ("eu-west-1", aws("us-east-1"), "in us-east-1, another region than eu-west-1"),
        (
            "europe-west1",
            KeyLocation("GCP_CLOUD_KMS", "us-central1", "projects/…"),
            "in us-central1, another region than europe-west1",
        ),
        ("eu", KeyLocation("GCP_CLOUD_KMS", "global", "projects/…"), "europe-west1 or europe"),
        ("eu", host("AZURE_KEY_VAULT", "acme-us.vault.azure.net"), "in acme-us.vault.azure.net"),
        ("eu", host("VAULT_TRANSIT", "vault.eu.example:8300"), "in vault.eu.example:8300"),
    ],
)
def test_a_key_elsewhere_is_pointed_out_or_refused(
    region: str, key: KeyLocation, told: str
) -> None:
    """A key elsewhere gets a notice, and is refused where the settings demand residency."""
    assert told in ResidencyPolicy(TABLE).notice(region, key)
    ResidencyPolicy(TABLE).check(region, key)
    with pytest.raises(KeyElsewhereError) as caught:
        ResidencyPolicy(TABLE, required=True).check(region, key)
    assert key.name in caught.value.message
    assert caught.value.region == region
    assert ResidencyPolicy(TABLE, required=True).notice(region, key) == caught.value.message


@pytest.mark.parametrize(
    ("region", "key", "add"),
    [
        ("ap", aws("ap-south-1"), 'AWS_KMS = "ap-south-1"'),
        ("site-7", aws("ap-south-1"), '[regions."site-7"]'),
        ("eu", KeyLocation("OTHER", "x", "x:1"), 'OTHER = "x"'),
        ("europe-west1", aws("eu-west-1"), 'AWS_KMS = "eu-west-1"'),
        ("eu-west-1", KeyLocation("GCP_CLOUD_KMS", "global", "p"), 'GCP_CLOUD_KMS = "global"'),
        ("us-east-1", host("AZURE_KEY_VAULT", "v.vault.azure.net"), '"v.vault.azure.net"'),
        ("us-east-1", host("LOCAL", "local:one"), 'LOCAL = "local:one"'),
    ],
)
def test_a_key_of_which_nobody_can_tell_is_not_called_wrong(
    region: str, key: KeyLocation, add: str
) -> None:
    """A key of unknown place gets no notice; where residency is demanded, it is refused.

    The refusal says word for word what to add; for keys in use already it is the notice.
    """
    assert ResidencyPolicy(TABLE).notice(region, key) == ""
    with pytest.raises(KeyElsewhereError) as caught:
        ResidencyPolicy(TABLE, required=True).check(region, key)
    assert add in caught.value.message
    assert f'[regions."{region}"]' in caught.value.message
    assert ResidencyPolicy(TABLE, required=True).notice(region, key) == caught.value.message


def test_what_a_refusal_says_to_add_lets_the_key_in() -> None:
    """The remedy works: with the entry that the message names, the same key is good."""
    for key in (aws("ap-south-1"), host("AZURE_KEY_VAULT", "v.vault.azure.net")):
        with pytest.raises(KeyElsewhereError) as caught:
            ResidencyPolicy(required=True).check("ap", key)
        entry = caught.value.message.split('"')[1]
        ResidencyPolicy({"ap": {key.type: (entry,)}}, required=True).check("ap", key)


def test_a_region_has_one_name_in_a_provider() -> None:
    """The name is the table's first, or the region's own where the table has no entry."""
    regions = ResidencyPolicy(TABLE)
    assert regions.provider_region("eu", "GCP_CLOUD_KMS") == "europe-west1"
    assert regions.provider_region("eu-west-1", "AWS_KMS") == "eu-west-1"
    assert regions.knows("eu-west-1", "AWS_KMS", "us-east-1")
    assert not regions.knows("ap", "AWS_KMS", "us-east-1")


# The settings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file that is read; no variable has a say."""
    for name in ("REGIONS", "RESIDENCY", "LOCAL_KEYS"):
        monkeypatch.delenv(f"KEYFOLD_{name}", raising=False)
    path = tmp_path / "keyfold.toml"
    monkeypatch.setenv("KEYFOLD_CONFIG", str(path))
    monkeypatch.setenv("KEYFOLD_STORE", f"sqlite:///{tmp_path}/keyfold.db")
    return path


def test_the_table_is_read_from_the_file(file: Path) -> None:
    """One place is written as a string, several as a list; what is printed reads the same."""
    file.write_text(
        'residency = "require"\n'
        '[regions.eu]\nAWS_KMS = "eu-west-1"\nGCP_CLOUD_KMS = ["europe-west1", "europe"]\n'
        '[regions."us-east.1"]\nAWS_KMS = "us-east-2"\n'
    )
    settings = load()
    found = regions(settings, catalog(settings))
    assert found.required
    assert found.locations("eu", "GCP_CLOUD_KMS") == ("europe-west1", "europe")
    assert found.locations("us-east.1", "AWS_KMS") == ("us-east-2",)
    file.write_text(toml(settings.shown()))
    assert load().regions == settings.regions


def test_geos_are_rows_of_the_table(file: Path) -> None:
    """A region's row names its geo, or several; geos are no places of keys."""
    file.write_text(
        '[regions.paris]\ngeo = "EU"\nAWS_KMS = "eu-west-3"\n'
        '[regions.eu-west-1]\ngeo = ["EU", "ATLANTIC"]\n'
    )
    settings = load()
    found = regions(settings, catalog(settings))
    assert found.geos.table == {"ATLANTIC": ("eu-west-1",), "EU": ("eu-west-1", "paris")}
    assert dict(found.table["paris"]) == {"AWS_KMS": ("eu-west-3",)}
    assert found.provider_region("eu-west-1", "AWS_KMS") == "eu-west-1"
    assert found.knows("paris", "AWS_KMS", "us-east-1")
    file.write_text(toml(settings.shown()))
    assert load().regions == settings.regions


def test_the_example_of_the_docs(file: Path) -> None:
    """The shipped example holds the geos that Kong Konnect publishes."""
    file.write_text((ROOT / "docs" / "examples" / "konnect-geos.toml").read_text())
    settings = load()
    assert regions(settings, catalog(settings)).geos.table == {
        "AU": ("ap-southeast-2", "ap-southeast-4"),
        "EU": ("eu-central-1", "eu-west-1"),
        "IN": ("ap-south-1", "ap-south-2"),
        "ME": ("me-central-1", "me-south-1"),
        "SG": ("ap-southeast-1",),
        "US": ("us-east-2", "us-west-2"),
    }
    assert faults(settings) == []


def test_without_settings_keys_elsewhere_are_noted(file: Path) -> None:
    """The default refuses nothing."""
    file.write_text("")
    settings = load()
    assert regions(settings, catalog(settings)) == ResidencyPolicy()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('residency = "always"', "KEYFOLD_RESIDENCY"),
        ('[regions."../eu"]\nAWS_KMS = "eu-west-1"', "characters or a length"),
        ('[regions.eu]\nAWS_KMS = ""', "KEYFOLD_REGIONS"),
        ("[regions.eu]\nAWS_KMS = []", "KEYFOLD_REGIONS"),
        ("[regions.eu]\nAWS_KMS = 1", "KEYFOLD_REGIONS"),
        ('[regions.eu]\nPLATFORM = "eu-west-1"', "stands for a key of another type"),
        ("[regions.eu]\ngeo = []", "KEYFOLD_REGIONS"),
        ('[regions.eu]\ngeo = ""', "KEYFOLD_REGIONS"),
        ('[regions.eu]\ngeo = ["E U"]', "regions.eu.geo has characters"),
    ],
)
def test_a_bad_table_keeps_the_server_from_starting(file: Path, text: str, told: str) -> None:
    """A malformed table stops the start, with an error that names the setting."""
    file.write_text(text)
    with pytest.raises(SetupError, match=told):
        load()


def test_a_geo_has_no_more_regions_than_a_cluster(file: Path) -> None:
    """A geo that no cluster could be enabled in stops the start."""
    file.write_text("".join(f'[regions.r-{n}]\ngeo = "ALL"\n' for n in range(65)))
    settings = load()
    with pytest.raises(SetupError, match="geo ALL has 65 regions, and a cluster at most 64"):
        regions(settings, catalog(settings))


def test_a_misspelt_provider_keeps_the_server_from_starting(file: Path) -> None:
    """An entry under a misspelt provider would apply to no key, so it stops the start."""
    file.write_text('[regions.eu]\nAWS_KSM = "eu-west-1"')
    settings = load()
    with pytest.raises(SetupError, match="no provider AWS_KSM"):
        regions(settings, catalog(settings))
    assert any("AWS_KSM" in fault for fault in faults(settings))
