"""The commands that handle keys: their input, their output, and who can read it."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_runner import Cli, on_terminal, start
from keyfold.models.specs import KeySpec, RegionSpec
from served import Served, numbered_keys, served
from wire_errors import KEY_DISABLED

KEY = b"\x00\xffcorrect horse battery stapl\n\n"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the cluster prod, in a folder that is not the test's own."""
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _lines(*objects: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in objects)


def test_files(cli: Cli, tmp_path: Path) -> None:
    """A key goes from file to file unchanged, and the command prints nothing."""
    (tmp_path / "dek.bin").write_bytes(KEY)
    bound = ["--context", "table=users", "--context", "note=a=b"]
    wrap = ["wrap", "prod", "--region", "eu", *bound]
    ran = cli(*wrap, "--in", tmp_path / "dek.bin", "--out", tmp_path / "dek.wrapped")
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    wrapped, again = tmp_path / "dek.wrapped", tmp_path / "again.bin"
    ran = cli("unwrap", "prod", *bound, "--in", wrapped, "--out", again)
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    assert (tmp_path / "again.bin").read_bytes() == KEY
    assert cli("unwrap", "prod", "--in", tmp_path / "dek.wrapped").code == 2


def test_pipes(cli: Cli) -> None:
    """From stdin to stdout a key is raw, or base64 with the options for it."""
    wrapped = cli("wrap", "prod", "--region", "eu", "--in", "-", stdin=KEY).out
    assert wrapped[:2] == b"\x01\x01"
    assert cli("unwrap", "prod", stdin=wrapped).out == KEY
    text = cli("wrap", "prod", "--region", "eu", "--base64", stdin=KEY).out
    assert cli("unwrap", "prod", "--base64", stdin=text).out.decode() == f"{_base64(KEY)}\n"
    read = cli("wrap", "prod", "--region", "eu", "--in-base64", stdin=_base64(KEY) + "\n").out
    assert cli("unwrap", "prod", stdin=read).out == KEY
    assert cli("wrap", "prod", "--region", "eu", "--in-base64", stdin=b"%").code == 2


def test_plaintext_files_are_private(cli: Cli, tmp_path: Path) -> None:
    """Only its owner can read a plaintext's file, even if others could read the one before."""
    wrapped = cli("wrap", "prod", "--region", "eu", stdin=KEY).out
    out = tmp_path / "dek.bin"
    out.write_bytes(b"x")
    out.chmod(0o644)
    cli("unwrap", "prod", "--out", out, stdin=wrapped)
    assert (out.read_bytes(), stat.S_IMODE(out.stat().st_mode)) == (KEY, 0o600)
    both = tmp_path / "x.json"
    cli("generate-data-key", "prod", "--region", "eu", "--json", "--out", both)
    assert stat.S_IMODE(both.stat().st_mode) == 0o600
    lines = _lines({"wrapped_key": _base64(wrapped)})
    cli("unwrap", "prod", "--batch", "--out", tmp_path / "lines", stdin=lines)
    assert stat.S_IMODE((tmp_path / "lines").stat().st_mode) == 0o600


def test_a_failure_leaves_the_file(cli: Cli, server: Served, tmp_path: Path) -> None:
    """If the call fails, the command leaves the wrapped key that it would have replaced."""
    file = tmp_path / "dek.wrapped"
    cli("wrap", "prod", "--region", "eu", "--out", file, stdin=KEY)
    before = file.read_bytes()
    server.fail("Rewrap", KEY_DISABLED)
    assert cli("rewrap", "prod", "--in", file, "--out", file).code == 5
    assert file.read_bytes() == before
    assert cli("rewrap", "prod", "--in", file, "--out", file, "--to-region", "us").code == 0
    assert file.read_bytes() != before
    assert [one.name for one in tmp_path.iterdir()] == ["dek.wrapped"]
    ran = cli("unwrap", "prod", "--in", file, "--out", tmp_path / "no" / "where")
    assert ran.code == 2
    assert "cannot write" in ran.err


