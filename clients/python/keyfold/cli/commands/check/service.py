"""Checks of the servers that answer: version, clock, store age, and what the caller may do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

import grpc

from keyfold.checks import (
    Finding,
    Outcome,
    advised,
    failure,
    of_clocks,
    of_validity,
    ok,
    unknown,
    warning,
)
from keyfold.cli.common import Unopened
from keyfold.cli.errors import InputError
from keyfold.client import Client
from keyfold.errors import KeyfoldError, UnauthenticatedError, UnimplementedError
from keyfold.models.caller import CallerIdentity, ReplicaInfo
from keyfold.version import __version__

_LOOKS: Final = 3
"""Connections to each address, because there may be several servers behind it."""

_HEALTH: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = b"\x08\x01"
"""A HealthCheckResponse that says SERVING; the client has no stubs of that service."""

_OLD: Final = timedelta(seconds=10)
"""The age of a replica's view of the store from which on there is a warning."""

_UNREACHED: Final = "mend the lines above first"


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer of GetCaller: from where, and how far this machine's clock is ahead of it."""

    address: str
    identity: CallerIdentity
    ahead: timedelta
    unsure: timedelta


class Fleet:
    """The servers at some addresses, and what they said of themselves and of the caller.

    Attributes:
        identity: Who the caller is to them; None: none of them said it.
        clients: The clients of those addresses where a server answers.
    """

    def __init__(self, options: Unopened, addresses: Sequence[str], seconds: float) -> None:
        """Takes the options, the addresses, and the seconds that a call may take."""
        self.identity: CallerIdentity | None = None
        self.clients: dict[str, Client] = {}
        self._options = options
        self._addresses = addresses
        self._seconds = seconds
        self._answers: list[_Answer] = []

    def questions(self) -> list[tuple[str, Callable[[], Iterable[Finding]]]]:
        """Returns the questions, by the names of their checks, in their order."""
        return [
            *((f"service {each}", self._asking(each)) for each in self._addresses),
            ("caller", self._caller),
            ("versions", self._versions),
            ("clock", self._clocks),
            ("replicas", self._replicas),
        ]

    def close(self) -> None:
        """Closes the connections."""
        for client in self.clients.values():
            client.close()

    def _asking(self, address: str) -> Callable[[], Iterator[Finding]]:
        return lambda: self._asked(address)

    def _asked(self, address: str) -> Iterator[Finding]:
        name = f"service {address}"
        try:
            for number in range(_LOOKS):
                client = self._options.connect(address)
                # Each look has a connection of its own; the last one stays.
                former = self.clients.get(address)
                self._answers.append(self._answer(client, address))
                self.clients[address] = client
                if former is not None:
                    former.close()
                if number == 0:
                    yield from self._health(client, address)
        except InputError:
            yield unknown(name, "not asked without the client's files", "mend `credentials` first")
        except UnimplementedError:
            yield unknown(
                name,
                "the server does not know GetCaller",
                "it runs an older release than this client; bring it to this one",
            )
        except UnauthenticatedError as error:
            said = f"{error.message} ({error.reason})"
            yield failure(name, said, "name yourself with --token-file, or with --cert and --key")
        except KeyfoldError as error:
            said = f"{error.message} ({error.reason})"
            yield failure(name, said, "look at the connection above, and at the server's log")
        else:
            yield ok(name, "the server answers calls")

    def _answer(self, client: Client, address: str) -> _Answer:
        client.get_caller(timeout=self._seconds)  # It connects, which would spoil the time.
        asked, began = datetime.now(UTC), monotonic()
        identity = client.get_caller(timeout=self._seconds)
        took = timedelta(seconds=monotonic() - began)
        theirs = asked if identity.replica is None else identity.replica.time
        self.identity = self.identity or identity
        return _Answer(address, identity, asked + took / 2 - theirs, took / 2)

    def _health(self, client: Client, address: str) -> Iterator[Finding]:
        name = f"health {address}"
        ask = client.line().channel.unary_unary(_HEALTH)
        try:
            said = ask(b"", timeout=self._seconds)
        except grpc.RpcError as error:
            yield unknown(name, f"no answer: {error.code().name}", "ask /readyz of the server")
            return
        if said == _SERVING:
            yield ok(name, "SERVING")
        else:
            yield failure(
                name,
                "NOT_SERVING: the server must not use keys now",
                "on its machine, `keyfold-server check` and /readyz say why",
            )

    def _caller(self) -> Iterator[Finding]:
        identity = self.identity
        if identity is None:
            yield unknown("caller", "no server said who the caller is", _UNREACHED)
            return
        who = f"{identity.caller}, by {identity.proof.value.lower()}"
        if identity.organization:
            who += f", of organization {identity.organization}"
        roles = sorted({role for grant in identity.grants for role in grant.roles})
        if roles:
            yield ok("caller", f"{who}, with {', '.join(roles)}; `keyfold whoami` shows the grants")
        else:
            yield warning(
                "caller",
                f"{who}, and no grant holds for it",
                "have a grant written for one of its names, which `keyfold whoami` shows",
            )
        for notice in identity.notices:
            yield advised(
                Outcome.WARNING,
                "caller",
                f"a grant that names it does not hold, because {notice}",
                "have the issuer of its tokens write the name of one organization there",
            )
        if identity.expire_time is not None:
            what = "what it proves itself with"
            yield of_validity("caller", what, None, identity.expire_time, "renew it")

    def _versions(self) -> Iterator[Finding]:
        found = {one.version for one in self._known()}
        if not found:
            yield self._untold("versions")
        elif found == {__version__}:
            yield ok("versions", f"servers and client run {__version__}")
        else:
            yield warning(
                "versions",
                f"the client runs {__version__}, and servers {', '.join(sorted(found))}",
                "after an upgrade has ended on every server, bring clients to the same release",
            )

    def _clocks(self) -> Iterator[Finding]:
        known = [one for one in self._answers if one.identity.replica is not None]
        if not known:
            yield self._untold("clock")
        for address in dict.fromkeys(one.address for one in known):
            # The best answer is the quickest one, whose time on the way can hide the least.
            best = min((o for o in known if o.address == address), key=lambda one: one.unsure)
            yield of_clocks("clock", best.ahead, "this machine", address, best.unsure)

    def _replicas(self) -> Iterator[Finding]:
        known = {one.replica: one for one in self._known()}
        if not known:
            yield self._untold("replicas")
        for one in known.values():
            yield _age(one)

    def _known(self) -> list[ReplicaInfo]:
        found = (one.identity.replica for one in self._answers)
        return [one for one in found if one is not None]

    def _untold(self, check: str) -> Finding:
        if self.identity is None:
            return unknown(check, "no server answered", _UNREACHED)
        return unknown(
            check,
            "servers tell this only to a caller with a grant",
            "check with a caller that the policy names",
        )


def _age(one: ReplicaInfo) -> Finding:
    """Returns the finding about how long ago a replica saw the store."""
    wait = "look at the store, and at the network between it and the server"
    if one.store_age is None:
        seen = f"{one.replica} has not seen its store yet"
        return warning("replicas", seen, "wait for its start to end; its log says more")
    age, most = one.store_age.total_seconds(), one.max_store_age.total_seconds()
    seen = f"{one.replica} saw its store {age:.1f} s ago"
    if one.store_age > one.max_store_age:
        return failure("replicas", f"{seen}, and serves nothing after {most:g} s", wait)
    if one.store_age > _OLD:
        return warning("replicas", f"{seen}, and stops serving at {most:g} s", wait)
    return ok("replicas", seen)
