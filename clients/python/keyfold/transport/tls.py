"""The certificates of a TLS connection."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from keyfold.arguments import wrong_value
from keyfold.transport.files import unreadable


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates that server and client prove themselves with: paths, or PEM bytes.

    Attributes:
        ca: The authorities that may sign the server's certificate; None means the system's.
        cert: The client's certificate chain, for mutual TLS.
        key: The client's private key, for mutual TLS.
        server_name: The name that the server's certificate must hold, if it is not the target's.
    """

    ca: str | os.PathLike[str] | bytes | None = None
    cert: str | os.PathLike[str] | bytes | None = None
    key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns the gRPC credentials.

        Raises:
            ArgumentValueError: The certificate was given without the key, or the key without it.
            FileUnreadableError: A file cannot be read.
        """
        if (self.cert is None) != (self.key is None):
            raise wrong_value("give a client certificate and its key together, or neither")
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.cert))


def _pem(part: str | os.PathLike[str] | bytes | None) -> bytes | None:
    if part is None or isinstance(part, bytes):
        return part
    try:
        return Path(part).read_bytes()
    except OSError as error:
        raise unreadable(part, error) from error
