"""Making, moving and proving KEKs at customers' key services.

Nothing counts as wrapped before it was unwrapped again and compared: some providers wrap under a
key that they will not unwrap with (protocol F5).
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from keyfold_server.domain.binding import KEY_SIZE, Binding, wipe
from keyfold_server.domain.cluster import Cluster, Generation, Wrap
from keyfold_server.domain.errors import (
    KekMismatchError,
    KeyfoldError,
    KeyInvalidError,
    RefusedError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.service.kms.client import KmsClient

_R = TypeVar("_R")

Refused = Callable[[Cluster, str, Generation, RefusedError | KekMismatchError], Awaitable[object]]
"""Takes a cluster as the store had it, a region, and the KEK that the KMS would not open."""


class KekWrapper:
    """Wraps KEKs under root keys and shows that they open."""

    def __init__(
        self, kms: KmsClient, refused: Refused, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Joins the proofs to the key services.

        Args:
            kms: The key services.
            refused: Told of a stored KEK that the KMS refused to open: whoever asked, it is a
                refusal (protocol F2).
            random: Source of KEKs and their ids.
        """
        self._kms = kms
        self._refused = refused
        self._random = random

    async def create(
        self,
        cluster: str,
        organization: str | None,
        region: str,
        root: RootKey,
        number: int,
        now: int,
    ) -> Generation:
        """Makes a generation: a new KEK, wrapped and proven.

        Raises:
            KmsError: The root key does not wrap, or does not unwrap what it wrapped.
        """
        binding = Binding(cluster, region, self._random(16), organization)
        key = bytearray(self._random(KEY_SIZE))
        try:
            wrap = await self._wrap(root, binding, key, now)
        finally:
            wipe(key)
        return Generation(binding.kek_id, number, now, (wrap,))

    async def rewrap(
        self, cluster: Cluster, region: str, generation: Generation, root: RootKey, now: int
    ) -> Wrap:
        """Wraps a generation's KEK anew: unwrapped by the old root key, wrapped by the new.

        Raises:
            KmsError: The old key does not unwrap, or the new one does not wrap and unwrap.
        """
        key = await self._open(cluster, region, generation)
        try:
            binding = Binding(cluster.name, region, generation.kek_id, cluster.organization)
            return await self._wrap(root, binding, key, now)
        finally:
            wipe(key)

    async def prove_unwrap(
        self, cluster: Cluster, region: str, generation: Generation, *, report_refusal: bool = True
    ) -> None:
        """Proves that a generation's KEK can be unwrapped.

        Args:
            cluster: As the store has it.
            region: The region's name.
            generation: Whose KEK.
            report_refusal: False where the refusal is known: a repeated one flushes nothing
                (protocol F4).

        Raises:
            KmsError: It cannot.
        """
        wipe(await self._open(cluster, region, generation, report_refusal=report_refusal))

    async def prove_wrap(self, cluster: Cluster, region: str, generation: Generation) -> str:
        """Proves that the root key of a generation wraps, on bytes that are no key.

        Returns:
            The root key's version that wraps now.

        Raises:
            KmsError: It does not.
        """
        binding = cluster.binding(region, generation)
        wrapped = await self._kms.wrap(
            generation.current.root, bytes(binding.payload(bytes(KEY_SIZE))), binding
        )
        return wrapped.key_version

    async def _open(
        self, cluster: Cluster, region: str, generation: Generation, *, report_refusal: bool = True
    ) -> bytearray:
        wrap = generation.current
        binding = cluster.binding(region, generation)
        try:
            unwrapped = await self._kms.unwrap(
                wrap.root, wrap.key_version, wrap.ciphertext or b"", binding
            )
            return binding.open_payload(unwrapped.plaintext)
        except (RefusedError, KekMismatchError) as error:
            if report_refusal:
                await self._refused(cluster, region, generation, error)
            raise

    async def _wrap(self, root: RootKey, binding: Binding, key: bytearray, now: int) -> Wrap:
        payload = binding.payload(key)
        try:
            wrapped = await self._kms.wrap(root, bytes(payload), binding)
            back = await self._kms.unwrap(root, wrapped.key_version, wrapped.ciphertext, binding)
            same = hmac.compare_digest(back.plaintext, payload)
            wipe(back.plaintext)
        except KekMismatchError as error:
            raise _not_what_was_wrapped() from error
        finally:
            wipe(payload)
        if not same:
            raise _not_what_was_wrapped()
        return Wrap(1, root, wrapped.key_version, binding.organization, wrapped.ciphertext, now)


def _not_what_was_wrapped() -> KeyInvalidError:
    return KeyInvalidError("the root key does not unwrap to what it wrapped; use another key")


async def by_region(work: Mapping[str, Awaitable[_R]], cluster: str) -> dict[str, _R]:
    """Awaits something for every region at once: all of it, or one error that names each region.

    Raises:
        KeyfoldError: The first region's error, with every failed region in its message.
    """
    results = await asyncio.gather(*work.values(), return_exceptions=True)
    failed: dict[str, KeyfoldError] = {}
    good: dict[str, _R] = {}
    for region, result in zip(work, results, strict=True):
        if isinstance(result, KeyfoldError):
            failed[region] = result
        elif isinstance(result, BaseException):
            raise result
        else:
            good[region] = result
    if failed:
        region, first = next(iter(failed.items()))
        error = first.at(cluster=cluster, region=region)
        error.message = "; ".join(f"region {r}: {e.message}" for r, e in failed.items())
        raise error
    return good
