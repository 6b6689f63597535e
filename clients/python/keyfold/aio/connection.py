"""The line to the servers, and how a call goes over it."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from copy import copy
from types import TracebackType
from typing import Any, Final, Self, cast

from keyfold.arguments import wrong_type
from keyfold.calls.batches import Part
from keyfold.calls.call import Call, Plane, Response, Result
from keyfold.calls.key_calls import KeyCall
from keyfold.coalescing.tasks import AsyncCoalescer
from keyfold.errors import KeyfoldError
from keyfold.transport.caller import Caller, CallerMetadata, OnBehalfOf, Token
from keyfold.transport.channel import endpoint
from keyfold.transport.diagnosis import Diagnosis, async_explained
from keyfold.transport.failures import FAILURES, about, failure_of
from keyfold.transport.line import Line, Lines
from keyfold.transport.loops import async_this_loop
from keyfold.transport.target import DEFAULT_TARGET, Target
from keyfold.transport.timeouts import CONTROL_TIMEOUT, DATA_TIMEOUT, Timeouts
from keyfold.transport.tls import Tls
from keyfold.transport.tracing import Link, client_span


class Connection:
    """A line to the servers. It sends calls and raises their failures as exceptions.

    Attributes:
        timeouts: The deadlines of calls that do not set their own.
    """

    def __init__(
        self,
        target: Target = DEFAULT_TARGET,
        *,
        tls: Tls | None = None,
        token: Token | None = None,
        on_behalf_of: OnBehalfOf | None = None,
        timeout: float = DATA_TIMEOUT,
        control_timeout: float = CONTROL_TIMEOUT,
        coalesce: bool = False,
    ) -> None:
        """Makes a client, which connects when it makes its first call.

        Raises:
            ArgumentTypeError: An argument has a type that is not taken, such as a token that is
                neither a path nor a callable.
            ArgumentValueError: The client cannot use the target, the TLS options, the token or the
                name, or the token would go over plain text to another machine.
            FileUnreadableError: A file cannot be read.
            UnavailableError: One of several host names does not resolve.
        """
        self._caller = Caller(token, on_behalf_of)
        self._endpoint = endpoint(target, tls, with_token=self._caller.brings_token)
        self.timeouts: Final = Timeouts.of_client(timeout, control_timeout)
        if not isinstance(coalesce, bool):
            raise wrong_type("coalesce", "bool", coalesce)
        self._coalescer = AsyncCoalescer() if coalesce else None
        self._diagnosis = Diagnosis(self._endpoint)
        self._lines = Lines(self._endpoint, self._endpoint.aio_channel, async_this_loop)

    def with_token(self, token: Token) -> Self:
        """Returns a client over the same connection whose calls bring another token.

        It serves a program that calls in the name of its visitors, each of whom brings a token of
        their own. Its calls say no `on_behalf_of`. Closing either client ends the connection for
        both.

        Raises:
            ArgumentTypeError: The token is neither a path nor a callable.
            ArgumentValueError: The file does not hold a token, or the token would go over plain
                text to another machine.
            FileUnreadableError: The file cannot be read.
        """
        caller = Caller(token, None)
        self._endpoint.check_token()
        other = copy(self)
        other._caller = caller  # noqa: SLF001  of its own class, before anybody else has it
        return other

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels the calls that are under way.

        Closing it again does nothing. A later call raises `ClosedError`.
        """
        channels = self._lines.close()
        if self._coalescer is not None:
            self._coalescer.close()
        for channel in channels:
            await channel.close()

    async def send(
        self,
        call: Call[Response, Result],
        *,
        timeout: float | None = None,
        caller: CallerMetadata | None = None,
        links: Sequence[Link] = (),
    ) -> Response:
        """Sends a call of `keyfold.calls` and returns its response as the protobuf message.

        Args:
            call: The call.
            timeout: Seconds that it may take; None: the client's.
            caller: What the call says of its caller; if None, what the client was made with.
            links: For a batch, links to the spans of its calls.
        """
        with client_span(call.method, call.service, links) as trace:
            try:
                limit = self.timeouts.of(call.plane, timeout)
                line = self._lines.line()
                method = getattr(line.stubs[call.service], call.method)
                if caller is None:
                    caller = self._caller.metadata()
                response = await method(call.request, timeout=limit, metadata=[*caller, *trace])
            except KeyfoldError as refused:
                about(refused, call)
                raise
            except FAILURES as failed:
                error = self.failure(failed, call)
                seconds = self.timeouts.of(call.plane, timeout)
                raise await async_explained(self._diagnosis, error, seconds) from failed
        return cast("Response", response)

    def failure(self, failed: BaseException, call: Call[Response, Result]) -> BaseException:
        """Returns the error of a call that failed with one of `FAILURES`."""
        error = failure_of(failed, call, closed=self._lines.closed)
        return self._diagnosis.said_again(error)

    async def explained(self, error: KeyfoldError) -> BaseException:
        """Returns an error; if no server was reached, one that says why."""
        return await async_explained(self._diagnosis, error, self.timeouts.control)

    def line(self) -> Line:
        """Returns what new calls go over: another one when the certificates were renewed."""
        return self._lines.line()

    def stream(self, call: Call[Response, Result], line: Line) -> Any:
        """Begins a call whose response is a stream, and returns gRPC's own call to iterate over.

        Hold on to the line for as long as the stream goes on.
        """
        method = getattr(line.stubs[call.service], call.method)
        return method(call.request, metadata=self._caller.metadata())

    async def _ask(self, call: Call[Response, Result], timeout: float | None) -> Result:
        return call.result(await self.send(call, timeout=timeout))

    def _ask_together(
        self, call: KeyCall[Response, Result], timeout: float | None
    ) -> Coroutine[Any, Any, Result]:
        """Makes a call about one key, which may travel with others if the client coalesces."""
        if self._coalescer is None:
            return self._ask(call, timeout)
        try:
            self._lines.line()  # It raises where nobody may touch what the parent's threads hold.
            limit = self.timeouts.of(call.plane, timeout)
            caller = self._caller.metadata()
        except KeyfoldError as error:
            about(error, call)
            raise
        return self._coalescer.ask(self, call, limit, caller)

    async def _batch(
        self, parts: Iterable[Part[Response, Result]], timeout: float | None
    ) -> list[Result | KeyfoldError]:
        self.timeouts.of(Plane.DATA, timeout)  # It raises, and is no fault of an item.
        results: list[Result | KeyfoldError] = []
        for part in parts:
            try:
                results += part.checked(await self._ask(part.call, timeout))
            except KeyfoldError as error:
                results += part.failed(error)
        return results
