"""Shows the life of a key, on a file of yours: `make demo`, or `make demo FILE=path`.

Everything is real: a keyfold-server process with its store and key file in a temporary folder, its
own commands, the command line `keyfold`, and the client library. Each step shows a command or call,
its result and its time. The program ends at the first result that breaks a promise. It never prints
a key, and leaves no files and no processes behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Final, TypeAlias, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from rich.console import Console
from rich.text import Text

import keyfold

ROOT: Final = Path(__file__).resolve().parents[1]
SPECS: Final = ROOT / "examples" / "cmek_config.json"
CLUSTER: Final = "acme"
CONTEXT: Final = {"purpose": "demo"}

OLD: Final = 1
NEW: Final = 2
"""Generations of the region `eu`, before and after its rotation."""

START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 10.0
COMMAND_TIMEOUT: Final = 30.0
CALL_TIMEOUT: Final = 10.0
"""Seconds that the server's start and stop, a command and a call may take."""

PIECE: Final = 1024 * 1024
VERSION_SHOWN: Final = 12
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
MAX_FILE: Final = 64 * 1024**3 - 1024
"""Most bytes of one AES-GCM message."""

EXIT_BROKEN: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

programs = Path(sys.executable).parent
"""The folder of `keyfold` and `keyfold-server`: that of the environment that runs this."""

Answer = TypeVar("Answer")

Region: TypeAlias = tuple[str, str, str, int]
"""A region's state, its root key, that key's version, and the newest generation."""

Promise: TypeAlias = tuple[str, int, int]
"""A region's promised state, version of its root key, and newest generation. Versions count from 1,
in the order in which the walk first sees them."""


class BrokenPromiseError(Exception):
    """A step broke a promise."""


# --- the output ------------------------------------------------------------------------------


class Report:
    """Prints the walk, in colours on a terminal and in plain lines elsewhere."""

    def __init__(self) -> None:
        # A terminal or pipe that cannot encode ✓ shows another character instead.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")
        self._console = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
        self._number = 0

    def title(self, text: str, *lines: str) -> None:
        """Prints the title of the walk."""
        self._console.print(Text(text, "bold"))
        for line in lines:
            self._console.print(Text(line, "dim"))

    def step(self, title: str) -> None:
        """Prints the number and title of a step."""
        self._number += 1
        self._console.print()
        self._console.print(Text(f"{self._number:>2}  {title}", "bold"))

    def ask(
        self,
        what: str,
        do: Callable[[], Answer],
        tell: Callable[[Answer], str],
        kept: Callable[[Answer], bool] = lambda _: True,
    ) -> Answer:
        """Prints a command or call, makes it, and prints its result and its time.

        Args:
            what: The command or call, as a person would type it.
            do: Makes the call.
            tell: Describes the result in words.
            kept: Says whether the result keeps its promise.

        Raises:
            BrokenPromiseError: The result breaks its promise.
        """
        self._console.print(Text.assemble("    ", (what, "cyan")))
        self._console.file.flush()
        began = time.monotonic()
        answer = do()
        took = _span(time.monotonic() - began)
        good = kept(answer)
        mark = ("    ✓ ", "green") if good else ("    ✗ ", "bold red")
        self._console.print(Text.assemble(mark, tell(answer), (f"   {took}", "dim")))
        if not good:
            raise BrokenPromiseError("that is not what was promised")
        return answer

    def done(self, text: str) -> None:
        """Prints that the walk kept every promise."""
        self._console.print()
        self._console.print(Text(text, "bold green"))

    def broken(self, text: str, log: str) -> None:
        """Prints why the walk ended early, and the server's last log lines."""
        self._console.print()
        self._console.print(Text(f"demo: {text}", "bold red"))
        if log:
            self._console.print(Text("the server's last lines:", "dim"))
            self._console.print(Text(log))


