"""One data key in memory: its bytes, its place, and who uses it at the moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from keyfold.arguments import check_of
from keyfold.calls.watch import NEVER, Moment
from keyfold.envelope.cipher import key_of
from keyfold.envelope.keys import Bounds
from keyfold.errors import ClosedError
from keyfold.models.results import DataKey, Unwrapped
from keyfold.models.specs import Context

if TYPE_CHECKING:  # it loads `cryptography`
    from keyfold.crypto.xaes import SharedKey

ContextKey = frozenset[tuple[str, str]]
OpeningName = tuple[str, bytes, ContextKey]
"""The name of a key to open with: cluster, wrapped key and context."""

SealingName = tuple[str, str, ContextKey]
"""The name of a key to seal with: cluster, region and context."""

_NO_CONTEXT: Final[ContextKey] = frozenset()


DEFAULT_BOUNDS: Final = Bounds(max_messages=1_000_000, max_bytes=1 << 36, max_age=300.0)
"""The bounds of a data key that seals, where the caller sets none."""


def pairs(context: Context | None) -> ContextKey:
    """Returns a context as part of a name.

    Raises:
        ArgumentTypeError: It is not a mapping of texts.
    """
    if context is None:
        return _NO_CONTEXT
    try:
        return frozenset(context.items())
    except (AttributeError, TypeError):
        check_of(Context)(context, "context")
        raise


@dataclass(slots=True, eq=False)
class HeldKey:
    """A key in memory. The lock of its `Holdings` guards it.

    Attributes:
        name: The name under which callers borrow it to open.
        region: The region that wrapped it.
        generation: The generation that wrapped it.
        secret: The plaintext, of zeros once it was wiped.
        began: When the call began that brought it.
        until: When it may no longer be used.
        uses_left: How many more uses the cache allows.
        users: The number of blocks that use it now.
        dropped: Whether it may be used no more. The last user leaves it wiped.
        seals: The name under which callers borrow it to seal; None: it only opens.
        messages: How many messages it has sealed.
        bytes: How many bytes it has sealed.
        ready: The key, ready for an envelope's messages, once one has asked for it.
    """

    name: OpeningName
    region: str
    generation: int
    secret: bytearray = field(repr=False)
    began: Moment = NEVER
    until: Moment = NEVER
    uses_left: int = 0
    users: int = 1
    dropped: bool = True
    seals: SealingName | None = None
    messages: int = 0
    bytes: int = 0
    ready: SharedKey | None = None

    def wipe(self) -> None:
        """Overwrites the key."""
        self.secret[:] = bytes(len(self.secret))
        self.ready = None


def opened(name: OpeningName, answer: Unwrapped) -> HeldKey:
    """Returns the key of an answer."""
    return HeldKey(name, answer.region, answer.generation, bytearray(answer.plaintext))


def made(name: SealingName, answer: DataKey) -> HeldKey:
    """Returns the key of an answer."""
    cluster, region, context = name
    opening = (cluster, answer.wrapped_key, context)
    return HeldKey(opening, region, answer.generation, bytearray(answer.plaintext), seals=name)


class Lender(Protocol):
    """Who lends keys."""

    def give_back(self, held: HeldKey) -> None:
        """Ends a use."""
        ...


class BorrowedKey:
    """A data key, for as long as the block that borrowed it.

    Nothing wipes the key meanwhile, so what has begun ends well. Keep no block open for longer than
    one use: a key that was taken away stays in use there.
    """

    __slots__ = ("_held", "_view")

    _held: HeldKey | None
    _view: memoryview | None

    def __repr__(self) -> str:
        return "BorrowedKey(<redacted>)"

    @property
    def plaintext(self) -> memoryview:
        """The key's bytes, read-only. It raises `ClosedError` once the block has ended."""
        if self._view is None:
            self._view = memoryview(self._here.secret).toreadonly()
        return self._view

    @property
    def key(self) -> SharedKey:
        """The key, ready for an envelope's messages.

        Raises:
            MessageCorruptError: It does not have 32 bytes, so no envelope sealed with it.
        """
        held = self._here
        ready = held.ready
        if ready is None:
            ready = held.ready = key_of(held.secret)
        return ready

    @property
    def wrapped_key(self) -> bytes:
        """The key, wrapped: to store beside the data."""
        return self._here.name[1]

    @property
    def region(self) -> str:
        """The region that wrapped the key."""
        return self._here.region

    @property
    def generation(self) -> int:
        """The generation that wrapped the key."""
        return self._here.generation

    @property
    def _here(self) -> HeldKey:
        if self._held is None:
            raise ClosedError(
                "the block that borrowed the key has ended, or not begun",
                code="FAILED_PRECONDITION",
            )
        return self._held

    def _give_back(self, lender: Lender) -> None:
        held, view = self._held, self._view
        self._held = self._view = None
        if held is not None:
            lender.give_back(held)
        if view is not None:
            view.release()


class LentKey(BorrowedKey):
    """A key that a block has borrowed together with others."""

    __slots__ = ()

    def __init__(self, held: HeldKey) -> None:
        self._held, self._view = held, None

    def give_back(self, lender: Lender) -> None:
        """Ends the use."""
        self._give_back(lender)