def test_generate_data_key(cli: Cli, tmp_path: Path) -> None:
    """The two forms of a data key go to two places; --wrapped-only returns no plaintext."""
    plain, wrapped = tmp_path / "dek.bin", tmp_path / "dek.wrapped"
    made = ["generate-data-key", "prod", "--region", "eu", "--size", "64"]
    assert cli(*made, "--plaintext-out", plain, "--out", wrapped).code == 0
    assert len(plain.read_bytes()) == 64
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    assert cli("unwrap", "prod", "--in", wrapped).out == plain.read_bytes()
    alone = cli(*made, "--wrapped-only").out
    assert len(cli("unwrap", "prod", stdin=alone).out) == 64
    assert cli(*made, "--plaintext-out", "-").code == 2
    assert len(cli(*made, "--plaintext-out", "-", "--out", wrapped).out) == 64


def test_rewrap_keeps_what_no_option_changes(cli: Cli) -> None:
    """A key that moves to another region keeps its context unless an option changes it."""
    bound = ["--context", "table=users"]
    wrapped = cli("wrap", "prod", "--region", "eu", *bound, stdin=KEY).out
    moved = cli("rewrap", "prod", *bound, "--to-region", "us", stdin=wrapped).out
    assert cli("unwrap", "prod", *bound, stdin=moved).out == KEY
    renamed = cli("rewrap", "prod", *bound, "--to-context", "table=new", stdin=wrapped).out
    assert cli("unwrap", "prod", "--context", "table=new", stdin=renamed).out == KEY
    bare = cli("rewrap", "prod", *bound, "--to-no-context", stdin=wrapped).out
    assert cli("unwrap", "prod", stdin=bare).out == KEY
    current = cli("rewrap", "prod", *bound, "--json", stdin=wrapped)
    assert current.json["already_current"] is True


def test_a_file_that_is_no_key(cli: Cli, server: Served, tmp_path: Path) -> None:
    """The command refuses a large file before it sends it, and says what to do instead."""
    (tmp_path / "data").write_bytes(bytes(70_000))
    ran = cli("wrap", "prod", "--region", "eu", "--in", tmp_path / "data")
    assert ran.code == 2
    assert "encrypt the data with that key" in ran.err
    assert not server.requests["Wrap"]


def test_terminal(server: Served, cli: Cli) -> None:
    """On a terminal the command prompts for a key without showing it, and prints base64."""
    code, seen = on_terminal(
        server.target, "wrap", "prod", "--region", "eu",
        typed=_base64(KEY) + "\n", prompt="not shown",
    )  # fmt: skip
    assert code == 0
    assert _base64(KEY) not in seen
    shown = next(line for line in seen.splitlines() if line.startswith("AQ"))
    assert cli("unwrap", "prod", stdin=shown).out == KEY
    assert "wrapped under generation 1 of eu" in seen
    code, seen = on_terminal(
        server.target, "unwrap", "prod", typed=f"{shown}\n", prompt="not shown"
    )
    assert code == 0
    assert _base64(KEY) in seen


# --- batches ---


def test_batch(cli: Cli, tmp_path: Path) -> None:
    """A batch turns lines of JSON into lines of JSON, in the same order."""
    keys = numbered_keys(2100)
    (tmp_path / "keys").write_bytes(_lines(*({"plaintext": _base64(key)} for key in keys)))
    wrap = ["wrap", "prod", "--batch", "--region", "eu", "--context", "table=users"]
    ran = cli(*wrap, "--in", tmp_path / "keys", "--out", tmp_path / "wrapped")
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    lines = (tmp_path / "wrapped").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"wrapped_key", "generation"}
    only = _lines(*({"wrapped_key": json.loads(line)["wrapped_key"]} for line in lines))
    opened = cli("unwrap", "prod", "--batch", "--context", "table=users", stdin=only)
    assert [one["plaintext"] for one in opened.lines] == [_base64(key) for key in keys]
    assert opened.lines[0] == {"plaintext": _base64(keys[0]), "region": "eu", "generation": 1}


