"""`keyfold what-if` and the client's `what_if`: what a person reads before pressing the button."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import keyfold
from cli_runner import Cli
from keyfold.cli.output.what_if import span_text
from keyfold_server.domain.what_if import WhatIf, When
from served import KEY, Served, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the cluster prod under local:acme in eu and us."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def _lines(cli: Cli, *args: str, code: int) -> list[str]:
    ran = cli("what-if", *args)
    assert ran.code == code, ran.err or ran.out
    return [" ".join(line.split()) for line in ran.out.decode().splitlines() if line.strip()]


def test_the_summary_comes_first(cli: Cli) -> None:
    """How much stops, when at the latest and what resumes; then whether that is safe; then rows."""
    lines = _lines(cli, "disable", "local:acme", code=11)
    assert lines[0] == (
        "if the key is disabled, 2 of 2 regions stop serving, at once after a recheck, or else "
        "within 75s; then it resumes by itself once that is taken back"
    )
    assert lines[1] == "safe to disable: no"
    assert (
        "prod eu ENABLED 1 wrap, unwrap, rotate at once 75s KEY_DISABLED FAILED_PRECONDITION "
        "resumes [1] 1 LOCAL local:acme"
    ) in lines
    assert lines[-1] == "[1] a disabled version opens nothing"


def test_what_comes_back_and_what_does_not(cli: Cli) -> None:
    """A destroyed key of the file is gone for good, and the table says so in both places."""
    lines = _lines(cli, "delete", "local:acme", code=11)
    assert lines[0].endswith("; then it never resumes")
    assert any("KEY_NOT_FOUND FAILED_PRECONDITION is lost" in line for line in lines)
    assert "a deletion is never called safe: safe_to_disable says nothing about it" in lines


def test_the_role_of_each_use(cli: Cli, server: Served) -> None:
    """Old generations do not wrap, retired ones only rotate, revoked regions and backups rest."""
    with server.client() as client:
        region = [keyfold.RegionSpec("eu")]
        client.rotate("prod", region, new_generation=True)
        client.rotate("prod", region, new_generation=True)
        client.retire_generation("prod", "eu", 1)
        client.revoke("prod", regions=["us"])
    lines = _lines(cli, "disable", "local:acme", code=11)
    assert lines[0].startswith("if the key is disabled, 1 of 2 regions stop serving, ")
    rows = [line for line in lines if line.startswith("prod")]
    sees = "KEY_DISABLED FAILED_PRECONDITION resumes"
    assert [row.split(" LOCAL")[0] for row in rows] == [
        f"prod eu ENABLED 1 retired rotate at once 0s {sees} [1] 1",
        f"prod eu ENABLED 2 unwrap, rotate at once 75s {sees} [2] 1",
        f"prod eu ENABLED 3 wrap, unwrap, rotate at once 75s {sees} [2] 1",
        "prod us REVOKED 1 - never - - - [3] 1",
    ]
    assert "the generation is retired" in lines[-4]
    assert lines[-2].endswith("; Restore fails until the action is taken back")
    assert lines[-1] == "3 more are needed by backups alone; key-usage shows them"


def test_nothing_stops(cli: Cli) -> None:
    """Nothing to stop is exit code 0, and the first line says it in a word."""
    lines = _lines(cli, "remove-describe", "local:acme", code=0)
    assert lines[0] == "if the permission to describe is removed, nothing stops"
    assert _lines(cli, "disable", "local:b", code=0)[0] == "if the key is disabled, nothing stops"


def test_an_unknown_kms_gets_a_warning(cli: Cli, server: Served) -> None:
    """Of a provider that foresees nothing, the worst is said: rotations and serving stop."""
    server.aws.create_key("aws:kms:eu-west-1:111122223333:key/1")
    with server.client() as client:
        spec = keyfold.KeySpec("AWS_KMS", "arn:aws:kms:eu-west-1:111122223333:key/1")
        client.enable("other", [keyfold.RegionSpec("eu", spec)])
    lines = _lines(cli, "remove-wrap", "--holder", "111122223333", code=11)
    assert lines[0] == (
        "if the permission to wrap is removed, 1 region can no longer be rotated, at once; "
        "then it resumes by itself once that is taken back"
    )
    assert any("expect a refusal" in line for line in lines)


def test_the_limit_is_for_the_table_alone(cli: Cli, server: Served) -> None:
    """What is said first is said of all uses, however many rows are shown."""
    with server.client() as client:
        for name in ("a", "b", "c"):
            client.enable(name, [keyfold.RegionSpec("eu", KEY)])
    lines = _lines(cli, "disable", "local:acme", "--limit", "2", code=11)
    assert "5 of 5 regions" in lines[0]
    assert len([line for line in lines if "LOCAL local:acme" in line]) == 2
    assert lines[-1] == "there are more, 5 in all; raise --limit"


def test_wrong_questions(cli: Cli) -> None:
    """The command refuses no key, an unknown action, and a version where the KMS has no such."""
    ran = cli("what-if", "disable")
    assert (ran.code, "give the root key's uri" in ran.err) == (2, True)
    assert cli("what-if", "explode", "local:acme").code == 2
    ran = cli("what-if", "remove-unwrap", "local:acme", "--version", "1")
    assert ran.code == 2
    assert "(INVALID_SELECTOR)" in ran.err


def test_the_client_has_all_of_it(server: Served) -> None:
    """The client's values say what the server said, with its words for what and when."""
    assert {what.value for what in keyfold.WhatIf} == {what.value for what in WhatIf}
    assert {when.value for when in keyfold.ImpactTime} == {
        *(when.value for when in When),
        "UNSPECIFIED",
    }
    key = keyfold.KeySelector(uri="local:acme")
    with server.client() as client:
        uses = list(client.list_key_usage(key, what_if=keyfold.WhatIf.DISABLE, page_size=1))
        assert [use.region for use in uses] == ["eu", "us"]
        impact = uses[0].impact
        assert impact is not None
        assert impact.stops
        assert (impact.when, impact.stops_within) == (
            keyfold.ImpactTime.AT_ONCE,
            timedelta(seconds=75),
        )
        assert (impact.code, impact.reason) == ("FAILED_PRECONDITION", "KEY_DISABLED")
        assert (impact.resumes, impact.needs) == (True, "")
        assert client.key_usage(key).uses[0].impact is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (75, "75s"), (120, "2m"), (915, "15m15s"), (3_600, "1h"), (4_215, "1h10m15s")],
)
def test_spans(seconds: int, text: str) -> None:
    """A span is short to read."""
    assert span_text(timedelta(seconds=seconds)) == text
