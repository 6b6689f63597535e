"""`encrypt`, `decrypt` and `rekey`: an output that is there is whole, and nothing is lost."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import keyfold
from cli_runner import Cli, Terminal, on_terminal
from keyfold.cli.commands.files import rekeying
from keyfold.cli.input import replacing
from keyfold.envelope import streams
from keyfold.models.specs import KeySpec, RegionSpec
from served import Served, served
from wire_errors import WireError

CRASHER = Path(__file__).parent.parent / "files_crasher.py"
DATA = bytes(range(256)) * 10_000
MAIN = "from keyfold.cli import main; main()"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the cluster prod, which the tests of this file share."""
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(kept: Served) -> Iterator[Served]:
    """The same server, with a record of this test's calls."""
    with kept.beside() as relay:
        yield relay


@pytest.fixture
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file of a few segments."""
    file = tmp_path / "cards.csv"
    file.write_bytes(DATA)
    return file


@pytest.fixture
def secret(cli: Cli, plain: Path) -> Path:
    """The same file, encrypted; the plain one is gone."""
    ran = cli("encrypt", "prod", plain, "--region", "eu", "--context", "table=cards")
    assert ran.code == 0, ran.err
    plain.unlink()
    return plain.with_name("cards.csv.keyfold")


def rotate(server: Served, cluster: str = "prod") -> None:
    """Makes a new generation of the region eu."""
    with server.client() as client:
        client.rotate(cluster, [RegionSpec("eu")], new_generation=True)


def names(folder: Path) -> set[str]:
    """Returns what is in a folder."""
    return {one.name for one in folder.iterdir()}


def shell(server: Served, script: str, folder: Path, **options: Any) -> Any:
    """Runs a script of bash in which `keyfold` is the command."""
    whole = f"set -o pipefail\nkeyfold() {{ '{sys.executable}' -c '{MAIN}' \"$@\"; }}\n{script}"
    return subprocess.run(
        ["bash", "-c", whole],
        cwd=folder,
        env={**os.environ, "KEYFOLD_TARGET": server.target},
        capture_output=True,
        check=False,
        **options,
    )


# --- files ---


def test_there_and_back(cli: Cli, server: Served, plain: Path) -> None:
    """Each file comes back as it was, needs one call each way, and only its owner may read it."""
    umask = os.umask(0o022)
    try:
        ran = cli("encrypt", "prod", plain, "--region", "eu")
        assert (ran.code, ran.out, ran.err) == (0, b"", "")
        secret = plain.with_name("cards.csv.keyfold")
        assert stat.S_IMODE(secret.stat().st_mode) == 0o644
        assert plain.read_bytes() == DATA
        plain.unlink()
        ran = cli("decrypt", "prod", secret)
        assert (ran.code, ran.out, ran.err) == (0, b"", "")
    finally:
        os.umask(umask)
    assert plain.read_bytes() == DATA
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    assert names(plain.parent) == {"cards.csv", "cards.csv.keyfold"}
    assert len(server.requests["GenerateDataKey"]) == len(server.requests["Unwrap"]) == 1


@pytest.mark.parametrize("unnamed", [True, False])
def test_files_without_a_name_are_not_needed(
    cli: Cli,
    plain: Path,
    unnamed: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a disk that has no unnamed files, or no hard links, the commands do the same."""
    if not unnamed:
        monkeypatch.setattr(replacing, "_DESCRIPTORS", Path("/nowhere"))

    def no_links(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    for links in (True, False):
        if not links and not unnamed:
            monkeypatch.setattr(os, "link", no_links)
        secret = plain.with_name("cards.csv.keyfold")
        assert cli("encrypt", "prod", plain, "--region", "eu").code == 0
        again = cli("encrypt", "prod", plain, "--region", "eu")
        assert (again.code, "exists" in again.err) == (2, True)
        plain.unlink()
        assert cli("decrypt", "prod", secret).code == 0
        assert cli("decrypt", "prod", secret, "--force").code == 0
        assert plain.read_bytes() == DATA
        assert names(plain.parent) == {"cards.csv", "cards.csv.keyfold"}
        secret.unlink()


def test_an_output_that_appears_meanwhile_is_not_replaced(
    cli: Cli, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that somebody else made while the command worked stays theirs."""
    secret = plain.with_name("cards.csv.keyfold")
    sync = os.fsync

    def meanwhile(descriptor: int) -> None:
        if not secret.exists():
            secret.write_bytes(b"theirs")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    for descriptors in ("/proc/self/fd", "/nowhere"):
        monkeypatch.setattr(replacing, "_DESCRIPTORS", Path(descriptors))
        secret.unlink(missing_ok=True)
        ran = cli("encrypt", "prod", plain, "--region", "eu")
        assert (ran.code, "File exists" in ran.err) == (2, True)
        assert secret.read_bytes() == b"theirs"
        assert names(plain.parent) == {"cards.csv", "cards.csv.keyfold"}


def test_several_files(cli: Cli, server: Served, tmp_path: Path) -> None:
    """Files go one by one; one that fails is named, and the others are done."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    ran = cli("encrypt", "prod", *(tmp_path / n for n in "abc"), "--region", "eu", "--json")
    assert ran.code == 0
    assert [Path(one["output"]).name for one in ran.lines] == [f"{n}.keyfold" for n in "abc"]
    assert len(server.requests["GenerateDataKey"]) == 1
    (tmp_path / "b.keyfold").write_bytes(b"x")
    out = tmp_path / "out"
    out.mkdir()
    sealed = [tmp_path / f"{name}.keyfold" for name in ("a", "b", "missing", "c")]
    ran = cli("decrypt", "prod", *sealed, "--out", out)
    assert ran.code == 2
    wrong, missing = ran.err.splitlines()
    assert wrong.startswith(f"error: {sealed[1]}: the bytes are not a stream")
    assert wrong.endswith("(NOT_A_MESSAGE)")
    assert missing == f"error: cannot read {sealed[2]}: No such file or directory"
    assert {one.name: one.read_text() for one in out.iterdir()} == {"a": "a", "c": "c"}
    ran = cli("decrypt", "prod", sealed[1], sealed[2], "--out", out, "--json")
    wrong, missing = map(json.loads, ran.err.splitlines())
    assert (wrong["file"], wrong["error"]["reason"]) == (str(sealed[1]), "NOT_A_MESSAGE")
    assert missing["error"]["reason"] == "INVALID_INPUT"


def test_nothing_is_tried_where_everything_would_fail(
    cli: Cli, server: Served, tmp_path: Path
) -> None:
    """A server that is away, or does not know the caller, ends the command at once."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    files = [tmp_path / name for name in "abc"]
    server.fail("GenerateDataKey", WireError(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"))
    ran = cli("encrypt", "prod", *files, "--region", "eu")
    assert ran.code == 8
    assert f"stopped at {files[0]}; 2 files not begun" in ran.err
    ran = Cli("127.0.0.1:1")("encrypt", "prod", *files, "--region", "eu", "--timeout", "300ms")
    assert ran.code in {6, 9}
    assert "2 files not begun" in ran.err
    assert names(tmp_path) == {"a", "b", "c"}


def test_context(cli: Cli, server: Served, secret: Path, tmp_path: Path) -> None:
    """The context is the data key's, and what is demanded must be in it."""
    assert dict(server.requests["GenerateDataKey"][0].context) == {"table": "cards"}
    for demanded in ("table=orders", "other=cards"):
        for command in ("decrypt", "rekey"):
            ran = cli(command, "prod", secret, "--context", demanded)
            assert ran.code == 2
            assert "MESSAGE_CONTEXT_MISMATCH" in ran.err
    assert names(tmp_path) == {"cards.csv.keyfold"}
    assert cli("decrypt", "prod", secret, "--context", "table=cards").code == 0


# --- places ---


def test_places(cli: Cli, plain: Path, tmp_path: Path) -> None:
    """What cannot be written where it should be is refused before the server is asked."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "same").hardlink_to(plain)
    (tmp_path / "x.keyfold").write_bytes(b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cards.csv").write_bytes(b"y")
    other = tmp_path / "other" / "cards.csv"
    for arguments, says in (
        (["encrypt", plain, "--out", plain], "cards.csv exists"),
        (["encrypt", plain, "--out", plain, "--force"], "is the input itself"),
        (["encrypt", plain, "--out", tmp_path / "same", "--force"], "is the input itself"),
        (["encrypt", plain, "--out", tmp_path / "link"], "link exists"),
        (["encrypt", plain, "--out", tmp_path / "no" / "x"], "cannot write"),
        (["encrypt", plain, plain, "--out", tmp_path / "x"], "one file, for 2 inputs"),
        (["encrypt", plain, plain, "--out", "-"], "one file, for 2 inputs"),
        (["encrypt", tmp_path / "x.keyfold"], "so it is encrypted"),
        (["encrypt", tmp_path], "Is a directory"),
        (["encrypt", tmp_path / "missing"], "No such file"),
        (["encrypt", "-", "--out", tmp_path], "stdin has no name"),
        (["decrypt", plain], "does not end with .keyfold"),
        (["decrypt", tmp_path / "x.keyfold", "--out", plain], "cards.csv exists"),
        (["rekey", tmp_path], "Is a directory"),
        (["rekey", "/dev/null"], "is not a file"),
        (["rekey", tmp_path / "missing"], "No such file"),
        (["rekey", "-", "-"], "given twice"),
    ):
        command, *rest = arguments
        region = ["--region", "eu"] if command == "encrypt" else []
        ran = Cli("127.0.0.1:1")(str(command), "prod", *rest, *region, "--timeout", "1s")
        assert ran.code == 2, arguments
        assert says in ran.err, arguments
    out = tmp_path / "out"
    out.mkdir()
    ran = cli("encrypt", "prod", plain, other, "--region", "eu", "--out", out, "--force")
    assert (ran.code, "is the output of" in ran.err) == (2, True)
    assert names(out) == {"cards.csv.keyfold"}
    assert cli("decrypt", "prod", out / "cards.csv.keyfold", "--out", "-").out == DATA
    assert (plain.read_bytes(), other.read_bytes()) == (DATA, b"y")


def test_an_unreadable_file(cli: Cli, plain: Path, tmp_path: Path) -> None:
    """A file that cannot be opened, or not be read, is named, and has no output."""
    broken = Path("/proc/self/mem")  # also root cannot read its begin
    problems = {broken: "Input/output error"} if sys.platform == "linux" else {}
    if os.geteuid() != 0:
        plain.chmod(0)
        problems[plain] = "Permission denied"
    for file, problem in problems.items():
        for command, *options in (("encrypt", "--region", "eu"), ("decrypt",)):
            ran = cli(command, "prod", file, *options, "--out", tmp_path / "out")
            assert (ran.code, ran.err) == (2, f"error: cannot read {file}: {problem}\n")
        ran = cli("rekey", "prod", file)
        assert (ran.code, f"{file}: {problem}" in ran.err) == (2, True)
    assert names(tmp_path) == {"cards.csv"}


def test_symlinks(cli: Cli, server: Served, secret: Path, tmp_path: Path) -> None:
    """A symlink is followed and stays: what it names is read, replaced and moved."""
    link = tmp_path / "link.keyfold"
    link.symlink_to(secret)
    rotate(server)
    before = secret.read_bytes()
    assert cli("rekey", "prod", link).code == 0
    assert link.is_symlink()
    assert secret.read_bytes() != before
    out = tmp_path / "out"
    out.write_bytes(b"old")
    named = tmp_path / "named"
    named.symlink_to(out)
    assert cli("decrypt", "prod", link, "--out", named, "--force").code == 0
    assert named.is_symlink()
    assert out.read_bytes() == DATA


def test_empty_files_and_devices(cli: Cli, tmp_path: Path) -> None:
    """An empty file is a file; a device gives and takes bytes, and is not replaced."""
    sealed, out = tmp_path / "s", tmp_path / "out"
    for source in (tmp_path / "empty", Path("/dev/null")):
        if source.parent == tmp_path:
            source.touch()
        assert (
            cli("encrypt", "prod", source, "--region", "eu", "--out", sealed, "--force").code == 0
        )
        assert cli("decrypt", "prod", sealed, "--out", out, "--force").code == 0
        assert out.read_bytes() == b""
        ran = cli("decrypt", "prod", source, "--out", tmp_path / "x")
        assert (ran.code, "NOT_A_MESSAGE" in ran.err) == (2, True)
    assert cli("decrypt", "prod", sealed, "--out", "/dev/null").code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert names(tmp_path) == {"s", "out", "empty"}


# --- what was cut, changed or mixed ---


def test_no_part_of_a_wrong_file_becomes_a_file(
    cli: Cli, server: Served, secret: Path, tmp_path: Path
) -> None:
    """Cut, extended, joined from halves, or with another's header: no output, and nothing lost."""
    whole = secret.read_bytes()
    at = 7 + int.from_bytes(whole[5:7], "big")
    other = cli("encrypt", "prod", "-", "--region", "eu", stdin=DATA).out
    other_at = 7 + int.from_bytes(other[5:7], "big")
    segment = streams.SEGMENT_SIZE
    wrong = {
        "extended": whole + b"\n",
        "joined": whole[: at + segment] + other[other_at + segment :],
        "header": other[:other_at] + whole[at:],
        "swapped": whole[:at] + whole[at + segment : at + 2 * segment] + whole[at : at + segment],
        "text": whole.replace(b"\n", b"\r\n"),
        **{f"cut {cut}": whole[:cut] for cut in (3, 5, 6, at - 1, at, at + 40, at + segment)},
        **{f"cut {cut}": whole[:cut] for cut in (at + 2 * segment, len(whole) - 1)},
    }
    out = tmp_path / "out"
    out.write_bytes(b"as before")
    for name, content in wrong.items():
        secret.write_bytes(content)
        ran = cli("decrypt", "prod", secret, "--out", out, "--force")
        assert (ran.code, ran.out) == (2, b""), name
        assert "MESSAGE_CORRUPT" in ran.err or "NOT_A_MESSAGE" in ran.err, name
        assert out.read_bytes() == b"as before"
        assert names(tmp_path) == {"cards.csv.keyfold", "out"}


def test_another_clusters_file(cli: Cli, server: Served, secret: Path, tmp_path: Path) -> None:
    """The file of another cluster does not open, nor does a cluster that does not exist."""
    with server.client() as client:
        client.enable("other", [RegionSpec("eu", KeySpec("LOCAL", "local:b"))])
    for command in ("decrypt", "rekey"):
        ran = cli(command, "other", secret)
        assert (ran.code, "WRONG_CLUSTER" in ran.err) == (2, True)
        assert ran.err.endswith("hint: look at FILE\n")
        assert cli(command, "nowhere", secret).code == 3
    assert names(tmp_path) == {"cards.csv.keyfold"}


def test_revoked(cli: Cli, server: Served, plain: Path, tmp_path: Path) -> None:
    """A revoked cluster's files neither open nor move, and are whole after its restoration."""
    with server.client() as client:
        client.enable("gone", [RegionSpec("eu", KeySpec("LOCAL", "local:b"))])
        assert cli("encrypt", "gone", plain, "--region", "eu").code == 0
        secret = plain.with_name("cards.csv.keyfold")
        rotate(server, "gone")
        before = secret.read_bytes()
        client.revoke("gone")
        for arguments in (
            ("decrypt", "gone", secret, "--out", tmp_path / "out"),
            ("rekey", "gone", secret),
            ("encrypt", "gone", plain, "--region", "eu", "--force"),
        ):
            ran = cli(*arguments)
            assert ran.code == 4
            assert "(REVOKED)" in ran.err
            assert str(arguments[2]) in ran.err
        assert secret.read_bytes() == before
        assert names(tmp_path) == {"cards.csv", "cards.csv.keyfold"}
        client.restore("gone")
    assert cli("rekey", "gone", secret).code == 0
    assert cli("decrypt", "gone", secret, "--out", "-").out == DATA


def test_without_the_extra(cli: Cli, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Tink one line says what to install."""
    streams.tink.cache_clear()
    monkeypatch.setitem(sys.modules, "tink", None)
    try:
        ran = cli("encrypt", "prod", plain, "--region", "eu")
    finally:
        streams.tink.cache_clear()
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "install keyfold[files]" in ran.err


# --- pipes ---


def test_pipes(server: Served, plain: Path) -> None:
    """Data goes through pipes, with the exit code of the command that fails."""
    ran = shell(
        server,
        "cat cards.csv | keyfold encrypt prod - --region eu | tee sealed | keyfold rekey prod - "
        "| keyfold decrypt prod - | cmp - cards.csv && keyfold decrypt prod sealed --out - | wc -c",
        plain.parent,
    )
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, b"%d" % len(DATA), b"")


def test_a_pipe_that_ends_too_early(server: Served, secret: Path) -> None:
    """Checked parts come out of a pipe, and the exit code says that the end is missing."""
    whole = secret.read_bytes()
    ran = shell(
        server,
        f"head -c {len(whole) - 20} cards.csv.keyfold | keyfold decrypt prod - > out",
        secret.parent,
    )
    assert ran.returncode == 2
    assert b"stdin: the stream does not open" in ran.stderr
    assert DATA.startswith((secret.parent / "out").read_bytes())


def test_no_ciphertext_on_a_terminal(server: Served, plain: Path) -> None:
    """Bytes that would upset a terminal need a name or a pipe."""
    code, seen = on_terminal(
        server.target, "encrypt", "prod", str(plain), "--region", "eu", "--out", "-"
    )
    assert code == 2
    assert "stdout is a terminal" in seen


def test_a_broken_source_is_no_end(server: Served, tmp_path: Path) -> None:
    """A stdin that cannot be read leaves no stream that opens."""
    ran = shell(server, "keyfold encrypt prod - --region eu 0> x > out", tmp_path)
    assert ran.returncode == 2
    assert b"cannot read stdin: Bad file descriptor" in ran.stderr
    assert Cli(server.target)("decrypt", "prod", tmp_path / "out", "--out", "-").code == 2


def test_progress(server: Served, tmp_path: Path) -> None:
    """On a terminal a bar shows a file's name, its bytes and the speed; in a pipe nothing does."""
    os.mkfifo(tmp_path / "slow")
    arguments = ("encrypt", "prod", str(tmp_path / "slow"), "--region", "eu")
    with Terminal(server.target, *arguments, "--out", str(tmp_path / "out")) as terminal:
        with (tmp_path / "slow").open("wb") as pipe:
            server.await_requests("GenerateDataKey", 1)
            done = threading.Event()

            def feed() -> None:
                while not done.wait(0.05):
                    pipe.write(bytes(1 << 20))
                    pipe.flush()

            feeding = threading.Thread(target=feed)
            feeding.start()
            try:
                terminal.until("slow")
                terminal.until("MB")
            finally:
                done.set()
                feeding.join()
        assert terminal.end() == 0
    assert "out" in terminal.seen


# --- rekey ---


def test_rekey(cli: Cli, server: Served, secret: Path, tmp_path: Path) -> None:
    """Only the wrapped key and the time change: data, mode and attributes stay."""
    secret.chmod(0o640)
    os.utime(secret, (1_000_000, 1_000_000))
    attributes = True
    try:
        os.setxattr(secret, "user.origin", b"vault")
    except OSError:
        attributes = False
    before = secret.read_bytes()
    ran = cli("rekey", "prod", secret, "--json")
    assert (ran.json["moved"], secret.stat().st_mtime) == (False, 1_000_000)
    rotate(server)
    ran = cli("rekey", "prod", secret, "--json", "--context", "table=cards")
    assert (ran.code, ran.json["moved"]) == (0, True)
    after = secret.read_bytes()
    at = 7 + int.from_bytes(after[5:7], "big")
    assert after[at:] == before[at:]
    assert after[:at] != before[:at]
    found = secret.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_mtime > 1_000_000
    if attributes:
        assert os.getxattr(secret, "user.origin") == b"vault"
    assert names(tmp_path) == {"cards.csv.keyfold"}
    assert cli("decrypt", "prod", secret, "--out", "-").out == DATA
    assert not cli("rekey", "prod", secret, "--json").json["moved"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_rekey_keeps_the_owner(
    cli: Cli, server: Served, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever moves the keys of others' files does not take the files from them."""
    os.chown(secret, 65_534, 65_534)
    rotate(server)
    before = secret.read_bytes()

    def refused(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fchown", refused)
        ran = cli("rekey", "prod", secret)
        assert (ran.code, "belongs to another user" in ran.err) == (2, True)
    assert secret.read_bytes() == before
    assert names(secret.parent) == {"cards.csv.keyfold"}
    assert cli("rekey", "prod", secret).code == 0
    assert secret.read_bytes() != before
    assert (secret.stat().st_uid, secret.stat().st_gid) == (65_534, 65_534)


@pytest.mark.parametrize("number", sorted(rekeying._CANNOT))
def test_rekey_where_the_system_cannot_copy(
    cli: Cli, server: Served, secret: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """On a disk where the system does not copy between files, the command does."""

    def cannot(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", cannot)
    rotate(server)
    assert cli("rekey", "prod", secret).code == 0
    assert cli("decrypt", "prod", secret, "--out", "-").out == DATA


def test_rekey_with_a_longer_header(
    cli: Cli, server: Served, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapped key of a later release may have another length."""
    rotate(server)
    real = keyfold.Client.rewrap
    unwrap = keyfold.Client.unwrap

    def longer(*arguments: Any, **options: Any) -> keyfold.Rewrapped:
        moved = real(*arguments, **options)
        return keyfold.Rewrapped(moved.wrapped_key + b"longer", moved.generation, False)  # noqa: FBT003

    def shorter(
        client: keyfold.Client, cluster: str, key: bytes, **options: Any
    ) -> keyfold.Unwrapped:
        assert key.endswith(b"longer")
        return unwrap(client, cluster, key.removesuffix(b"longer"), **options)

    monkeypatch.setattr(keyfold.Client, "rewrap", longer)
    monkeypatch.setattr(keyfold.Client, "unwrap", shorter)
    size = secret.stat().st_size
    assert cli("rekey", "prod", secret).code == 0
    assert secret.stat().st_size == size + 6
    assert cli("decrypt", "prod", secret, "--out", "-").out == DATA


def test_two_rekeys_of_one_file(cli: Cli, server: Served, secret: Path) -> None:
    """While one command moves a file's key, another is refused."""
    rotate(server)
    with secret.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        ran = cli("rekey", "prod", secret)
        assert (ran.code, "another command is writing" in ran.err) == (2, True)
    assert cli("rekey", "prod", secret).code == 0


@pytest.mark.parametrize("change", ["append", "replace", "remove"])
def test_a_file_that_changes_meanwhile(
    cli: Cli, server: Served, secret: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A file that somebody writes or replaces while its key moves keeps what they wrote."""
    rotate(server)
    real, changed = rekeying._keep, b""

    def keep(*arguments: Any) -> None:
        nonlocal changed
        real(*arguments)
        if change == "append":
            with secret.open("ab") as file:
                file.write(b"more")
        else:
            secret.unlink()
        if change == "replace":
            secret.write_bytes(b"new")
        changed = secret.read_bytes() if secret.exists() else b""

    monkeypatch.setattr(rekeying, "_keep", keep)
    ran = cli("rekey", "prod", secret)
    assert ran.code == 2
    assert changed == (secret.read_bytes() if secret.exists() else b"")
    assert names(secret.parent) <= {"cards.csv.keyfold"}


# --- kills and full disks ---


STEPS = 9
"""More steps than any of the commands takes for a file of three segments."""


@pytest.mark.timeout(180)  # runs of the command, whatever else the machine does
@pytest.mark.parametrize("action", ["kill", "full"])
@pytest.mark.parametrize("command", ["encrypt", "decrypt", "rekey"])
def test_a_crash_at_any_step_loses_nothing(
    cli: Cli, server: Served, secret: Path, tmp_path: Path, command: str, action: str
) -> None:
    """Killed, or on a full disk, at any step: what was there is there, or else the whole output."""
    kept = secret.read_bytes()
    plain = tmp_path / "plain"
    plain.write_bytes(DATA)
    outs = [tmp_path / f"out-{step}" for step in range(1, STEPS + 1)]
    for out in outs:
        out.write_bytes(kept if command == "rekey" else b"as before")
    place = tmp_path / "out-STEP"
    arguments: dict[str, list[Any]] = {
        "encrypt": [plain, "--region", "eu", "--out", place, "--force"],
        "decrypt": [secret, "--out", place, "--force"],
        "rekey": [place],
    }
    rotate(server)
    steps = ",".join(map(str, range(1, STEPS + 1)))
    run = [sys.executable, CRASHER, action, steps, command, "prod", *arguments[command]]
    ran = subprocess.run(
        [*map(str, run), "--target", server.target], capture_output=True, text=True, check=False
    )
    codes = [*map(int, ran.stdout.split())]
    failed = codes.index(0)
    assert codes == [-9 if action == "kill" else 2] * failed + [0] * (STEPS - failed), ran.stderr
    assert failed > 5
    if action == "full":
        assert ran.stderr.count("No space left on device") == failed
        assert not [*tmp_path.glob(".*")]
    assert (plain.read_bytes(), secret.read_bytes()) == (DATA, kept)
    before = kept if command == "rekey" else b"as before"
    changed = 0
    for code, out in zip(codes, outs, strict=True):
        found = out.read_bytes()
        if found == before:
            assert code != 0
            if command != "rekey":
                continue
        else:
            changed += 1
        if command != "decrypt":
            found = cli("decrypt", "prod", out, "--out", "-").out
        assert found == DATA
    assert changed >= STEPS - failed


def test_a_full_disk_that_is_real(cli: Cli, server: Served, plain: Path) -> None:
    """The error names the output, and nothing is left of it."""
    ran = cli("encrypt", "prod", plain, "--region", "eu", "--out", "/dev/full")
    assert (ran.code, "cannot write /dev/full: No space left" in ran.err) == (2, True)
    limit = len(DATA) // 2
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2); {MAIN}"
    done = subprocess.run(
        [sys.executable, "-c", code, "encrypt", "prod", plain, "--region", "eu"],
        env={**os.environ, "KEYFOLD_TARGET": server.target},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "cards.csv.keyfold: File too large" in done.stderr
    assert names(plain.parent) == {"cards.csv"}


MEASURED = """
import resource, sys
from keyfold.cli import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def test_memory_is_constant(server: Served, tmp_path: Path) -> None:
    """A large file takes no more than 64 MiB beyond what a small one takes, both ways."""
    for name, size in (("small", 1), ("large", 128 << 20)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)

    def peak(*arguments: str) -> int:
        ran = subprocess.run(
            [sys.executable, "-c", MEASURED, *arguments],
            cwd=tmp_path,
            env={**os.environ, "KEYFOLD_TARGET": server.target},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(ran.stderr.split()[-1]) << 10

    usual = peak("encrypt", "prod", "small", "--region", "eu")
    for arguments in (
        ("encrypt", "prod", "large", "--region", "eu"),
        ("decrypt", "prod", "large.keyfold", "--force"),
    ):
        assert peak(*arguments) - usual < 64 << 20
