"""Fakes with a state of their own, for every test that needs time or a KMS.

They are fakes, not mocks: they keep the rules of what they stand for, and the provider passes the
same contract suite as the real ones. They never sleep.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding
from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    InvalidKeySpecError,
    InvalidNameError,
    InvalidPlaintextError,
    KekMismatchError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyPendingDeletionError,
    KmsError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey, check_name
from keyfold_server.domain.provider import KeyDescription, Unwrapped, Wrapped

_T = TypeVar("_T")

OPERATIONS: Final = ("authenticate", "describe", "wrap", "unwrap")
_HEADER: Final = struct.Struct(">4sI")
_NONCE: Final = 12


class FakeClock:
    """A clock that moves only when a test moves it."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._monotonic = 1_000.0
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._monotonic += seconds
        self._wall += seconds

    def step_wall(self, seconds: float) -> None:
        """Sets the wall clock, forward or back, while no time passes."""
        self._wall += seconds


class ElsewhereClock(FakeClock):
    """The clock of a database on another machine: it runs as the replicas' do, until it is set."""

    def __init__(self, here: FakeClock) -> None:
        super().__init__()
        self._here = here
        self._ahead = 0.0

    def wall(self) -> float:
        return self._here.wall() + self._ahead

    def step_wall(self, seconds: float) -> None:
        self._ahead += seconds


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the KMS saw it.

    Attributes:
        operation: One of `OPERATIONS`.
        uri: The root key.
        version: The version that was used or asked for; empty for a call without one.
        binding: The bound context, or None if the operation binds no context.
        thread: Name of the calling thread.
    """

    operation: str
    uri: str
    version: str
    binding: Binding | None
    thread: str


class Hang:
    """Calls that do not return until a test releases them, or their budget is used up."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._entered = 0
        self._changed = threading.Condition()

    def release(self) -> None:
        """Lets every held call go on."""
        self._released.set()

    def wait_entered(self, count: int = 1, timeout: float = 10.0) -> None:
        """Returns once the hang has held so many calls."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._entered >= count, timeout)

    def hold(self, budget: float) -> None:
        """Holds a call, for its budget at most."""
        with self._changed:
            self._entered += 1
            self._changed.notify_all()
        if not self._released.wait(budget):
            raise UnreachableError("the fake KMS did not answer in time")


@dataclass(eq=False)
class _Fault:
    uri: str | None
    operations: tuple[str, ...]
    error: KmsError | None = None
    before: Hang | None = None
    after: Hang | None = None
    times: int | None = None


@dataclass
class _Version:
    material: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    state: str = "enabled"


@dataclass
class _Key:
    versions: list[_Version]
    pending_deletion: bool = False
    wrong_plaintext: bool = False
    denied: set[str] = field(default_factory=set)


class FakeProvider:
    """A KMS in memory, with versions, states, permissions and faults.

    A key's URI is `fake:NAME`, also written `fake:///NAME`; a name `A.K` belongs to account A, the
    account of a customer; the others are the vendor's own.
    It accepts a principal of any kind, but no options. Safe for many threads.

    Attributes:
        prefix: Beginning of a key's name in its URI.
    """

    type = "FAKE"
    prefix = "fake:"

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._keys: dict[str, _Key] = {}
        self._faults: list[_Fault] = []
        self.calls: list[Call] = []
        self.counts: Counter[tuple[str, str, str]] = Counter()

    # The customer.

    def create_key(self, name: str) -> RootKey:
        """Makes a root key with one version."""
        uri = f"{self.prefix}{name}"
        with self._lock:
            assert uri not in self._keys
            self._keys[uri] = _Key([_Version()])
        return RootKey(self.type, uri)

    def new_version(self, uri: str) -> str:
        """Adds a version, which wraps from now on."""
        with self._lock:
            self._keys[uri].versions.append(_Version())
            return str(len(self._keys[uri].versions))

    def disable(self, uri: str, version: str | None = None) -> None:
        """Takes a version out of use, or all of them."""
        self._move(uri, version, "disabled")

    def enable(self, uri: str, version: str | None = None) -> None:
        """Brings a version back into use, or all of them."""
        self._move(uri, version, "enabled")

    def delete(self, uri: str, version: str | None = None) -> None:
        """Destroys a version, or removes the key."""
        with self._lock:
            self._move(uri, version, "destroyed")
            if version is None:
                del self._keys[uri]

    def schedule_deletion(self, uri: str) -> None:
        """Starts a key's waiting period, during which it is of no use."""
        with self._lock:
            self._keys[uri].pending_deletion = True

    def cancel_deletion(self, uri: str) -> None:
        """Ends the waiting period; the key stays disabled, as at AWS and GCP."""
        with self._lock:
            self._keys[uri].pending_deletion = False
            self._move(uri, None, "disabled")

    def deny(self, uri: str, *operations: str) -> None:
        """Takes away the permission for operations on a key; without any named, for all."""
        with self._lock:
            self._keys[uri].denied |= set(operations or OPERATIONS)

    def allow(self, uri: str, *operations: str) -> None:
        """Gives back the permission for operations on a key; without any named, for all."""
        with self._lock:
            self._keys[uri].denied -= set(operations or OPERATIONS)

    def _move(self, uri: str, version: str | None, state: str) -> None:
        with self._lock:
            for number, each in enumerate(self._keys[uri].versions, start=1):
                if version in (None, str(number)) and each.state != "destroyed":
                    each.state = state

    # Faults; without a URI, for every key.

    def fail(
        self,
        error: KmsError,
        uri: str | None = None,
        operations: tuple[str, ...] = OPERATIONS,
        times: int | None = None,
    ) -> None:
        """Answers calls with an error, until mended or for so many calls."""
        with self._lock:
            self._faults.append(_Fault(uri, operations, error=error, times=times))

    def throttle(self, uri: str | None = None, retry_after: float | None = None) -> None:
        """Asks callers to slow down, with or without a hint for how long."""
        self.fail(ThrottledError("the fake KMS is busy", retry_after=retry_after), uri)

    def disconnect(self, uri: str | None = None) -> None:
        """Cuts the network."""
        self.fail(UnreachableError("the fake KMS refused the connection"), uri)

    def break_credentials(self) -> None:
        """Stops accepting the caller's own credential."""
        self.fail(CredentialsFailedError("the fake KMS does not know the credential"))

    def hang(
        self,
        uri: str | None = None,
        operations: tuple[str, ...] = OPERATIONS,
        *,
        answered: bool = False,
    ) -> Hang:
        """Holds calls, before the answer is decided or, if `answered`, on its way back."""
        hang = Hang()
        with self._lock:
            where = (None, hang) if answered else (hang, None)
            self._faults.append(_Fault(uri, operations, before=where[0], after=where[1]))
        return hang

    def wrong_plaintext(self, uri: str, *, wrong: bool = True) -> None:
        """Opens to other bytes what it wrapped."""
        with self._lock:
            self._keys[uri].wrong_plaintext = wrong

    def mend(self, uri: str | None = None) -> None:
        """Ends the faults of a key, or every fault, and releases held calls."""
        with self._lock:
            ended = [f for f in self._faults if uri in (None, f.uri)]
            self._faults = [f for f in self._faults if f not in ended]
        for fault in ended:
            for hang in (fault.before, fault.after):
                if hang is not None:
                    hang.release()

    def uris(self) -> list[str]:
        """Returns the URIs of all keys."""
        with self._lock:
            return list(self._keys)

    def secrets(self) -> list[bytes]:
        """Returns all key material, for tests that look for it where it must not be."""
        with self._lock:
            return [v.material for key in self._keys.values() for v in key.versions]

    # The port.

    def canonical(self, key: RootKey) -> RootKey:
        name = key.uri.removeprefix("fake:").removeprefix("///")
        try:
            check_name(name if key.uri.startswith("fake:") else "", "the key's name")
        except InvalidNameError as error:
            raise InvalidKeySpecError("the uri must be fake:NAME", field="key_spec.uri") from error
        if key.options:
            raise InvalidKeySpecError("FAKE takes no options", field="key_spec.options")
        return RootKey(key.type, f"fake:{name}", key.principal)

    def account(self, key: RootKey) -> str:
        name = self.canonical(key).uri.removeprefix("fake:")
        return name.partition(".")[0] if "." in name else "fake"

    def held_by_vendor(self, key: RootKey) -> bool:
        return self.account(key) == "fake"

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        self._call("authenticate", key, lambda _: None, budget=budget)

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        def answer(_: str) -> KeyDescription:
            self._usable(key, "describe", None)
            return KeyDescription("AES-256-GCM in memory")

        return self._call("describe", key, answer, budget=budget)

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
            raise InvalidPlaintextError(f"a root key wraps 1 to {PAYLOAD_SIZE} bytes")

        def answer(request_id: str) -> Wrapped:
            number, version = self._usable(key, "wrap", None)
            head = _HEADER.pack(b"FAKE", number)
            nonce = os.urandom(_NONCE)
            sealed = AESGCM(version.material).encrypt(nonce, plaintext, _aad(head, key, binding))
            return Wrapped(head + nonce + sealed, str(number), request_id)

        return self._call("wrap", key, answer, budget=budget, binding=binding)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        def answer(request_id: str) -> Unwrapped:
            head, nonce = ciphertext[: _HEADER.size], ciphertext[_HEADER.size :][:_NONCE]
            if head != _HEADER.pack(b"FAKE", int(key_version)) or len(nonce) < _NONCE:
                self._usable(key, "unwrap", None)
                raise KekMismatchError("the fake KMS cannot open this")
            _, version = self._usable(key, "unwrap", int(key_version))
            sealed = ciphertext[_HEADER.size + _NONCE :]
            try:
                plain = AESGCM(version.material).decrypt(nonce, sealed, _aad(head, key, binding))
            except InvalidTag as error:
                raise KekMismatchError("the fake KMS cannot open this") from error
            wrong = self._keys[key.uri].wrong_plaintext
            return Unwrapped(bytearray(os.urandom(len(plain)) if wrong else plain), request_id)

        return self._call(
            "unwrap", key, answer, budget=budget, version=key_version, binding=binding
        )

    def _call(
        self,
        operation: str,
        key: RootKey,
        answer: Callable[[str], _T],
        *,
        budget: float,
        version: str | None = None,
        binding: Binding | None = None,
    ) -> _T:
        request_id = os.urandom(8).hex()
        faults = self._enter(operation, key.uri, version, binding)
        with _identified(request_id):
            for fault in faults:
                if fault.before is not None:
                    fault.before.hold(budget)
            try:
                for fault in faults:
                    if fault.error is not None:
                        raise fault.error.at()
                with self._lock:
                    return answer(request_id)
            finally:
                for fault in faults:
                    if fault.after is not None:
                        fault.after.hold(budget)

    def _enter(
        self, operation: str, uri: str, version: str | None, binding: Binding | None
    ) -> list[_Fault]:
        """Records a call and returns the faults that it meets."""
        with self._lock:
            key = self._keys.get(uri)
            used = version or (str(len(key.versions)) if key is not None else "")
            self.calls.append(Call(operation, uri, used, binding, threading.current_thread().name))
            self.counts[operation, uri, used] += 1
            met = [f for f in self._faults if f.uri in (None, uri) and operation in f.operations]
            for fault in met:
                if fault.times is not None:
                    fault.times -= 1
            self._faults = [f for f in self._faults if f.times is None or f.times > 0]
            return met

    def _usable(self, root: RootKey, operation: str, number: int | None) -> tuple[int, _Version]:
        """Returns a version, by default the newest, or refuses."""
        key = self._keys.get(root.uri)
        if key is None:
            raise KeyNotFoundError(f"the fake KMS has no key {root.uri}")
        if operation in key.denied:
            raise AccessDeniedError(f"no permission to {operation} with {root.uri}")
        if key.pending_deletion:
            raise KeyPendingDeletionError(f"{root.uri} is scheduled for deletion")
        number = number or len(key.versions)
        if number > len(key.versions) or key.versions[number - 1].state == "destroyed":
            raise KeyNotFoundError(f"{root.uri} has no version {number}")
        if key.versions[number - 1].state == "disabled":
            raise KeyDisabledError(f"version {number} of {root.uri} is disabled")
        return number, key.versions[number - 1]


def _aad(head: bytes, key: RootKey, binding: Binding) -> bytes:
    return head + key.uri.encode() + b"\0" + binding.canonical()


@contextmanager
def _identified(request_id: str) -> Iterator[None]:
    """Adds the call's id to every error, as a real KMS does."""
    try:
        yield
    except KmsError as error:
        error.provider_request_id = error.provider_request_id or request_id
        raise
