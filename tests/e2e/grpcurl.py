"""grpcurl, a client that is not ours, as a user runs it on one server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from e2e.server import WAIT, Server

SERVICE: Final = "keyfold.v1.KeyManagementService"
EVENTS: Final = "keyfold.v1.EventService"
ORGANIZATIONS: Final = "keyfold.v1.OrganizationService"


class Grpcurl:
    """grpcurl on one server, and on one service of it."""

    def __init__(self, path: str, server: Server, service: str = SERVICE) -> None:
        self._path = path
        self._server = server
        self._service = service
        # A unix socket as gRPC writes it; the release's own -unix does not take a bare path.
        self._where = server.target

    def of(self, service: str) -> Grpcurl:
        """Returns grpcurl on another service of the server."""
        return Grpcurl(self._path, self._server, service)

    def __call__(self, *arguments: str, data: str | None = None, code: int = 0) -> str:
        """Runs grpcurl and returns its output."""
        sent = [] if data is None else ["-d", "@"]
        options = [a for a in arguments if a.startswith("-")]
        rest = [a for a in arguments if not a.startswith("-")]
        done = subprocess.run(
            [self._path, "-plaintext", *options, *sent, self._where, *rest],
            input=data,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == (code == 0), output
        return output

    def ask(self, method: str, **request: Any) -> dict[str, Any]:
        """Makes a call and returns its answer."""
        answer: dict[str, Any] = json.loads(
            self(f"{self._service}/{method}", data=json.dumps(request))
        )
        return answer

    def refused(self, method: str, **request: Any) -> str:
        """Makes a call that fails, and returns what grpcurl says of that."""
        return self(f"{self._service}/{method}", data=json.dumps(request), code=1)

    def stream(self, method: str, **request: Any) -> Stream:
        """Begins to read a stream; use it in a `with`, whose end ends grpcurl."""
        return Stream(
            [self._path, "-plaintext", "-d", json.dumps(request), self._where],
            f"{self._service}/{method}",
        )


class Stream:
    """The messages of a stream that grpcurl reads, as they come.

    Attributes:
        error: What grpcurl said when the server ended the stream, once it has ended.
    """

    def __init__(self, command: list[str], method: str) -> None:
        self.error = ""
        self._process = subprocess.Popen(
            [*command, method],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # As Ctrl-C ends it, if the server has not.
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate(timeout=WAIT)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the messages until the stream ends."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        lines: list[str] = []
        for line in self._process.stdout:
            lines.append(line)
            # It indents everything of a message but the two lines that enclose it.
            if line in {"}\n", "{}\n"}:
                yield json.loads("".join(lines))
                lines.clear()
        self.error = self._process.stderr.read()

    def until(self, kind: str) -> dict[str, Any]:
        """Reads up to the next message of a kind, such as `state`."""
        return next(message for message in self if kind in message)
