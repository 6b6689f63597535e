"""The client for asyncio, from which `make client` generates `keyfold.client`."""

from __future__ import annotations

from keyfold.aio.caller import Callers
from keyfold.aio.data_plane import DataPlane
from keyfold.aio.deletion import Deletion
from keyfold.aio.events import Events
from keyfold.aio.key_usage import KeyUses
from keyfold.aio.lifecycle import Lifecycle
from keyfold.aio.operations import Operations
from keyfold.aio.organizations import Organizations
from keyfold.aio.watch import AsyncWatch, Watching

__all__ = ["AsyncClient", "AsyncWatch"]


class AsyncClient(
    DataPlane,
    Lifecycle,
    KeyUses,
    Deletion,
    Organizations,
    Operations,
    Events,
    Watching,
    Callers,
):
    """A connection to Keyfold for asyncio. Every method raises `KeyfoldError` and nothing else.

    It belongs to the event loop of its first call, and cancelling a task cancels its call.

    Args:
        target: The servers' address: `host:port`, `unix:/path`, or several `host:port`, in a list
            or separated by commas. The client spreads its calls over all of them.
        tls: The certificates that secure the connection. None means plain text, which a server
            accepts only from its own machine.
        token: A JWT that identifies the caller, for servers that identify callers by token. Pass
            the path of a file, which the client reads again whenever it changes, or a callable,
            which the client calls before each request and which must not block. Over plain text
            the client sends tokens only to loopback addresses and unix sockets.
        on_behalf_of: The person or system that the calls are made for. The server writes it to
            its audit trail if its policy trusts this caller to name one. Pass a name, or a
            callable that the client calls before each request, such as a `ContextVar.get`; when
            it returns an empty string, the client sends no name.
        timeout: Deadline of a data-plane call, in seconds.
        control_timeout: Deadline of any other call, in seconds. Such a call may wait for several
            of the customer's root keys.
        coalesce: Whether calls of `wrap`, `unwrap` and `rewrap` that are made while another one
            is under way travel with the next, as a batch. A call that finds no other under way
            goes at once. Set it where many callers use the keys of a cluster at the same time,
            such as a server's handlers: for 64 of them a key costs the server about a seventh. It
            changes nothing for a caller who makes one call after another, and little where each
            call is about another cluster or KEK, because only calls about one KEK travel together.
            The results, errors, deadlines and cancellation of a call stay its own.
            docs/throughput.md has the rest.

    Each method's own `timeout`, in seconds, replaces these for one call. When a server is
    unavailable, the client sends the call up to three more times before the deadline.

    Each method says what it raises of its own. Besides, any method may raise `ArgumentTypeError`
    or `ArgumentValueError` before it sends anything; `UnauthenticatedError` or `ForbiddenError` if
    the server does not know the caller, or its policy says no; `UnavailableError`, `LimitError` or
    `DeadlineError` if there is no answer now; `InternalError`; and `ClosedError`, `ForkedError` or
    `EventLoopError` if the client is used after its end or where it cannot work.

    Example:
        >>> import keyfold
        >>> async with keyfold.AsyncClient(target) as client:
        ...     key = await client.generate_data_key("prod", "eu", context={"table": "users"})
        ...     # Encrypt with key.plaintext, store key.wrapped_key, forget the plaintext.
        ...     again = await client.unwrap("prod", key.wrapped_key, context={"table": "users"})
        >>> again.plaintext == key.plaintext
        True
        >>> again.plaintext
        Plaintext(<32 bytes>)
    """
