"""The KEK wrapper: makes KEKs, moves them between root keys, and proves that root keys work.

A KEK counts as wrapped only after it was unwrapped again and compared: some KMSs wrap under a key
that they do not unwrap with (protocol F5).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Final

from keyfold_server.domain.binding import KEY_SIZE, Binding, wipe
from keyfold_server.domain.cluster import Cluster, Generation, Wrap
from keyfold_server.domain.errors import (
    KekMismatchError,
    KeyInvalidError,
    RefusedError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.service.kms.client import KmsClient

ReportRefusal = Callable[
    [Cluster, str, Generation, RefusedError | KekMismatchError], Awaitable[object]
]
"""Called with a cluster as the store had it, a region, the KEK that the KMS refused, and why."""


class KekWrapper:
    """Wraps KEKs under root keys, and proves that the root keys unwrap them.

    Attributes:
        served: The regions for which it can.
    """

    def __init__(
        self, kms: KmsClient, report: ReportRefusal, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Joins the wrapper to the KMSs.

        Args:
            kms: Calls the customers' KMSs.
            report: Called with each stored KEK that a KMS refused to open, since that is a
                refusal whatever the call was for (protocol F2).
            random: Returns random bytes for KEKs and their ids.
        """
        self.served: Final = kms.served
        self._kms = kms
        self._report = report
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
        """Makes a generation: a new KEK that is wrapped and proven.

        Raises:
            KmsError: The root key does not wrap, or does not unwrap what it wrapped.
        """
        binding = Binding(cluster, region, self._random(16), organization)
        key = bytearray(self._random(KEY_SIZE))
        try:
            wrap = await self._wrap(root, binding, key, now)
        finally:
            wipe(key)
        return Generation(binding.kek_id, number, now, wrap)

    async def rewrap(
        self, cluster: Cluster, region: str, generation: Generation, root: RootKey, now: int
    ) -> Wrap:
        """Unwraps a generation's KEK under its root key, and wraps it under another.

        Raises:
            KmsError: The old root key does not unwrap, or the new one does not wrap and unwrap.
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
            cluster: The cluster as the store has it.
            region: The region's name.
            generation: The generation whose KEK is unwrapped.
            report_refusal: Whether a refusal is reported, as if a load had met it. One that is
                known already must not be, since it flushes nothing more (protocol F4).

        Raises:
            KmsError: The KMS refused or gave no answer, or the KEK does not match.
        """
        wipe(await self._open(cluster, region, generation, report_refusal=report_refusal))

    async def prove_wrap(self, cluster: Cluster, region: str, generation: Generation) -> str:
        """Proves that the root key of a generation wraps, with zeros in place of a key.

        Returns:
            The root key version that wraps now.

        Raises:
            KmsError: The root key does not wrap.
        """
        binding = cluster.binding(region, generation)
        wrapped = await self._kms.wrap(
            generation.current.root, bytes(binding.payload(bytes(KEY_SIZE))), binding
        )
        return wrapped.key_version

    async def prove_describe(self, region: str, generation: Generation) -> bool:
        """Proves that the root key of a region's generation can be described.

        Returns:
            Whether the provider describes keys at all.

        Raises:
            KmsError: The KMS does not describe the key.
        """
        return await self._kms.describe(generation.current.root, region) is not None

    async def _open(
        self, cluster: Cluster, region: str, generation: Generation, *, report_refusal: bool = True
    ) -> bytearray:
        wrap = generation.current
        binding = cluster.binding(region, generation)
        try:
            unwrapped = await self._kms.unwrap(
                wrap.root, wrap.key_version, wrap.ciphertext, binding
            )
            return binding.open_payload(unwrapped.plaintext)
        except (RefusedError, KekMismatchError) as error:
            if report_refusal:
                await self._report(cluster, region, generation, error)
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
        return Wrap(
            1,
            root,
            wrapped.key_version,
            binding.organization,
            wrapped.ciphertext,
            now,
            await self._kms.groups(root),
        )


def _not_what_was_wrapped() -> KeyInvalidError:
    return KeyInvalidError("the root key does not unwrap to what it wrapped; use another key")
