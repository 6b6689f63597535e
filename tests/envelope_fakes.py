"""A fake of the client's data plane, whose keys never leave this process."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import keyfold
from keyfold.models.specs import Buffer
from wrapped_key_oracle import drawn

Context = Mapping[str, str]


class FakeDataPlane(keyfold.Client):
    """Wraps by remembering: a wrapped key opens in its cluster, with its context.

    Attributes:
        made: How many data keys it has made.
        opened: How many times it was asked to unwrap one.
    """

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.made = 0
        self.opened = 0
        self._known: dict[tuple[str, bytes, tuple[tuple[str, str], ...]], bytes] = {}

    def add(self, cluster: str, wrapped_key: bytes, context: Context, plaintext: bytes) -> None:
        """Makes it know a wrapped key."""
        self._known[cluster, wrapped_key, tuple(sorted(context.items()))] = plaintext

    def generate_data_key(
        self,
        cluster: str,
        region: str,
        *,
        size: int = 32,
        context: Context | None = None,
        wrapped_only: bool = False,
        timeout: float | None = None,
    ) -> keyfold.DataKey:
        self.made += 1
        wrapped_key = drawn(f"wrapped {self.made}", 90 + size)
        plaintext = drawn(f"data key {self.made}", size)
        self.add(cluster, wrapped_key, context or {}, plaintext)
        return keyfold.DataKey(keyfold.Plaintext(plaintext), wrapped_key, 1, timedelta(minutes=1))

    def unwrap(
        self,
        cluster: str,
        wrapped_key: Buffer,
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> keyfold.Unwrapped:
        self.opened += 1
        pairs = tuple(sorted((context or {}).items()))
        plaintext = self._known.get((cluster, bytes(wrapped_key), pairs))
        if plaintext is None:
            raise keyfold.WrappedKeyCorruptError("unknown")
        return keyfold.Unwrapped(keyfold.Plaintext(plaintext), "eu", 1)
