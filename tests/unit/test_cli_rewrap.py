"""`rewrap --batch`: what comes out, what may go wrong, and how a later run goes on."""

from __future__ import annotations

import base64
import fcntl
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import keyfold
from cli_runner import Cli, Terminal
from keyfold.cli.commands.rewrapping import pipeline
from keyfold.cli.commands.rewrapping.line import Defaults
from keyfold.cli.commands.rewrapping.pipeline import Patience, Pipeline
from keyfold.cli.input.json_lines import MAX_LINE, Line
from keyfold.models.specs import KeySpec, RegionSpec
from served import Served, served
from wire_errors import WireError

CRASHER = Path(__file__).parent.parent / "rewrap_crasher.py"
BUSY = WireError(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "too many calls", retry_after=1)
STRANGER = WireError(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "who are you?")
HIDDEN = WireError(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "not for you")


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the clusters prod and test, in a folder that is not the test's own."""
    with served(tmp_path_factory.mktemp("server")) as running:
        with running.client() as client:
            client.enable("test", [RegionSpec("eu", KeySpec("LOCAL", "local:a"))])
        yield running


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


def _key(number: int) -> bytes:
    return number.to_bytes(4, "big") * 8


def _wrapped(server: Served, count: int, cluster: str = "prod") -> list[str]:
    """Returns numbered keys, wrapped in the region eu, in base64."""
    with server.client() as client:
        made = client.batch_wrap(cluster, [_key(one) for one in range(count)], region="eu")
    return [base64.b64encode(one.wrapped_key).decode() for one in made]  # type: ignore[union-attr]


def _rotate(server: Served, cluster: str = "prod") -> None:
    """Makes a new generation of the region eu."""
    with server.client() as client:
        client.rotate(cluster, [RegionSpec("eu")], new_generation=True)


def _lines(*objects: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in objects)


def _opened(server: Served, lines: bytes, cluster: str = "prod") -> list[bytes]:
    """Returns the plaintexts of the lines' keys, all of which must be of generation 2."""
    keys = [base64.b64decode(json.loads(line)["wrapped_key"]) for line in lines.splitlines()]
    with server.client() as client:
        made: list[Any] = client.batch_unwrap(cluster, keys)
    assert {one.generation for one in made} == {2}
    return [bytes(one.plaintext) for one in made]


# --- lines ---


def test_a_line_keeps_what_is_not_about_its_key(cli: Cli, server: Served) -> None:
    """Other fields stay as they were written, in their order, and empty lines in their places."""
    [old] = _wrapped(server, 1)
    _rotate(server)
    line = f'{{"id":7, "n": 1.10, "wrapped_key": "{old}", "t" : "\\u00e9", "l": [ 1,2 ]}}\r\n'
    ran = cli("rewrap", "prod", "--batch", stdin=f"\n{line} \n")
    assert ran.code == 0
    empty, moved, blank = ran.out.splitlines(keepends=True)
    assert (empty, blank) == (b"\n", b" \n")
    new = json.loads(moved)["wrapped_key"]
    assert new != old
    expected = line.replace(old, new).replace("]}", '], "generation": 2}')
    assert moved.decode() == expected
    assert _opened(server, moved) == [_key(0)]


def test_a_current_key_stays_byte_for_byte(cli: Cli, server: Served) -> None:
    """The line of a key that is current comes out as it went in, and gets a line break at most."""
    _rotate(server)
    first, second = _wrapped(server, 2)
    text = f'  {{"wrapped_key" :"{first}","x":1.0}} \r\n{{"wrapped_key": "{second}"}}'
    ran = cli("rewrap", "prod", "--batch", stdin=text)
    assert (ran.code, ran.out.decode()) == (0, text + "\n")
    assert "2 were current" in ran.err


