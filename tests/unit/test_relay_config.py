"""The relay's TOML file: what is wrong is named by key and line, and no value is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay.config import BucketTarget, ConfigError, WebhookTarget, load

GOOD = """\
[keyfold]
target = "keyfold.example:7443"
ca = "/etc/keyfold/ca.pem"
token_file = "/run/secrets/keyfold"

[relay]
name = "eu"
monitoring = "127.0.0.1:9465"
park_after = "3d"

[targets.siem]
kind = "webhook"
url = "https://siem.example/keyfold"
secrets = ["file:/run/secrets/new", "env:OLD"]
headers = { Authorization = "file:/run/secrets/token" }
allow_addresses = ["10.20.0.0/16"]

[targets.siem.filter]
organization = "acme"
kinds = ["DECISION", "refusal"]
start_time = 2026-11-01T00:00:00Z

[targets.lines]
kind = "file"
path = "/var/log/keyfold/events.jsonl"

[targets.archive]
kind = "s3"
bucket = "acme-audit"
prefix = "keyfold/"
every = "5m"
"""


def fault(folder: Path, text: str) -> str:
    """Returns what is wrong with a file."""
    path = folder / "relay.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as found:
        load(path)
    return str(found.value).replace(f"{folder}/", "")


def test_a_good_file_is_read(tmp_path: Path) -> None:
    """Every kind of target, and the fields of a filter, come out as they were written."""
    path = tmp_path / "relay.toml"
    path.write_text(GOOD)
    config = load(path)
    assert list(config.targets) == ["siem", "lines", "archive"]
    assert config.cursor("siem") == "eu.siem"
    siem, archive = config.targets["siem"], config.targets["archive"]
    assert isinstance(siem, WebhookTarget)
    assert isinstance(archive, BucketTarget)
    assert [str(one) for one in siem.secrets] == ["file:/run/secrets/new", "env:OLD"]
    assert archive.every == 300
    wanted = siem.filter.message()
    assert wanted.organization == "acme"
    assert list(wanted.kinds) == [pb.EVENT_KIND_DECISION, pb.EVENT_KIND_REFUSAL]
    assert wanted.start_time.ToJsonString() == "2026-11-01T00:00:00Z"
    assert not wanted.HasField("end_time")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('kind = "webhook"', 'kind = "carrier pigeon"', "relay.toml:11: targets.siem: the kinds"),
        ('kind = "webhook"\n', "", "relay.toml:11: targets.siem: set kind"),
        ('"https://siem.example/keyfold"', '"siem"', "relay.toml:13: targets.siem.url: write an"),
        ("https://siem", "ftp://siem", "relay.toml:13: targets.siem.url: write an url"),
        ("https://siem", "https://me:hunter2@siem", "relay.toml:13: targets.siem.url: leave user"),
        ('"file:/run/secrets/new"', '"hunter2"', "relay.toml:14: targets.siem.secrets.0: write wh"),
        ("Authorization", "Content-Type", "relay.toml:11: targets.siem: the relay sets"),
        ("10.20.0.0/16", "10.20.0.1/16", "relay.toml:16: targets.siem.allow_addresses.0"),
        (
            'organization = "acme"',
            'organisation = "a"',
            "relay.toml:19: targets.siem.filter.organi",
        ),
        ('"refusal"', '"refusals"', "relay.toml:20: targets.siem.filter.kinds.1: there is no such"),
        ('every = "5m"', "every = 5", "relay.toml:31: targets.archive.every: write a duration"),
        ('every = "5m"', 'every = "0s"', "relay.toml:31: targets.archive.every"),
        (
            'every = "5m"',
            'access_key_id = "env:A"',
            "relay.toml:27: targets.archive: access_key_id",
        ),
        ('name = "eu"', 'name = "eu.1"', "relay.toml:7: relay.name"),
        ("127.0.0.1:9465", "9465", "relay.toml:8: relay.monitoring: write HOST:PORT"),
        ("[targets.lines]", '[targets."a b"]', "relay.toml:23: targets.a b"),
        (
            '[keyfold]\ntarget = "keyfold.example:7443"',
            "[keyfold]",
            "relay.toml:1: keyfold.target: it",
        ),
        ("[keyfold]", "[keyfolt]", "relay.toml: keyfold: it is missing"),
        ("[relay]\n", "[relay\n", "relay.toml is not TOML"),
        ("park_after", "park after", "line 9"),
        ('path = "/var', 'path = "/var\n', "line 25"),
    ],
)
def test_garbage_is_named_by_key_and_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    """Each fault names its line and key, in words that say what to write."""
    assert old in GOOD
    said = fault(tmp_path, GOOD.replace(old, new, 1))
    assert expected in said
    assert "hunter2" not in said


def test_all_faults_are_said_at_once(tmp_path: Path) -> None:
    """An operator sees every fault of the file, not one at a time."""
    text = GOOD.replace('"5m"', '"5"').replace('"eu"', '""')
    assert len(fault(tmp_path, text).splitlines()) == 2


def test_a_file_without_targets_is_refused(tmp_path: Path) -> None:
    """A relay without targets would run and carry nothing."""
    assert "targets" in fault(tmp_path, GOOD.partition("[targets")[0])
    assert "targets" in fault(tmp_path, GOOD.partition("[targets")[0] + "[targets]\n")


def test_two_targets_cannot_write_to_one_file(tmp_path: Path) -> None:
    """Two writers would cut off each other's lines."""
    more = '[targets.again]\nkind = "file"\npath = "/var/log/keyfold/events.jsonl"\n'
    assert "one file" in fault(tmp_path, GOOD + more)
    stdout = '[targets.a]\nkind = "stdout"\n[targets.b]\nkind = "stdout"\n'
    assert "stdout" in fault(tmp_path, GOOD + stdout)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00"])
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes that are not a TOML file end in one line, not in a traceback."""
    path = tmp_path / "relay.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"relay\.toml"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message says which file cannot be read, and why."""
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml")