def test_batch_with_errors(cli: Cli) -> None:
    """A failed line gets its error in its place, and the first failure decides the exit code."""
    ran = cli(
        "wrap", "prod", "--batch", "--region", "eu",
        stdin=_lines({"plaintext": _base64(KEY), "region": "us"}, {"plaintext": "", "region": "x"})
        + b"\n"
        + b'{"plaintext": "c2VjcmV0\n'
        + _lines([], {"plaintext": "%"}, {"plaintext": _base64(KEY), "contxt": {}}, {})
        + _lines({"plaintext": _base64(KEY), "context": {"a": "b"}}),
    )  # fmt: skip
    assert ran.code == 3
    first, second, *wrong, last = ran.lines
    assert second["error"]["reason"] == "REGION_NOT_FOUND"
    assert second["error"]["metadata"]["region"] == "x"
    assert [one["error"]["message"] for one in wrong] == [
        "line 4: is not JSON",
        "line 5: must be an object",
        "line 6: plaintext: must be base64",
        "line 7: contxt: unknown field; the fields are plaintext, region, context",
        "line 8: plaintext: is missing",
    ]
    assert b"secret" not in ran.out
    wrapped = _lines({"wrapped_key": first["wrapped_key"]}, {"wrapped_key": last["wrapped_key"]})
    ran = cli("unwrap", "prod", "--batch", "--json", stdin=wrapped)
    assert ran.code == 2
    assert ran.lines[0]["region"] == "us"
    assert ran.lines[1]["error"]["reason"] == "CONTEXT_MISMATCH"


def test_a_batch_is_a_round_trip(cli: Cli) -> None:
    """What one --batch writes the next one reads, contexts and errors included."""
    first = _lines(
        {"plaintext": _base64(b"a"), "context": {"n": "1"}},
        {"plaintext": _base64(b"b"), "region": "us"},
        {"plaintext": _base64(b"c"), "region": "nowhere"},
    )
    wrapped = cli("wrap", "prod", "--batch", "--region", "eu", stdin=first)
    assert wrapped.code == 3
    opened = cli("unwrap", "prod", "--batch", stdin=wrapped.out)
    one, two, error = opened.lines
    assert one == {
        "plaintext": _base64(b"a"), "region": "eu", "generation": 1, "context": {"n": "1"},
    }  # fmt: skip
    assert two == {"plaintext": _base64(b"b"), "region": "us", "generation": 1}
    assert (opened.code, error) == (2, wrapped.lines[2])
    assert error["error"]["reason"] == "REGION_NOT_FOUND"
    moved = cli("rewrap", "prod", "--batch", "--to-region", "us", stdin=wrapped.out)
    again = cli("unwrap", "prod", "--batch", stdin=moved.out).lines
    assert [line["region"] for line in again[:2]] == ["us", "us"]
    assert again[0]["context"] == {"n": "1"}
    once_more = cli("wrap", "prod", "--batch", stdin=opened.out)
    assert [sorted(line) for line in once_more.lines[:2]] == [
        ["context", "generation", "wrapped_key"],
        ["generation", "wrapped_key"],
    ]


def test_a_moved_key_has_the_context_that_its_line_shows(cli: Cli) -> None:
    """A rewrap with a new context writes that context, with which the line unwraps."""
    line = _lines({"plaintext": _base64(KEY), "context": {"old": "yes"}})
    wrapped = cli("wrap", "prod", "--batch", "--region", "eu", stdin=line).out
    for options, context in (
        (["--to-context", "new=yes"], {"new": "yes"}),
        (["--to-no-context"], None),
    ):
        moved = cli("rewrap", "prod", "--batch", *options, stdin=wrapped)
        assert moved.lines[0].get("context") == context
        assert cli("unwrap", "prod", "--batch", stdin=moved.out).lines[0]["plaintext"] == (
            _base64(KEY)
        )


def test_batch_of_rewraps(cli: Cli) -> None:
    """In a batch of moves each key keeps its own context unless its line names another."""
    keys = _lines(*({"plaintext": _base64(KEY), "context": {"n": str(n)}} for n in range(3)))
    made = cli("wrap", "prod", "--batch", "--region", "eu", stdin=keys).lines
    lines = [
        {"wrapped_key": one["wrapped_key"], "context": {"n": str(n)}} for n, one in enumerate(made)
    ]
    lines[2]["destination"] = {"context": {"new": "yes"}}
    moved = cli("rewrap", "prod", "--batch", "--to-region", "us", stdin=_lines(*lines)).lines
    assert [sorted(one) for one in moved] == [["context", "generation", "wrapped_key"]] * 3
    contexts = [{"n": "0"}, {"n": "1"}, {"new": "yes"}]
    opened = cli(
        "unwrap", "prod", "--batch",
        stdin=_lines(*(
            {"wrapped_key": one["wrapped_key"], "context": context}
            for one, context in zip(moved, contexts, strict=True)
        )),
    )  # fmt: skip
    assert [one["region"] for one in opened.lines] == ["us", "us", "eu"]
    broken = {"wrapped_key": made[0]["wrapped_key"], "destination": {"cluster": 5}}
    ran = cli("rewrap", "prod", "--batch", stdin=_lines(broken))
    assert ran.lines[0]["error"]["message"] == "line 1: destination.cluster: must be text"