def _span(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _size(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"


def _name(file: Path) -> str:
    return file.name if file.name.isprintable() else repr(file.name)


def _version(written: str) -> str:
    """Returns a key version short enough for a line; some providers' versions are long uris."""
    last = written.rpartition("/")[2]
    return last if len(last) <= VERSION_SHOWN else f"{last[:VERSION_SHOWN]}…"


def _short(wrapped_key: bytes) -> str:
    return f"{wrapped_key[:6].hex()}…{wrapped_key[-4:].hex()} ({len(wrapped_key)} bytes)"


# --- the file and its data key ---------------------------------------------------------------


def encrypt(plain: BinaryIO, sealed: BinaryIO, key: bytes) -> int:
    """Writes nonce, ciphertext and tag (AES-256-GCM), and returns the number of plain bytes.

    It works piece by piece, so it needs the same memory for a file of any size. The nonce cannot
    repeat under the data key, because the key encrypts only one file.
    """
    nonce = os.urandom(NONCE_SIZE)
    sealed.write(nonce)
    cipher = Cipher(AES(key), GCM(nonce)).encryptor()
    count = 0
    while piece := plain.read(PIECE):
        sealed.write(cipher.update(piece))
        count += len(piece)
    cipher.finalize()
    sealed.write(cipher.tag)
    return count


def decrypts_to(sealed: BinaryIO, plain: BinaryIO, key: bytes) -> bool:
    """Decrypts and compares byte by byte; the answer is False unless the tag is right."""
    end = sealed.seek(-TAG_SIZE, os.SEEK_END)
    tag = sealed.read(TAG_SIZE)
    sealed.seek(0)
    cipher = Cipher(AES(key), GCM(sealed.read(NONCE_SIZE), tag)).decryptor()
    same, left = True, end - NONCE_SIZE
    while left:
        piece = cipher.update(sealed.read(min(PIECE, left)))
        same = same and plain.read(len(piece)) == piece
        left -= len(piece)
    try:
        cipher.finalize()
    except InvalidTag:
        return False
    return same and not plain.read(1)


# --- the server ------------------------------------------------------------------------------


class Interruptions:
    """Lets Ctrl-C and similar signals end the walk anywhere except while it tidies up."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False
        self._raised = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._arrived)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        self._pending = True
        if not self._held:
            self._raise()

    def _raise(self) -> None:
        # Raise once only, so that an impatient second Ctrl-C cannot stop the tidying up.
        if self._pending and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delays signals until the block has ended."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self._raise()


class Server:
    """A keyfold-server on a free port, with all its files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        self.set_up({"KEYFOLD_LOCAL_KEYS": "keys.json"})

    def set_up(self, settings: Mapping[str, str]) -> None:
        """Sets the server's environment: this process's, the demo's settings, and these on top."""
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("KEYFOLD_")}
        self.environment = inherited | {
            "KEYFOLD_LISTEN": "127.0.0.1:0",
            "KEYFOLD_STORE": "sqlite:///store.db",
            # With this every call uses the root key, and no step gets its answer from memory.
            "KEYFOLD_CACHE_TTL": "0s",
            "KEYFOLD_DRAIN_GRACE": "2s",
            **settings,
        }

    @property
    def log(self) -> str:
        """The last lines of the server's log."""
        try:
            lines = (self._folder / "log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-10:])

    def launch(self) -> None:
        """Starts the process; `wait_ready` must follow."""
        with (self._folder / "out").open("wb") as out, (self._folder / "log").open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [programs / "keyfold-server"],
                    cwd=self._folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                )
            except OSError as error:
                raise BrokenPromiseError(f"keyfold-server does not start: {error}") from error

    def wait_ready(self) -> str:
        """Waits for the server's line with its address, and returns the address."""
        assert self._process is not None  # noqa: S101  launch came first
        until = time.monotonic() + START_TIMEOUT
        while not (line := (self._folder / "out").read_text(errors="replace")).endswith("\n"):
            if (code := self._process.poll()) is not None:
                raise BrokenPromiseError(f"keyfold-server ended with exit code {code}")
            if time.monotonic() > until:
                raise BrokenPromiseError(f"keyfold-server is not ready in {START_TIMEOUT:.0f} s")
            time.sleep(0.02)
        address = line.split()[-1]
        self.environment["KEYFOLD_TARGET"] = address
        return address

    def stop(self) -> None:
        """Terminates the process, and kills it if it does not end in time."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT)

    def command(self, *words: str, shown: bool = False) -> str:
        """Runs a command in the server's folder and returns its output.

        Args:
            *words: The command. Its program comes from this environment.
            shown: Whether the command prints its own output; the function then returns "".
        """
        try:
            done = subprocess.run(
                [programs / words[0], *words[1:]],
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=None if shown else subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
        except OSError as error:
            raise BrokenPromiseError(f"{words[0]} does not start: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise BrokenPromiseError(
                f"{' '.join(words)}: still running after {COMMAND_TIMEOUT:.0f} s"
            ) from error
        if done.returncode != 0:
            raise BrokenPromiseError(
                f"{' '.join(words)}: exit code {done.returncode}: "
                f"{done.stderr.decode(errors='replace').strip()}"
            )
        return "" if shown else done.stdout.decode()


# --- the walk --------------------------------------------------------------------------------


class Walk:
    """The steps of the walk, with LOCAL root keys."""

    specs = SPECS
    shown_specs = f"examples/{SPECS.name}"
    newest = 2
    """The version of `eu`'s root key after the last rotation; see `Promise`."""

    def __init__(self, report: Report, server: Server, file: Path, folder: Path) -> None:
        self._report = report
        self._server = server
        self._versions: dict[str, list[tuple[str, str]]] = {}
        self._file = file
        self._sealed = folder / "encrypted"
        self._client = keyfold.Client(server.environment["KEYFOLD_TARGET"], timeout=CALL_TIMEOUT)

    def all(self) -> None:
        """Takes every step, in order."""
        with self._client:
            self._enable()
            wrapped_key = self._take_key_and_encrypt()
            self._open_file("Unwrap the data key, decrypt and compare", wrapped_key, generation=OLD)
            self._rotate()
            self._open_file(
                "Open the wrapped key from before the rotation", wrapped_key, generation=OLD
            )
            rewrapped = self._rewrap(wrapped_key)
            self._open_file("Open the rewrapped key", rewrapped, generation=NEW)
            self._tamper(rewrapped)
            self._revoke(rewrapped)
            self._restore(rewrapped)
            self._end(rewrapped)
            self._show_status()

    def _enable(self) -> None:
        self._report.step("Enable a cluster in two regions, each under its own root key")
        shown = f"keyfold enable {CLUSTER} --file {self.shown_specs}"
        promised = {"eu": ("ENABLED", 1, OLD), "us": ("ENABLED", 1, OLD)}
        self._cli(shown, promised, "enable", CLUSTER, "--file", str(self.specs))

    def _take_key_and_encrypt(self) -> bytes:
        self._report.step("Take a data key")
        key = self._report.ask(
            f'client.generate_data_key("{CLUSTER}", "eu", context={CONTEXT})',
            lambda: self._client.generate_data_key(CLUSTER, "eu", context=CONTEXT),
            lambda key: f"{key.plaintext!r}, wrapped: {_short(key.wrapped_key)}",
            lambda key: key.generation == OLD,
        )
        self._report.step(f"Encrypt {_name(self._file)} with it, and throw the plaintext key away")

        def work() -> int:
            with self._file.open("rb") as plain, self._sealed.open("wb") as sealed:
                return encrypt(plain, sealed, key.plaintext)

        self._report.ask("AES-256-GCM", work, lambda count: f"{_size(count)} encrypted")
        # The last reference to the plaintext key ends here. The rest has only the wrapped key.
        return key.wrapped_key

    def _rotate(self) -> None:
        self._report.step("Make a new version of the root key")
        self._make_version()
        self._report.step("Rotate the region to it")
        shown = f"keyfold rotate {CLUSTER} --region eu --new-generation"
        promised = {"eu": ("ENABLED", 2, NEW), "us": ("ENABLED", 1, OLD)}
        self._cli(shown, promised, *shown.split()[1:])
        self._disable_old()

    def _make_version(self) -> None:
        self._dev_keys("rotate", "eu", promised="version 2 enabled")

    def _disable_old(self) -> None:
        self._report.step("Disable the old version of the root key")
        self._dev_keys("disable", "eu", "--version", "1", promised="version 1 disabled")

    def _end(self, wrapped_key: bytes) -> None:
        """Takes further steps that only some providers can, before the walk shows the cluster."""

    def _rewrap(self, wrapped_key: bytes) -> bytes:
        self._report.step("Rewrap it; the plaintext key does not leave the server")
        answer = self._report.ask(
            f'client.rewrap("{CLUSTER}", wrapped_key, context=…)',
            lambda: self._client.rewrap(CLUSTER, wrapped_key, context=CONTEXT),
            lambda answer: f"generation {answer.generation}: {_short(answer.wrapped_key)}",
            lambda answer: answer.generation == NEW and answer.wrapped_key != wrapped_key,
        )
        return answer.wrapped_key

    def _tamper(self, wrapped_key: bytes) -> None:
        self._report.step("Change one byte of the wrapped key, and try to unwrap it")
        changed = bytearray(wrapped_key)
        changed[-1] ^= 1
        self._refused(bytes(changed), keyfold.WrappedKeyCorruptError)

    def _revoke(self, wrapped_key: bytes) -> None:
        self._report.step("Revoke the cluster, and try to unwrap")
        shown = f"keyfold revoke {CLUSTER} --yes"
        promised = {"eu": ("REVOKED", self.newest, NEW), "us": ("REVOKED", 1, OLD)}
        self._cli(shown, promised, *shown.split()[1:])
        self._refused(wrapped_key, keyfold.RevokedError)

    def _restore(self, wrapped_key: bytes) -> None:
        self._report.step("Restore it")
        shown = f"keyfold restore {CLUSTER}"
        promised = {"eu": ("ENABLED", self.newest, NEW), "us": ("ENABLED", 1, OLD)}
        self._cli(shown, promised, *shown.split()[1:])
        self._open_file("Unwrap, decrypt and compare once more", wrapped_key, generation=NEW)

    def _show_status(self) -> None:
        self._report.step("Look at the cluster")

        def show() -> keyfold.ClusterStatus:
            self._server.command("keyfold", "status", CLUSTER, shown=True)
            return self._client.get_status(CLUSTER)

        self._report.ask(
            f"$ keyfold status {CLUSTER}",
            show,
            lambda status: f"{len(status.regions)} regions",
            lambda status: all(one.health is keyfold.Health.HEALTHY for one in status.regions),
        )

    def _open_file(self, title: str, wrapped_key: bytes, *, generation: int) -> None:
        """Unwraps the data key, decrypts the file with it, and compares the two."""
        self._report.step(title)
        answer = self._report.ask(
            f'client.unwrap("{CLUSTER}", wrapped_key, context=…)',
            lambda: self._client.unwrap(CLUSTER, wrapped_key, context=CONTEXT),
            lambda answer: f"{answer.plaintext!r} of generation {answer.generation}",
            lambda answer: answer.generation == generation,
        )

        def work() -> bool:
            with self._file.open("rb") as plain, self._sealed.open("rb") as sealed:
                return decrypts_to(sealed, plain, answer.plaintext)

        self._report.ask(
            "decrypt, and compare byte by byte",
            work,
            lambda same: "the same bytes" if same else "not the file's bytes",
            bool,
        )

    def _refused(self, wrapped_key: bytes, kind: type[keyfold.KeyfoldError]) -> None:
        """Tries to unwrap, and expects exactly this error."""

        def work() -> keyfold.KeyfoldError | None:
            try:
                self._client.unwrap(CLUSTER, wrapped_key, context=CONTEXT)
            except keyfold.KeyfoldError as error:
                return error
            return None

        self._report.ask(
            f'client.unwrap("{CLUSTER}", wrapped_key, context=…)',
            work,
            lambda error: f"refused, {error.reason}: {error.message}" if error else "unwrapped",
            lambda error: type(error) is kind,
        )

    def _dev_keys(self, *words: str, promised: str) -> None:
        self._report.ask(
            f"$ keyfold-server dev-keys {' '.join(words)}",
            lambda: self._server.command("keyfold-server", "dev-keys", *words).strip(),
            str,
            lambda said: promised in said,
        )

    def _cli(self, shown: str, promised: Mapping[str, Promise], *words: str) -> None:
        """Runs a command that changes the cluster, and checks its answer against the promise."""
        self._report.ask(
            f"$ {shown} --json",
            lambda: _regions(self._server.command("keyfold", *words, "--json")),
            lambda regions: "; ".join(
                f"{name} {state}, generation {generation} under version {_version(version)} of its "
                "root key"
                for name, (state, _, version, generation) in regions.items()
            ),
            lambda regions: self._kept(regions, promised),
        )

    def _kept(self, regions: Mapping[str, Region], promised: Mapping[str, Promise]) -> bool:
        """Says whether regions are as promised, and notes the key versions in the order seen."""
        if regions.keys() != promised.keys():
            return False
        for name, (state, number, generation) in promised.items():
            is_state, key, version, is_generation = regions[name]
            seen = self._versions.setdefault(name, [])
            if number == len(seen) + 1 and version and (key, version) not in seen:
                seen.append((key, version))
            if (is_state, is_generation) != (state, generation):
                return False
            if number > len(seen) or seen[number - 1] != (key, version):
                return False
        return True


def _regions(answer: str) -> dict[str, Region]:
    """Reads the regions from the command line's JSON output."""
    return {
        one["region"]: (
            one["state"].removeprefix("STATE_"),
            one["key_spec"]["uri"],
            one["key_version"],
            one["generations"][-1]["generation"],
        )
        for one in json.loads(answer)["status"]["regions"]
    }


class Stage:
    """Prepares the walk: makes the root keys and starts the server."""

    title = "The life of a key"
    about: tuple[str, ...] = ()

    def start(
        self, report: Report, server: Server, folder: Path, interruptions: Interruptions
    ) -> None:
        """Makes the root keys and starts the server."""
        del folder  # The server has its own folder already.

        def create(name: str) -> str:
            return server.command("keyfold-server", "dev-keys", "create", name).strip()

        report.step("Make two root keys, as a customer would in their own KMS")
        for name in ("eu", "us"):
            report.ask(f"$ keyfold-server dev-keys create {name}", partial(create, name), str)
        self.serve(report, server, interruptions)

    def serve(self, report: Report, server: Server, interruptions: Interruptions) -> None:
        """Starts the server."""

        def serve() -> str:
            with interruptions.held():
                server.launch()
            return server.wait_ready()

        report.step("Start a server, which makes its store")
        report.ask("$ keyfold-server", serve, lambda address: f"ready on {address}")

    def walk(self, report: Report, server: Server, file: Path, folder: Path) -> Walk:
        """Returns the steps."""
        return Walk(report, server, file, folder)

    def close(self) -> None:
        """Ends what the stage started besides the server."""


def file_of(environment: str | None) -> Path:
    """Returns the file to encrypt.

    Raises:
        ValueError: The demo cannot use the file; the message says why.
    """
    file = Path(environment or ROOT / "README.md").absolute()
    try:
        if not file.exists():
            raise ValueError(f"there is no file {file}")
        if not file.is_file():
            raise ValueError(f"{file} is not a file")
        with file.open("rb"):
            pass
        if file.stat().st_size > MAX_FILE:
            raise ValueError(f"{file} has more than 64 GiB, the most of one AES-GCM message")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    return file


def run(report: Report, file: Path, interruptions: Interruptions, stage: Stage) -> int:
    """Takes the whole walk, tidies up in every case, and returns the exit code."""
    with ExitStack() as tidy:
        with interruptions.held():
            folder = tempfile.TemporaryDirectory(prefix="keyfold-demo-")
            server = Server(Path(folder.name))

            def end() -> None:
                with interruptions.held():
                    server.stop()
                    stage.close()
                    folder.cleanup()

            # Twice, because a signal may interrupt the first before it delays signals. A second
            # run does no harm.
            tidy.callback(end)
            tidy.callback(end)
        try:
            stage.start(report, server, Path(folder.name), interruptions)
            stage.walk(report, server, file, Path(folder.name)).all()
        except BrokenPromiseError as error:
            report.broken(str(error), server.log)
            return EXIT_BROKEN
        except keyfold.KeyfoldError as error:
            report.broken(f"{error.reason}: {error.message}", server.log)
            return EXIT_BROKEN
        except (OSError, ValueError, LookupError) as error:
            report.broken(f"{type(error).__name__}: {error}", server.log)
            return EXIT_BROKEN
    return 0


def main(stage: Stage | None = None) -> int:
    """Runs the demo and returns its exit code."""
    report, stage = Report(), stage or Stage()
    try:
        interruptions = Interruptions()
        file = file_of(os.environ.get("FILE"))
        began = time.monotonic()
        report.title(
            f"{stage.title}, on {_name(file)} ({_size(file.stat().st_size)})",
            *stage.about,
            "A command's time includes the start of its program.",
        )
        code = run(report, file, interruptions, stage)
    except ValueError as error:
        report.broken(str(error), "")
        return EXIT_USAGE
    except KeyboardInterrupt:
        report.broken("interrupted; stopped the server and removed its folder", "")
        return EXIT_INTERRUPTED
    if code == 0:
        took = _span(time.monotonic() - began)
        report.done(f"Every step came out as promised. {took}, and nothing is left behind.")
    return code


if __name__ == "__main__":
    sys.exit(main())