def test_clusters_that_alternate_share_calls(cli: Cli, server: Served) -> None:
    """A line may name its cluster. However they alternate, each cluster has few calls."""
    keys = {cluster: _wrapped(server, 300, cluster) for cluster in ("prod", "test")}
    for cluster in keys:
        _rotate(server, cluster)
    lines = [
        {"cluster": cluster, "wrapped_key": keys[cluster][number], "id": number}
        for number in range(300)
        for cluster in ("prod", "test")
    ]
    ran = cli("rewrap", "--batch", stdin=_lines(*lines))
    assert ran.code == 0
    assert [(one["cluster"], one["id"]) for one in ran.lines] == [
        (one["cluster"], one["id"]) for one in lines
    ]
    assert [len(one.items) for one in server.requests["BatchRewrap"]] == [300, 300]
    for cluster in keys:
        of_it = _lines(*(one for one in ran.lines if one["cluster"] == cluster))
        assert _opened(server, of_it, cluster) == [_key(one) for one in range(300)]


def test_a_key_that_moves_names_its_new_cluster(cli: Cli, server: Served) -> None:
    """A destination is used up, and the line then has the cluster and context that unwrap it."""
    old = _wrapped(server, 3)
    to = {"cluster": "test", "region": "eu", "context": {"n": "1"}}
    ran = cli(
        "rewrap", "prod", "--batch",
        stdin=_lines(
            {"wrapped_key": old[0], "destination": to, "already_current": False},
            {"wrapped_key": old[1], "cluster": "prod", "destination": {"cluster": "test"}},
            {"wrapped_key": old[2], "destination": {"cluster": 5}},
        ),
    )  # fmt: skip
    one, two, wrong = ran.lines
    assert one.keys() == {"wrapped_key", "generation", "cluster", "context"}
    assert (one["cluster"], one["context"]) == ("test", {"n": "1"})
    assert two.keys() == {"wrapped_key", "cluster", "generation"}
    assert wrong["error"]["message"] == "line 3: destination.cluster: must be text"
    with server.client() as client:
        key = base64.b64decode(one["wrapped_key"])
        assert bytes(client.unwrap("test", key, context={"n": "1"}).plaintext) == _key(0)


def test_wrong_lines_have_errors_in_their_places(cli: Cli, server: Served) -> None:
    """A wrong line gets an error and keeps its fields; the exit code is the first one's."""
    [good] = _wrapped(server, 1)
    _rotate(server)
    long = b'{"wrapped_key": "' + b"x" * MAX_LINE + b'"}\n'
    text = (
        b'{"wrapped_key": "c2VjcmV0\n'
        + _lines([], {"id": 1}, {"wrapped_key": "%", "id": 2}, {"wrapped_key": 5})
        + long
        + b'{"wrapped_key": "AQ==", "context": {"a": "\\ud800"}}\n\xff\n{"a": 1, "a": 2}\n'
        + _lines({"wrapped_key": good, "id": 3}, {"wrapped_key": "AQ==", "id": 4})
    )
    ran = cli("rewrap", "prod", "--batch", stdin=text)
    assert ran.code == 2
    messages = [one["error"]["message"] if "error" in one else None for one in ran.lines]
    assert messages[:10] == [
        "line 1: is not JSON",
        "line 2: must be an object",
        "line 3: wrapped_key: is missing",
        "line 4: wrapped_key: must be base64",
        "line 5: wrapped_key: must be text",
        "line 6: is longer than 1,024 KiB",
        "line 7: context: must be an object of text",
        "line 8: is not JSON",
        "line 9: a: is given twice",
        None,
    ]
    assert ran.lines[10]["error"]["reason"] == "NOT_A_WRAPPED_KEY"
    assert [one.get("id") for one in ran.lines[2:4]] == [1, 2]
    assert b"c2VjcmV0" not in ran.out
    assert "1 keys moved, 0 were current, 10 lines failed" in ran.err
    assert "lines that could not be read may be under it" in ran.err
    assert (
        cli("rewrap", "--batch", stdin=_lines({"wrapped_key": good}))
        .lines[0]["error"]["message"]
        .startswith("line 1: cluster: is missing")
    )


