"""The SDK's client for Cloud KMS, and the gRPC channel that it calls over.

Invariant: a call ends within its time, and its answer is bounded. The credential goes with each
call as metadata. The SDK would use a plug-in of the channel instead, which renews the credential in
threads of its own and shows it to hosts that no setting names. Keyfold never uses a channel again
that failed, since gRPC would fail further calls while it waits to connect anew. This module must
not know what the calls are for.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import grpc
from google.api_core.exceptions import DeadlineExceeded, GoogleAPICallError, ServiceUnavailable
from google.api_core.gapic_v1 import client_info
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcTransport,
)

from keyfold_server.domain import attempts
from keyfold_server.providers.shared.connections import MAX_ANSWER
from keyfold_server.providers.shared.deadlines import CONNECT_TIMEOUT, current

Headers = tuple[tuple[str, str], ...]
"""Names and values of a call's metadata, which prove who calls."""

# At the level DEBUG the SDK logs requests and answers, plaintexts and credentials included.
for _name in ("google", KeyManagementServiceGrpcTransport.__module__):
    logging.getLogger(_name).setLevel(logging.WARNING)

_CONNECT_MS: Final = int(CONNECT_TIMEOUT * 1000)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER),
    # The longest that one attempt to connect may take, and the longest wait for the next one.
    ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", _CONNECT_MS),
    # Each channel has connections of its own, and waits after its own failures alone.
    ("grpc.use_local_subchannel_pool", 1),
    # No answer of a name server changes how gRPC makes calls, for example how often.
    ("grpc.service_config_disable_resolution", 1),
)


class _Line:
    """A channel with the SDK's client on it.

    Attributes:
        answered: Whether the channel has carried an answer.
        client: The client.
        users: The number of calls under way.
        retired: Whether the channel gets no further call.
    """

    __slots__ = ("_channel", "answered", "client", "retired", "users")

    def __init__(self, target: str, tls: grpc.ChannelCredentials) -> None:
        self._channel = grpc.secure_channel(target, tls, options=_OPTIONS)
        over: Any = KeyManagementServiceGrpcTransport
        who: Any = client_info.ClientInfo
        self.client: Any = KeyManagementServiceClient(
            transport=over(channel=self._channel, client_info=who(user_agent="keyfold"))
        )
        self.answered = False
        self.users = 0
        self.retired = False

    def close(self) -> None:
        self._channel.close()


class Client:
    """Calls Cloud KMS at one endpoint. Safe for many threads."""

    def __init__(self, target: str, tls: grpc.ChannelCredentials) -> None:
        """Prepares; connects with the first call.

        Args:
            target: Host and port.
            tls: The certificates to trust.
        """
        self._target = target
        self._tls = tls
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._closed = False

    def call(self, method: str, request: Any, headers: Headers) -> Any:
        """Calls a method of the SDK's client, by its name in Python, within the thread's call.

        Raises:
            GoogleAPICallError: Google answered no, or did not answer.
            TimeoutError: No time is left.
        """
        line = self._take()
        if line.answered:
            try:
                return self._call_on(line, method, request, headers)
            except ServiceUnavailable:
                # A good connection may end between two calls, and the next call finds out. It is
                # safe to call again over a new one: no method that is called changes anything.
                line = self._take()
                attempts.count_retry()
        return self._call_on(line, method, request, headers)

    def _call_on(self, line: _Line, method: str, request: Any, headers: Headers) -> Any:
        try:
            left = current().remaining()
            call = getattr(line.client, method)
            reply = call(request=request, retry=None, timeout=left, metadata=headers)
        except (DeadlineExceeded, ServiceUnavailable):
            self._retire(line)
            raise
        except GoogleAPICallError:
            line.answered = True
            raise
        finally:
            self._leave(line)
        line.answered = True
        return reply

    def close(self) -> None:
        """Closes the channel once the calls under way are over.

        A thread that holds the client already may still call; its call gets a channel of its own.
        """
        with self._lock:
            self._closed = True
            line = self._line
        if line is not None:
            self._retire(line)

    def _take(self) -> _Line:
        with self._lock:
            line = self._line
            if line is None:
                line = self._line = _Line(self._target, self._tls)
            line.users += 1
            return line

    def _retire(self, line: _Line) -> None:
        with self._lock:
            if self._line is line:
                self._line = None
            was, line.retired = line.retired, True
            idle = not line.users and not was
        if idle:
            line.close()

    def _leave(self, line: _Line) -> None:
        with self._lock:
            line.users -= 1
            if self._closed and not line.users:
                self._line, line.retired = None, True
            over = line.retired and not line.users
        # Not earlier, since closing the channel would end the calls of others on it.
        if over:
            line.close()
