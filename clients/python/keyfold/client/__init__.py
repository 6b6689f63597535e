"""The client for programs that wait for their answers."""

from __future__ import annotations

from keyfold.client.data_plane import DataPlane
from keyfold.client.lifecycle import Lifecycle

__all__ = ["Client"]


class Client(DataPlane, Lifecycle):
    """A connection to Keyfold, for any number of threads. Every method raises `KeyfoldError`.

    Args:
        target: `host:port`, `unix:/path`, or several `host:port` in a list or with commas
            between; calls go round all of them.
        tls: How the connection is secured; None is plain text, which a server allows on its own
            machine alone.
        token: A JWT that says who calls, where the server knows its callers by one: the path of
            its file, which is read anew whenever it changes, or a callable that is asked before
            each call and must not block. Over plain text it goes to loopback addresses and unix
            sockets alone.
        on_behalf_of: For whom the calls are made, for the server's audit trail, if its policy
            believes this caller: a name, or a callable that is asked before each call, such as
            the `get` of a `ContextVar`; nothing is sent where it returns an empty string.
        timeout: Seconds that a call of the data plane may take.
        control_timeout: Seconds that any other call may take; it may wait for several of the
            customer's root keys.

    Each method's `timeout`, in seconds, replaces these for one call. A call that finds a server
    unavailable is sent up to three times more within its time.

    Example:
        >>> import keyfold
        >>> with keyfold.Client(target) as client:
        ...     key = client.generate_data_key("prod", "eu", context={"table": "users"})
        ...     # Encrypt with key.plaintext, store key.wrapped_key, forget the plaintext.
        ...     again = client.unwrap("prod", key.wrapped_key, context={"table": "users"})
        >>> again.plaintext == key.plaintext
        True
        >>> again.plaintext
        Plaintext(<32 bytes>)
    """
