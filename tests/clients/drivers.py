"""What makes the calls of a case: a driver for each client.

A driver opens a client, makes one call after another, and returns what came of each in the form of
the cases. It knows nothing of what a case expects.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import keyfold
from clients.forms import error_form, form, printed

Settings = Mapping[str, Any]
Arguments = Mapping[str, Any]


class Outcome(NamedTuple):
    """What came of a step.

    Attributes:
        value: The result.
        error: The error, in place of a result; empty if there is none.
        printed: What a program prints that prints the result or the error in every way.
    """

    value: Any = None
    error: Mapping[str, Any] = {}
    printed: str = ""


class Driver(ABC):
    """A client of one language."""

    @abstractmethod
    def open(self, settings: Settings) -> Outcome:
        """Makes a client, in place of the one before."""

    @abstractmethod
    def call(self, name: str, arguments: Arguments, timeout: float | None) -> Outcome:
        """Makes a call."""

    @abstractmethod
    def close(self) -> None:
        """Closes the client."""


# --- Python ----------------------------------------------------------------------------

_BYTES: Final = ("plaintext", "wrapped_key")
"""Arguments that are bytes."""


class PythonDriver(Driver):
    """The Python client, or the one for asyncio, on an event loop of its own."""

    def __init__(self, kind: type[keyfold.Client | keyfold.AsyncClient]) -> None:
        self._kind = kind
        self._client: Any = None
        self._watch: Any = None
        self._loop = asyncio.Runner()

    def open(self, settings: Settings) -> Outcome:
        self._end()

        async def make() -> Any:
            return self._kind(**_settings(settings))

        return self._outcome(lambda: self._loop.run(make()), "_client")

    def call(self, name: str, arguments: Arguments, timeout: float | None) -> Outcome:
        if name == "watch":
            watching = self._client.watch(**arguments)
            self._watch = aiter(watching) if hasattr(watching, "__aiter__") else iter(watching)
            return Outcome()
        if name == "next":
            return self._outcome(self._next)
        if name in {"seal", "open", "rekey"}:
            return self._outcome(lambda: self._enveloped(name, **arguments))
        given = python_arguments(name, arguments)
        if timeout is not None:
            given["timeout"] = timeout
        return self._outcome(lambda: self._finished(getattr(self._client, name)(**given)))

    def close(self) -> None:
        self._end()
        self._loop.close()

    def _end(self) -> None:
        if self._client is not None:
            self._finished(self._client.close())
        self._client = self._watch = None

    def _outcome(self, work: Callable[[], Any], keep: str = "") -> Outcome:
        try:
            value = work()
        except keyfold.KeyfoldError as error:
            return Outcome(error=error_form(error), printed=printed(error))
        if keep:
            setattr(self, keep, value)
            return Outcome()
        return Outcome(form(value), printed=printed(value))

    def _enveloped(
        self, name: str, *, cluster: str, data: str, context: Any, own: Any = None
    ) -> Any:
        kind = keyfold.Envelope if self._kind is keyfold.Client else keyfold.AsyncEnvelope
        envelope = kind(self._client, cluster, "eu", context=context)
        given = (bytes.fromhex(data),) if name == "rekey" else (bytes.fromhex(data), own)
        return self._finished(getattr(envelope, name)(*given))

    def _next(self) -> Any:
        """Returns the next message of the watch that is not a heartbeat."""
        while True:
            asynchronous = hasattr(self._watch, "__anext__")
            message = self._finished(anext(self._watch) if asynchronous else next(self._watch))
            if not isinstance(message, keyfold.Heartbeat):
                return message

    def _finished(self, given: Any) -> Any:
        """Returns the result of a call, synchronous or not; of a list, all of its items."""

        async def finish() -> Any:
            if hasattr(given, "__aiter__"):
                return [one async for one in given]
            return await given if isinstance(given, Awaitable) else given

        result = self._loop.run(finish())
        return list(result) if hasattr(result, "__next__") else result


def _settings(given: Settings) -> dict[str, Any]:
    settings = dict(given)
    if settings.pop("tls", False):
        parts = {name: settings.pop(name, None) for name in ("ca", "cert", "key", "server_name")}
        settings["tls"] = keyfold.Tls(**parts)
    for name in {"token", "on_behalf_of"} & settings.keys():
        settings[name] = partial(str, settings[name])
    if "token_file" in settings:
        settings["token"] = Path(settings.pop("token_file"))
    return settings


def python_arguments(name: str, arguments: Arguments) -> dict[str, Any]:
    """Returns arguments as the Python client takes them."""
    given: dict[str, Any] = {
        key: bytes.fromhex(value) if key in _BYTES else value for key, value in arguments.items()
    }
    if "destination" in given:
        given["destination"] = keyfold.Destination(**given["destination"])
    if "key_spec" in given:
        given["key_spec"] = keyfold.KeySpec(**given["key_spec"])
    if "selector" in given:
        given["selector"] = keyfold.KeySelector(**given["selector"])
    if "region_specs" in given:
        given["region_specs"] = [_region_spec(one) for one in given["region_specs"]]
    if "items" in given:
        kind = {
            "batch_wrap": keyfold.WrapItem,
            "batch_unwrap": keyfold.UnwrapItem,
            "batch_rewrap": keyfold.RewrapItem,
        }[name]
        given["items"] = [kind(**python_arguments(name, one)) for one in given["items"]]
    if name == "list_clusters":
        given = {"narrow": keyfold.ClusterFilter(**given)}
    return given


def _region_spec(given: Mapping[str, Any]) -> keyfold.RegionSpec:
    spec = dict(given)
    if "key_spec" in spec:
        spec["key_spec"] = keyfold.KeySpec(**spec["key_spec"])
    return keyfold.RegionSpec(**spec)


# --- Go --------------------------------------------------------------------------------


class GoDriver(Driver):
    """The client for Go, in a process of its own: clients/go/internal/cases."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )

    def open(self, settings: Settings) -> Outcome:
        return self._tell({"open": settings})

    def call(self, name: str, arguments: Arguments, timeout: float | None) -> Outcome:
        return self._tell({"call": name, "arguments": arguments, "timeout": timeout or 0})

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)

    def _tell(self, order: Mapping[str, Any]) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the program for Go ended; its error is above"
        told = json.loads(line)
        return Outcome(told.get("value"), told.get("error", {}), told.get("printed", ""))