def test_the_output_of_a_run_with_errors_is_run_once_more(cli: Cli, server: Served) -> None:
    """A line that failed is tried again, and loses its error; what cannot be read stays."""
    old = _wrapped(server, 2)
    _rotate(server)
    lines = _lines({"wrapped_key": old[0]}, {"wrapped_key": old[1], "context": {"no": "1"}})
    first = cli("rewrap", "prod", "--batch", stdin=lines + b"x\n")
    assert first.code == 2
    assert first.lines[1]["error"]["reason"] == "CONTEXT_MISMATCH"
    assert "1 of this file are still under it" in first.err
    mended = first.out.replace(b'"no"', b'"yes"').replace(b'{"yes": "1"}', b"{}")
    again = cli("rewrap", "prod", "--batch", stdin=mended)
    assert again.lines[0] == first.lines[0]
    assert again.lines[1].keys() == {"wrapped_key", "context", "generation"}
    assert again.out.splitlines()[2] == first.out.splitlines()[2]


# --- a server that cannot answer now ---


def test_a_busy_server_is_asked_again(cli: Cli, server: Served) -> None:
    """A call that is refused for now waits as long as the server says, and marks no line."""
    old = _wrapped(server, 2)
    _rotate(server)
    server.fail("BatchRewrap", BUSY, BUSY)
    ran = cli("rewrap", "prod", "--batch", stdin=_lines(*({"wrapped_key": one} for one in old)))
    assert ran.code == 0
    assert len(server.requests["BatchRewrap"]) == 3
    assert _opened(server, ran.out) == [_key(0), _key(1)]


def _window(server: Served, keys: list[str]) -> pipeline.Window:
    raw = [_lines({"wrapped_key": one}) for one in keys]
    lines = [Line(number, one, len(one)) for number, one in enumerate(raw, 1)]
    [window] = pipeline.windows(lines, Defaults("prod", {}, None))
    return window


def test_a_server_that_stays_away_stops_the_run(server: Served) -> None:
    """Without an answer for too long the run ends with the server's error, and marks no line."""
    window = _window(server, _wrapped(server, 1))
    server.fail("BatchRewrap", *[BUSY] * 50)
    patience = Patience(calls=0.0, lines=0.0, first=0.01)
    with keyfold.Client(server.target) as client, Pipeline(client, 2, patience) as sending:
        sending.send(window)
        with pytest.raises(keyfold.LimitError):
            window.sent[0][1].result()


def test_a_caller_that_is_not_known_stops_the_run(server: Served) -> None:
    """What every call would be answered is no line's error: the run ends with it."""
    window = _window(server, _wrapped(server, 1))
    server.fail("BatchRewrap", STRANGER)
    with keyfold.Client(server.target) as client, Pipeline(client, 2) as sending:
        sending.send(window)
        with pytest.raises(keyfold.UnauthenticatedError):
            window.sent[0][1].result()


def test_a_kms_that_stays_away_fails_its_lines_only(server: Served) -> None:
    """Lines whose KMS gives no answer get its error in the end; those of others move."""
    server.make_key("arn:aws:kms:eu-west-1:111122223333:key/k")
    key = KeySpec("AWS_KMS", "arn:aws:kms:eu-west-1:111122223333:key/k")
    with server.client() as client:
        client.add_regions("prod", [RegionSpec("aws", key)])
        other = client.wrap("prod", "aws", _key(9)).wrapped_key
    keys = [*_wrapped(server, 1), base64.b64encode(other).decode()]
    window, again = _window(server, keys), _window(server, keys)
    server.clock.advance(100_000)
    server.aws.disconnect()
    patience = Patience(calls=5.0, lines=0.05, first=0.01)
    with keyfold.Client(server.target) as client, Pipeline(client, 2, patience) as sending:
        sending.send(window)
        [(indexes, future)] = window.sent
        good, bad = future.result()
        # Further lines of that KEK are sent once, and do not wait for it anew.
        calls = len(server.requests["BatchRewrap"])
        sending.send(again)
        assert isinstance(again.sent[0][1].result()[1], keyfold.CouldNotTellError)
        assert len(server.requests["BatchRewrap"]) == calls + 1
    assert indexes == [0, 1]
    assert isinstance(good, keyfold.Rewrapped)
    assert isinstance(bad, keyfold.CouldNotTellError)


