"""Streams: data of any length, encrypted by Tink under a key that the stream's header holds.

What follows the header is Tink's streaming AEAD as Tink makes it, key type AesGcmHkdfStreamingKey
with segments of 1 MiB (its template AES256_GCM_HKDF_1MB). It takes a quarter of the time of Tink's
other type, whose HMAC would commit to the key, as the header does already.

Tink calls into Python to read and write, and turns what is raised there into errors of its own.
Therefore a source keeps what it raised. What Tink writes is collected, and goes to the target from
here: an error of the target is then the caller's own, and what Tink still writes when it is dropped
goes nowhere. Otherwise a stream that nobody finished would get an end, and pass for complete.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from keyfold.envelope.cipher import corrupt
from keyfold.envelope.header import Readable, Writable, read_some, write_all
from keyfold.envelope.message import STREAM
from keyfold.envelope.naming import Naming
from keyfold.errors import ClosedError, DataTooLargeError, ExtraMissingError

if TYPE_CHECKING:
    from typing_extensions import Buffer

KEY_SIZE: Final = 32
"""Bytes of a stream's key."""

SEGMENT_SIZE: Final = 1 << 20
"""Bytes of a segment of ciphertext. A reader and a writer keep two of them in memory."""

_PART: Final = 128 * 1024
"""Bytes that are passed on at once. Larger pieces cost more: the system maps their memory anew."""

_TYPE: Final = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"


@functools.cache
def tink() -> Any:
    """Returns the module of Tink, ready to use.

    Raises:
        ExtraMissingError: It is not installed.
    """
    try:
        import tink as module
        from tink import streaming_aead
    except ModuleNotFoundError as error:
        raise ExtraMissingError(
            f"streams need the package {error.name}, which is missing: install keyfold[files]",
            code="UNIMPLEMENTED",
        ) from error
    streaming_aead.register()
    return module


def _primitive(key: bytes) -> Any:
    """Returns Tink's primitive of a stream's key."""
    from tink import secret_key_access, streaming_aead
    from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

    params = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=SEGMENT_SIZE,
        derived_key_size=KEY_SIZE,
        hkdf_hash_type=common_pb2.SHA256,
    )
    one = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(params=params, key_value=key)
    data = tink_pb2.KeyData(
        type_url=_TYPE, value=one.SerializeToString(), key_material_type=tink_pb2.KeyData.SYMMETRIC
    )
    raw = tink_pb2.Keyset.Key(
        key_data=data, output_prefix_type=tink_pb2.RAW, status=tink_pb2.ENABLED, key_id=1
    )
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[raw]).SerializeToString()
    handle = tink().proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


class _Collected:
    """What Tink writes while it may."""

    def __init__(self) -> None:
        self.taking = False
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        if self.taking:
            self._parts.append(data)
        return len(data)

    def close(self) -> None:
        """Does nothing: the target is the caller's."""

    def taken(self) -> list[bytes]:
        """Returns what was written since the last call."""
        parts, self._parts = self._parts, []
        return parts


class SealingStream(io.BufferedIOBase):
    """Encrypts what is written to it, and writes that to a target, which stays the caller's.

    Closing it writes the end, without which a stream does not open. If the block of its `with`
    raises, or nobody closes it, it gets no end. It works in the thread that calls it, and belongs
    to one thread at a time.
    """

    def __init__(self, key: bytes, aad: bytes, target: Writable) -> None:
        """Begins a stream, whose header the target has.

        Args:
            key: The stream's key.
            aad: What the stream is bound to.
            target: Takes the stream.
        """
        self._target = target
        self._collected = _Collected()
        self._size = 0
        self._tink: Any = _primitive(key).new_encrypting_stream(self._collected, aad)

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, data: Buffer, /) -> int:
        """Encrypts bytes; returns how many: all.

        Raises:
            DataTooLargeError: The stream is longer than Tink allows: 4 PiB.
            OSError: The target does not take them. The stream then gets no end.
            ClosedError: The stream is closed, or has failed.
        """
        if self._tink is None:
            raise ClosedError(
                "the stream is closed, or has failed; begin another", code="CANCELLED"
            )
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _PART):
            part = view[at : at + _PART]
            self._pass_on(functools.partial(self._tink.write, part))
            self._size += len(part)
        return len(view)

    def close(self) -> None:
        """Writes the end.

        Raises:
            OSError: The target does not take it. The stream then has no end.
        """
        if self._tink is not None:
            self._pass_on(self._tink.close)
        self.abort()

    def abort(self) -> None:
        """Leaves the stream without its end, so that it does not open."""
        self._tink = None
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        self._tink = None

    def _pass_on(self, step: Callable[[], object]) -> None:
        """Has Tink take a step, and writes what comes of it."""
        try:
            self._collected.taking = True
            try:
                step()
            finally:
                self._collected.taking = False
            for part in self._collected.taken():
                write_all(self._target, part)
        except tink().TinkError as error:
            self.abort()
            _raise_interrupt(error)
            raise DataTooLargeError(
                f"Tink takes no more of the stream after {self._size:,} bytes; divide the data",
                code="INVALID_ARGUMENT",
            ) from error
        except BaseException:
            self.abort()
            raise


class _Source:
    """What Tink reads from. It keeps what a read raised, which Tink would hide."""

    def __init__(self, source: Readable) -> None:
        self.problem: BaseException | None = None
        self._source = source

    def readable(self) -> bool:
        return True

    def read(self, size: int) -> bytes:
        try:
            return read_some(self._source, size)
        except BaseException as problem:
            self.problem = problem
            raise

    def close(self) -> None:
        """Does nothing: the source is the caller's."""


class _OpeningStream(io.RawIOBase):
    """Decrypts what it reads from a source."""

    def __init__(self, key: bytes, aad: bytes, source: Readable, naming: Naming) -> None:
        self._source = _Source(source)
        self._naming = naming
        self._size = 0
        self._problem: BaseException | None = None
        self._tink: Any = _primitive(key).new_decrypting_stream(self._source, aad)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._problem is not None:
            raise self._problem
        try:
            count = self._read(buffer)
        except BaseException as problem:
            self._problem = problem
            raise
        self._size += count
        return count

    def _read(self, buffer: Any) -> int:
        count, failure = 0, None
        try:
            count = self._tink.readinto1(buffer)
        except tink().TinkError as error:
            failure = error
        # Also without a failure: an EOFError of the source would pass for the stream's end.
        if self._source.problem is not None:
            raise self._source.problem
        if failure is not None:
            _raise_interrupt(failure)
            fault = f"after {self._size:,} bytes of data it was changed, cut or extended, or has "
            raise self._naming.named(corrupt(STREAM, f"{fault}parts of another")) from failure
        return count


def opening(key: bytes, aad: bytes, source: Readable, naming: Naming) -> io.BufferedReader:
    """Returns a reader that decrypts a stream, whose header was read from the source.

    Args:
        key: The stream's key.
        aad: What the stream is bound to.
        source: Has the rest of the stream.
        naming: Names the cluster in errors.
    """
    return io.BufferedReader(_OpeningStream(key, aad, source, naming), _PART)


def _raise_interrupt(error: Exception) -> None:
    """Raises KeyboardInterrupt if it is what Tink met in its own Python code.

    Python tells of Ctrl-C wherever its code runs next, which may be there.
    """
    if any("KeyboardInterrupt" in str(one) for one in (error, error.__cause__)):
        raise KeyboardInterrupt from error
