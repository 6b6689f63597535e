"""Key material that does not show itself.

The guard is against accident, not against the program itself: whoever wants the bytes asks for
them. Python cannot promise to wipe them, so drop the last reference soon.
"""

from __future__ import annotations

import builtins
import hmac
from typing import NoReturn, Self, SupportsIndex, overload


class Plaintext(bytes):
    """A plaintext key: bytes in use, redacted wherever Python writes values out.

    It can be given to anything that takes bytes. `repr`, `str` and formatting show the length
    alone, and so do the slices of it; comparing takes the same time wherever the difference
    is; pickling is refused, since a pickle is a file or a message that nobody guards.

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

    # Equal to bytes, so it must hash as they do; Python keys that hash anew for each process.
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
        """Refuses.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a plaintext key is not pickled: wrap it, and store the wrapped key")

    # Last, since from here on `bytes` in this class is this.
    @property
    def bytes(self) -> builtins.bytes:
        """The same as plain bytes, which show themselves."""
        return builtins.bytes(self)