def test_unwrap_keeps_the_other_fields_of_a_line(cli: Cli, server: Served) -> None:
    """`unwrap --batch` reads what `rewrap --batch` writes: fields of the caller's, and clusters."""
    with server.client() as client:
        client.enable("other", [RegionSpec("eu", KeySpec("LOCAL", "local:a"))])
        keys = {one: client.wrap(one, "eu", one.encode()).wrapped_key for one in ("prod", "other")}
    lines = [
        {"id": 1.50, "wrapped_key": _base64(keys["prod"]), "error": {"reason": "BUSY"}},
        {"cluster": "other", "wrapped_key": _base64(keys["other"]), "id": 2},
        {"cluster": "prod", "wrapped_key": _base64(keys["other"]), "id": 3},
        {"id": 4, "error": {"reason": "INVALID_INPUT"}},
    ]
    ran = cli("unwrap", "prod", "--batch", stdin=_lines(*lines))
    first, second, third, fourth = ran.lines
    told = {"region": "eu", "generation": 1}
    assert first == {"id": 1.5, "plaintext": _base64(b"prod"), **told}
    assert second == {"id": 2, "cluster": "other", "plaintext": _base64(b"other"), **told}
    assert third["error"]["reason"] == "WRONG_CLUSTER"
    assert (third["id"], third["wrapped_key"]) == (3, lines[2]["wrapped_key"])
    assert fourth == lines[3]


def test_lines_that_cannot_be_sent(cli: Cli) -> None:
    """A text without a form in UTF-8, a field given twice and an endless line fail alone."""
    lines = (
        b'{"plaintext": "AQ==", "context": {"a": "\\ud800"}}\n'
        b'{"plaintext": "AQ==", "region": "\\ud800"}\n'
        b'{"plaintext": "AQ==", "plaintext": "Ag=="}\n{"plaintext": "'
        + b"A" * 2_000_000
        + b'"}\n{"plaintext": "AQ=="}'
    )
    ran = cli("wrap", "prod", "--batch", "--region", "eu", stdin=lines)
    *wrong, good = ran.lines
    assert [one["error"]["message"] for one in wrong] == [
        "line 1: context: must be an object of text",
        "line 2: region: must be text",
        "line 3: plaintext: is given twice",
        "line 4: is longer than 1,024 KiB",
    ]
    assert "wrapped_key" in good


def test_a_reader_that_stops_is_not_a_fault_of_the_input(server: Served, tmp_path: Path) -> None:
    """If the reader of stdout has gone, the command ends in silence; the input is not to blame."""
    (tmp_path / "keys").write_bytes(_lines({"plaintext": _base64(KEY)}) * 3)
    wrap = ("wrap", "prod", "--batch", "--region", "eu", "--in", str(tmp_path / "keys"))
    ours, theirs = os.pipe()
    os.close(ours)
    process = start(server.target, wrap, out=theirs, err=tmp_path / "err")
    os.close(theirs)
    assert (process.wait(50), (tmp_path / "err").read_bytes()) == (141, b"")


def test_progress_is_for_people(server: Served, tmp_path: Path) -> None:
    """Long work shows a progress bar on a terminal, and the output contains none of it."""
    server.delays["BatchWrap"] = 0.52
    keys = (_lines({"plaintext": _base64(key)}) for key in numbered_keys(2100))
    (tmp_path / "keys").write_bytes(b"".join(keys))
    code, seen = on_terminal(
        server.target, "wrap", "prod", "--batch", "--region", "eu",
        "--in", str(tmp_path / "keys"), "--out", str(tmp_path / "wrapped"),
    )  # fmt: skip
    assert code == 0
    assert "2,000 keys" in seen
    assert len((tmp_path / "wrapped").read_text().splitlines()) == 2100
