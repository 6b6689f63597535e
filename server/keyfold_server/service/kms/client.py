"""Calls to customers' KMSs: admitted by gates, bounded in time, run in threads (W1, W2, C4).

This is the one door to every KMS. It refuses a region that the replica does not serve before it
looks for a provider or a credential, so that the process cannot open a KEK of that region.

Before a call reaches its provider's threads it passes the `gates`. It keeps its slots there until
its thread returns, even if its caller stops waiting.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from keyfold_server import telemetry
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import (
    KeyfoldError,
    KmsError,
    OverloadedError,
    SetupError,
    UnknownProviderError,
    UnreachableError,
)
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.provider import (
    Authenticates,
    DescribesKeys,
    HasFamilies,
    HasRegions,
    HasTenants,
    KeyDescription,
    KeyProvider,
    PinsVersions,
    Unwrapped,
    Wrapped,
)
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.kms.gates import YIELDS, Gates, Permit

_R = TypeVar("_R")

log = logging.getLogger(__name__)

THREADS: Final = 64
"""Threads of one provider: enough for eight accounts whose KMS hangs."""

PROOF_THREADS: Final = 256
"""Threads of one provider for proofs of root keys in use: enough for 64 accounts whose KMS hangs.
A thread begins only when a call needs it."""

_LATE: Final = 0.5
"""Seconds beyond the budget that a call waits for its thread. No timeout ends a hanging name
look-up or a lost socket."""


class KmsClient:
    """Calls every customer's KMS through its provider, behind the gates.

    Attributes:
        served: The regions whose KMSs it calls.
    """

    def __init__(
        self,
        providers: Callable[[str], KeyProvider],
        clock: Clock,
        budget: float,
        rates: Rates,
        served: ServedRegions,
    ) -> None:
        """Joins the gates to the providers.

        Args:
            providers: Returns the provider of a type, or raises UnknownProviderError. It may
                import an SDK, so it is called in a thread.
            clock: Monotonic time.
            budget: Seconds that one call may take, including its wait at the gates.
            rates: Most calls a second that the gates let through.
            served: The regions whose KMSs may be called.
        """
        self._providers = providers
        self._clock = clock
        self._budget = budget
        self._gates = Gates(rates, clock)
        self.served: Final = served
        self._made: dict[str, KeyProvider] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}

    async def provider(self, type_: str) -> KeyProvider:
        """Returns a provider; the first time in a thread, since an SDK's import takes seconds.

        Raises:
            UnknownProviderError: The server has no provider of that type, or cannot set it up.
        """
        provider = self._made.get(type_)
        if provider is None:
            loop = asyncio.get_running_loop()
            try:
                provider = await loop.run_in_executor(None, self._providers, type_)
            except SetupError as error:
                # The cause concerns the operator alone, so it goes to the log.
                log.error("provider %s cannot be used: %s", type_, error.message)  # noqa: TRY400
                raise UnknownProviderError(
                    f"provider {type_} is not set up correctly on this server; see its log",
                    field="key_spec.type",
                ) from None
            self._made[type_] = provider
        return provider

    async def pinned(self, root: RootKey) -> str | None:
        """Returns the version that a root key's uri names, or None. Calls no KMS."""
        provider = await self.provider(root.type)
        return provider.pinned_version(root) if isinstance(provider, PinsVersions) else None

    async def groups(self, root: RootKey) -> KeyGroups:
        """Returns what a root key has in common with others (protocol C6). Calls no KMS."""
        provider = await self.provider(root.type)
        return KeyGroups(
            family=provider.family(root) if isinstance(provider, HasFamilies) else root.uri,
            holder=provider.account(root),
            tenant=provider.tenant(root) if isinstance(provider, HasTenants) else "",
        )

    async def wrap(self, root: RootKey, plaintext: bytes, binding: Binding) -> Wrapped:
        """Wraps under the newest version of a root key; raises as `KeyProvider.wrap` does.

        Raises:
            WrongRegionError: The replica does not serve the region of the binding.
        """
        self.served.check(binding.region, binding.cluster)
        with telemetry.kms_call(root.type, "wrap") as call:
            wrapped = await self._call(
                call, root, lambda p, budget: p.wrap(root, plaintext, binding, budget=budget)
            )
            call.answered(wrapped.request_id)
            return wrapped

    async def unwrap(
        self,
        root: RootKey,
        key_version: str,
        ciphertext: bytes,
        binding: Binding,
        *,
        proof: bool = False,
        wanted: tuple[type[KmsError], ...] = (),
    ) -> Unwrapped:
        """Opens what `wrap` returned; raises as `KeyProvider.unwrap` does.

        Args:
            root: The root key.
            key_version: The version that wrapped.
            ciphertext: What `wrap` returned.
            binding: What the ciphertext is bound to.
            proof: Whether this proves a root key in use, and so may use the reserve (protocol F8).
            wanted: The errors that the caller is after; the metrics do not count them as errors.

        Raises:
            WrongRegionError: The replica does not serve the region of the binding.
        """
        self.served.check(binding.region, binding.cluster)
        with telemetry.kms_call(root.type, "unwrap", wanted) as call:
            unwrapped = await self._call(
                call,
                root,
                lambda p, budget: p.unwrap(root, key_version, ciphertext, binding, budget=budget),
                proof=proof,
            )
            call.answered(unwrapped.request_id)
            return unwrapped

    async def authenticate(self, root: RootKey, region: str) -> bool:
        """Proves the credential for a region's key.

        Returns:
            Whether it is proven; False if the provider cannot do that apart from a call.

        Raises:
            WrongRegionError: The replica does not serve the region.
        """
        self.served.check(region)

        def step(provider: KeyProvider, budget: float) -> bool:
            if not isinstance(provider, Authenticates):
                return False
            provider.authenticate(root, budget=budget)
            return True

        with telemetry.kms_call(root.type, "authenticate") as call:
            return await self._call(call, root, step)

    async def describe(self, root: RootKey, region: str) -> KeyDescription | None:
        """Describes a region's key. Returns None if the provider cannot describe keys.

        Raises:
            WrongRegionError: The replica does not serve the region.
        """
        self.served.check(region)

        def step(provider: KeyProvider, budget: float) -> KeyDescription | None:
            return (
                provider.describe(root, budget=budget)
                if isinstance(provider, DescribesKeys)
                else None
            )

        with telemetry.kms_call(root.type, "describe") as call:
            return await self._call(call, root, step)

    def close(self) -> None:
        """Lets the threads end, without waiting for those that hang."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    async def _call(
        self,
        call: telemetry.KmsCall,
        root: RootKey,
        work: Callable[[KeyProvider, float], _R],
        *,
        proof: bool = False,
    ) -> _R:
        """Makes one call in a thread of its provider, once it has passed the gates.

        Raises:
            UnreachableError: The KMS or the provider gave no answer in time, or the KMS answered
                no call while a proof waited for its slot.
            OverloadedError: Too many calls wait, or the call got no thread in time.
            RateLimitedError: The rates would have the call wait too long.
            KmsError: The KMS's answer.
        """
        try:
            provider = await self.provider(root.type)
        except UnknownProviderError as error:
            # The server lost the provider of a stored key, which says nothing about the key.
            raise UnreachableError(
                f"this server cannot call {root.type}: {error.message}"
            ) from None
        call.region = provider.region(root) if isinstance(provider, HasRegions) else ""
        gates = ((root.type, root.uri, root.principal), (root.type, provider.account(root)))
        if YIELDS.get() and not proof:
            permit = await self._gates.leisure(*gates, root.type)
            ends = self._clock.monotonic() + self._budget
        else:
            ends = self._clock.monotonic() + self._budget
            # The other half of the budget is for the KMS's answer.
            patience = self._budget / 2
            permit = self._gates.enter(*gates, root.type, patience, proof=proof)
        future: Future[_R] | None = None
        try:
            async with asyncio.timeout(self._budget):
                await permit.acquire()
            # In the caller's context, so that an adapter can send the trace on.
            context = contextvars.copy_context()
            pool = self._pool(root.type, proof=proof)
            future = pool.submit(context.run, self._work, provider, work, ends)
            self._release_after(future, permit)
            return await asyncio.wait_for(
                asyncio.shield(asyncio.wrap_future(future)),
                max(0.0, ends - self._clock.monotonic()) + _LATE,
            )
        except TimeoutError:
            if future is None:
                raise permit.refused() from None
            raise UnreachableError(
                f"the KMS gave no answer within {self._budget:g} seconds; try again"
            ) from None
        finally:
            if future is None:
                permit.release()

    def _work(
        self, provider: KeyProvider, work: Callable[[KeyProvider, float], _R], ends: float
    ) -> _R:
        """Runs in the provider's thread, and raises nothing but errors of the tree."""
        budget = ends - self._clock.monotonic()
        if budget <= 0:
            raise OverloadedError(
                "the call waited for a thread until its time was up; try again", retry_after=1.0
            )
        try:
            return work(provider, budget)
        except KeyfoldError:
            raise
        except Exception as error:  # noqa: BLE001  whatever an SDK may raise
            # Log only the type: an SDK's message may contain what was sent.
            incident = secrets.token_hex(8)
            log.error(  # noqa: TRY400  the traceback would hold the text
                "provider %s failed unexpectedly with %s, incident %s",
                type(provider).__name__,
                type(error).__name__,
                incident,
            )
            raise UnreachableError(
                f"the provider failed unexpectedly; see incident {incident} in the server's log"
            ) from None

    def _pool(self, type_: str, *, proof: bool) -> ThreadPoolExecutor:
        name = f"{'proof' if proof else 'kms'}-{type_.lower()}"
        pool = self._pools.get(name)
        if pool is None:
            threads = PROOF_THREADS if proof else THREADS
            pool = self._pools[name] = ThreadPoolExecutor(threads, name)
        return pool

    def _release_after(self, future: Future[_R], permit: Permit) -> None:
        loop = asyncio.get_running_loop()

        def done(future: Future[_R]) -> None:
            # After the loop is closed nobody waits at the gates.
            if not loop.is_closed():
                error = None if future.cancelled() else future.exception()
                loop.call_soon_threadsafe(permit.ended, error)

        future.add_done_callback(done)
