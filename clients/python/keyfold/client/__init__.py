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