# --- checkpoints ---


class Run:
    """A file of old keys, and the command that rewraps it with a checkpoint."""

    def __init__(self, cli: Cli, server: Served, folder: Path, count: int) -> None:
        self.cli, self.server, self.count = cli, server, count
        self.source, self.out, self.place = folder / "in", folder / "out", folder / "checkpoint"
        lines = [{"id": n, "wrapped_key": key} for n, key in enumerate(_wrapped(server, count))]
        self.source.write_bytes(_lines(*lines))
        _rotate(server)

    @property
    def arguments(self) -> list[str]:
        files = ("--in", self.source, "--out", self.out, "--checkpoint", self.place)
        return ["rewrap", "prod", "--batch", *map(str, files)]

    def __call__(self, *more: str) -> Any:
        return self.cli(*self.arguments, *more)

    def crashing(self, action: str, steps: list[int]) -> tuple[list[int], str]:
        """Runs the command once for each step, at which the disk fails, in windows of 50 lines.

        Returns:
            The exit codes, and what the runs printed on stderr.
        """
        program = [sys.executable, str(CRASHER), action, ",".join(map(str, steps))]
        ran = subprocess.run(
            [*program, *self.arguments, "--target", self.server.target],
            capture_output=True,
            text=True,
            check=False,
        )
        return list(map(int, ran.stdout.split())), ran.stderr

    def check(self) -> None:
        """Checks that the output is that of a whole run."""
        lines = [json.loads(line) for line in self.out.read_bytes().splitlines()]
        assert [one["id"] for one in lines] == list(range(self.count))
        assert _opened(self.server, self.out.read_bytes()) == list(map(_key, range(self.count)))


def test_a_run_that_is_done_is_not_done_again(cli: Cli, server: Served, tmp_path: Path) -> None:
    """The same command says again what it did; lines that were added since are done, too."""
    run = Run(cli, server, tmp_path, 100)
    assert "100 lines: 100 keys moved" in run().err
    run.check()
    before, asked = run.out.read_bytes(), len(server.requests["BatchRewrap"])
    again = run()
    assert again.code == 0
    assert "100 lines, 100 of them by earlier runs: 100 keys moved" in again.err
    assert (run.out.read_bytes(), len(server.requests["BatchRewrap"])) == (before, asked)
    with run.source.open("ab") as file:
        file.write(b"x\n")
    more = run()
    assert more.code == 2
    assert run.out.read_bytes().startswith(before)
    assert b"line 101: is not JSON" in run.out.read_bytes()
    # The first code stays, whichever run prints it.
    assert run().code == 2


@pytest.mark.timeout(300)  # seven runs of the command, whatever else the machine does
def test_a_killed_run_goes_on(cli: Cli, server: Served, tmp_path: Path) -> None:
    """Killed at any step and resumed as often, a run writes each line once, in its place."""
    run = Run(cli, server, tmp_path, 500)
    chosen = random.Random()
    steps = [1, *(chosen.randint(2, 8) for _ in range(5))]
    codes, said = run.crashing("kill", [*steps, 0])
    assert codes == [-9] * len(steps) + [0], (steps, said)
    assert f"{run.count} keys moved, 0 were current, 0 lines failed" in said, steps
    run.check()
    assert {one.name for one in tmp_path.iterdir()} == {"checkpoint", "in", "out"}


