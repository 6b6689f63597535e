"""Plaintext keys that Python does not print.

This guards against accidents, not against the program itself, which can always ask for the bytes.
Python cannot promise to wipe memory, so drop the last reference soon.
"""

from __future__ import annotations

import builtins
import hmac
from typing import NoReturn, Self, SupportsIndex, overload


class Plaintext(bytes):
    """A plaintext key: bytes that Python does not print.

    It works wherever bytes do. `repr`, `str` and formatting show only the length, also of a slice.
    Comparing takes the same time wherever the difference is. Pickling raises TypeError, because
    nobody guards the file or message that a pickle becomes.

    Example:
        >>> key = Plaintext(b"0123456789abcdef")
        >>> key
        Plaintext(<16 bytes>)
        >>> f"the key is {key}"
        'the key is Plaintext(<16 bytes>)'
        >>> key == b"0123456789abcdef"
        True
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Plaintext(<{len(self)} bytes>)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (bytes, bytearray, memoryview)):
            return NotImplemented
        return hmac.compare_digest(self, other)

    # It equals bytes, so it must hash as they do. Python salts that hash anew in each process.
    __hash__ = bytes.__hash__

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> Plaintext: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> int | Plaintext:
        part = super().__getitem__(index)
        return part if isinstance(part, int) else Plaintext(part)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuses to pickle the key.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a plaintext key cannot be pickled: wrap it, and store the wrapped key")

    # Last in the class, because from here on the name `bytes` means this property.
    @property
    def bytes(self) -> builtins.bytes:
        """The key as plain bytes, which Python prints."""
        return builtins.bytes(self)