@pytest.mark.timeout(300)
def test_a_full_disk_ends_a_run_that_goes_on_later(
    cli: Cli, server: Served, tmp_path: Path
) -> None:
    """A full disk is an error that names the file; with space, the same command goes on."""
    run = Run(cli, server, tmp_path, 200)
    [code], said = run.crashing("full", [8])
    assert code == 2
    assert any(f"cannot write {one}: No space left" in said for one in (run.out, run.place))
    assert "the same command goes on from there" in said
    assert run().code == 0
    run.check()


def test_ctrl_c_leaves_a_checkpoint(cli: Cli, server: Served, tmp_path: Path) -> None:
    """Ctrl-C ends a run at once, and the next one goes on."""
    run = Run(cli, server, tmp_path, 100)
    server.delays["BatchRewrap"] = 5.0
    with Terminal(server.target, *run.arguments) as terminal:
        server.await_requests("BatchRewrap", 1)
        terminal.interrupt()
        assert terminal.end() != 0
        assert "the same command goes on from there" in terminal.seen
    server.delays.clear()
    assert run().code == 0
    run.check()


def test_a_checkpoint_belongs_to_its_files(cli: Cli, server: Served, tmp_path: Path) -> None:
    """A checkpoint of another input, output or other options is refused with what differs."""
    run = Run(cli, server, tmp_path, 3)
    run()
    lines, out = run.source.read_bytes(), run.out.read_bytes()
    for wrong, says in (
        (lines.replace(b'"id": 1', b'"id": 7'), "are not those that are in the output"),
        (lines[:-5], f"this input ends after {len(lines) - 5:,}"),
    ):
        run.source.write_bytes(wrong)
        ran = run()
        assert ran.code == 2
        assert says in ran.err
    run.source.write_bytes(lines)
    ran = run("--context", "a=b")
    assert (ran.code, "a run with context {}, not {'a': 'b'}" in ran.err) == (2, True)
    for changed in (out[:-1], out.replace(b'"id": 2', b'"id": 9')):
        run.out.write_bytes(changed)
        ran = run()
        assert (ran.code, "is not the output of the checkpoint" in ran.err) == (2, True)
        assert run.out.read_bytes() == changed
    run.place.write_text("{}")
    assert "is not a checkpoint" in run().err
    run.place.unlink()
    ran = run()
    assert (ran.code, "exists, and its checkpoint" in ran.err) == (2, True)


def test_two_runs_do_not_share_an_output(cli: Cli, server: Served, tmp_path: Path) -> None:
    """While one command writes the output, another is refused."""
    run = Run(cli, server, tmp_path, 3)
    run()
    with run.out.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another command is writing" in run().err
    assert run().code == 0


def test_files_that_cannot_be_used(cli: Cli, server: Served, tmp_path: Path) -> None:
    """The command refuses files that it cannot use before it sends anything."""
    run = Run(cli, server, tmp_path, 3)
    asked = len(server.requests["BatchRewrap"])
    for arguments, says in (
        (["--in", run.source, "--out", run.source], "--out is the input itself"),
        (["--in", run.source, "--out", run.out, "--checkpoint", run.out], "is --out itself"),
        (["--in", run.source, "--out", run.out, "--checkpoint", run.source], "is the input itself"),
        (["--in", run.source, "--checkpoint", run.place], "needs --out FILE"),
        (["--in", run.source, "--out", "/dev/null", "--checkpoint", run.place], "needs a file"),
        (["--in", run.source, "--out", tmp_path / "no" / "out"], "cannot write"),
        (
            ["--in", run.source, "--out", tmp_path / "no" / "out", "--checkpoint", run.place],
            "cannot write",
        ),
        (["--in", tmp_path / "no"], "cannot read"),
        (["--in", tmp_path], "cannot read"),
    ):
        ran = cli("rewrap", "prod", "--batch", *map(str, arguments))
        assert (ran.code, says in ran.err) == (2, True), ran.err
    assert len(server.requests["BatchRewrap"]) == asked
    for option in (["--dry-run"], ["--concurrency", "2"], ["--checkpoint", str(run.place)]):
        assert cli("rewrap", "prod", *option, stdin=b"x").code == 2
    assert cli("rewrap", stdin=b"x").code == 2


# --- what it says ---


def test_a_dry_run_counts(cli: Cli, server: Served) -> None:
    """A dry run counts keys by generation, and calls; it moves nothing."""
    old = [{"wrapped_key": one} for one in _wrapped(server, 3)]
    _rotate(server)
    new = [{"wrapped_key": one} for one in _wrapped(server, 2)]
    other = [{"wrapped_key": one, "cluster": "test"} for one in _wrapped(server, 1, "test")]
    lines = _lines(*old, *new, *other, [])
    ran = cli("rewrap", "prod", "--batch", "--dry-run", "--json", stdin=lines)
    assert ran.code == 0
    told = ran.json
    generations = told.pop("generations")
    assert told == {
        "lines": 7, "keys": 6, "unreadable": 1, "clusters": 2, "regions": 2, "not_current": 3,
        "calls": 2, "seconds": 1, "uncounted": 0,
    }  # fmt: skip
    assert {
        (one["cluster"], one["region"], one["generation"], one["keys"], one["current"])
        for one in generations
    } == {("prod", "eu", 1, 3, False), ("prod", "eu", 2, 2, True), ("test", "eu", 1, 1, True)}
    text = cli("rewrap", "prod", "--batch", "--dry-run", stdin=lines).out.decode()
    assert "7 lines with 6 wrapped keys of 2 clusters and 2 regions; 1 lines cannot be read" in text
    assert "3 keys are not current; 2 calls" in text
    assert not server.requests["BatchRewrap"]


def test_the_summary_says_when_a_generation_may_retire(cli: Cli, server: Served) -> None:
    """The old generation may retire when no other file holds keys under it: the summary says so."""
    old = _wrapped(server, 3)
    _rotate(server)
    lines = _lines(*({"wrapped_key": one} for one in old))
    ran = cli("rewrap", "prod", "--batch", stdin=lines)
    assert "generation 1 of region eu of prod: all 3 keys that this file had" in ran.err
    assert "once no other file holds keys under it" in ran.err
    assert "keyfold status prod --verbose" in ran.err
    assert "keyfold retire-generation prod --region eu --generation 1" in ran.err
    told = cli("rewrap", "prod", "--batch", "--json", stdin=lines).err
    summary = json.loads(told)
    assert (summary["lines"], summary["moved"], summary["already_current"]) == (3, 3, 0)
    assert [
        (one["generation"], one["keys"], one["moved_away"], one["left_by_this_file"])
        for one in summary["generations"]
    ] == [(1, 0, 3, True), (2, 3, 0, False)]


def test_without_the_right_to_the_status(cli: Cli, server: Served) -> None:
    """A caller that may not read the status moves its keys, and is told why names are missing."""
    [old] = _wrapped(server, 1)
    _rotate(server)
    server.fail("GetStatus", HIDDEN)
    ran = cli("rewrap", "prod", "--batch", stdin=_lines({"wrapped_key": old}))
    assert ran.code == 0
    assert "its generations are not known here: not for you (PERMISSION_DENIED)" in ran.err
    assert "retire-generation" not in ran.err


def test_few_lines_are_read_ahead() -> None:
    """A window holds a bounded number of lines and of bytes, so a file may be of any size."""
    read = 0

    def endless(size: int) -> Iterator[Line]:
        nonlocal read
        while True:
            read += 1
            yield Line(read, b"x" * size, size)

    first = next(pipeline.windows(endless(2), Defaults("prod", {}, None)))
    assert (len(first.entries), read) == (pipeline.MAX_LINES, pipeline.MAX_LINES)
    read = 0
    wide = next(pipeline.windows(endless(MAX_LINE), Defaults("prod", {}, None)))
    assert (wide.size, read) == (pipeline.MAX_BYTES, pipeline.MAX_BYTES // MAX_LINE)
