"""Events: the entries of the log as people read them, and what chooses among them.

An entry keeps the parsed request and the decision as JSON. What all kinds of entries have in common
is read from there in one place, here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from keyfold_server.domain.log import EntryKind, KeyName
from keyfold_server.domain.rights import Coverage
from keyfold_server.domain.transitions import Condition

ENDED_WELL: Final = frozenset(
    (
        "done",
        "unchanged",
        "repeated",
        "validated",
        "cancelled",
        Condition.HEALTHY.value,
        Condition.COULD_NOT_TELL.value,
    )
)
"""The outcomes of what nobody refused. That a KMS gave no answer is not a refusal."""


@dataclass(frozen=True)
class Event:
    """An entry of the log.

    Attributes:
        number: 1, 2, 3 … without gaps.
        entry_id: 16 random bytes.
        time: Milliseconds of Unix time, by the store's clock.
        kind: The kind.
        action: `source:subject:action`, such as `rpc:cluster:revoke`.
        outcome: `done`, the reason of a refusal, or another word that docs/events.md lists.
        cluster: The cluster's name, or None.
        uid: The uid of the cluster, or of the operation, or None.
        organization: The organization, or None.
        root: The root key id (`cluster.Wrap.root_id`) of what concerns one root key, or None.
        key: The root key, of what concerns exactly one and is known by name, or None.
        caller: The caller's name; empty: nobody called.
        proof: How the caller proved its name; empty: nobody called.
        address: The caller's address as gRPC writes it, or empty.
        on_behalf_of: For whom the caller said that it called, or empty.
        message: A line for people, or empty.
        request_id: The caller's id of the request, or empty.
        trace_id: The id of the call's trace, or empty.
        kms_request_id: The KMS's own id of its answer, or empty.
        replica: The replica or command that wrote the entry.
        epoch: The cluster's epoch after a decision, or None.
        request: The parsed request, or what else the entry tells.
        decision: What was decided, or None.
    """

    number: int
    entry_id: bytes
    time: int
    kind: EntryKind
    action: str
    outcome: str
    cluster: str | None = None
    uid: bytes | None = None
    organization: str | None = None
    root: str | None = None
    key: KeyName | None = None
    caller: str = ""
    proof: str = ""
    address: str = ""
    on_behalf_of: str = ""
    message: str = ""
    request_id: str = ""
    trace_id: str = ""
    kms_request_id: str = ""
    replica: str = ""
    epoch: int | None = None
    request: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] | None = None

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """The regions that the event concerns, sorted: those that it changed or that it names."""
        if self.decision is not None:
            return tuple(sorted(self.decision.get("regions", ())))
        names = self.kind is EntryKind.ATTEMPT or self.root is not None
        return tuple(sorted(self.named_regions)) if names else ()

    @cached_property
    def named_regions(self) -> frozenset[str]:
        """The regions that the request names; empty: it means the whole cluster, or none."""
        named = {self.request.get("region") or "", *self.request.get("regions", ())}
        named.update(spec["region"] for spec in self.request.get("specs", ()))
        return frozenset(named - {""})

    @property
    def related_regions(self) -> frozenset[str]:
        """The regions that it tells of besides: sources of keys, and replicas of named regions."""
        specs = self.request.get("specs", ())
        sources = (spec.get("replica_of") or "" for spec in specs)
        return frozenset({*sources, *self.request.get("replicas", ())} - {""})

    @property
    def reason(self) -> str:
        """The reason that a caller or an operator gave; empty for what nobody asked for."""
        return str(self.request.get("reason") or "") if self.caller else ""

    @property
    def refused(self) -> bool:
        """Whether Keyfold or a KMS refused it."""
        return self.outcome not in ENDED_WELL

    @cached_property
    def uris(self) -> frozenset[str]:
        """The uris of the root keys that the event concerns or names."""
        found = set() if self.key is None else {self.key.uri}
        spec = self.request.get("key_spec")
        if spec:
            found.add(str(spec["uri"]))
        return frozenset(found - {""}).union(*self._uris_by_region.values())

    def uris_of(self, regions: Collection[str]) -> frozenset[str]:
        """Returns the uris of the root keys that the event names for some regions."""
        named = self._uris_by_region
        return frozenset().union(*(named.get(region, ()) for region in regions))

    @cached_property
    def _uris_by_region(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        if self.decision is not None:
            for region, told in self.decision.get("regions", {}).items():
                found.setdefault(region, set()).add(str(told.get("uri", "")))
        for spec in self.request.get("specs", ()):
            if spec.get("key_spec"):
                found.setdefault(spec["region"], set()).add(str(spec["key_spec"]["uri"]))
        return {region: uris - {""} for region, uris in found.items()}


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events. A field that is None, or empty, selects all.

    Attributes:
        cluster: Selects what concerns this cluster, or a root key that its regions have now.
        organization: Selects what concerns this organization, or a root key that regions of its
            clusters have now.
        key_uri: Selects what concerns a root key of this uri, or names it.
        caller: Selects what this caller did.
        kinds: Selects these kinds.
        outcome: Selects this outcome.
        only_refused: Selects what was refused.
        start: The earliest time, in milliseconds of Unix time.
        end: The time before which the event was, in milliseconds of Unix time.
        action: Selects this action.
        first: The lowest number.
        last: The highest number, or None.
    """

    cluster: str | None = None
    organization: str | None = None
    key_uri: str | None = None
    caller: str | None = None
    kinds: frozenset[EntryKind] = frozenset()
    outcome: str | None = None
    only_refused: bool = False
    start: int | None = None
    end: int | None = None
    action: str | None = None
    first: int = 0
    last: int | None = None

    def selects(self, event: Event, *, by_root: bool) -> bool:
        """Says whether an event passes.

        Args:
            event: The event.
            by_root: Whether the event concerns a root key that the cluster or the organization of
                this filter has.
        """
        return (
            (by_root or self._places(event))
            and (self.key_uri is None or self.key_uri in event.uris)
            and (self.caller is None or self.caller == event.caller)
            and (not self.kinds or event.kind in self.kinds)
            and (self.outcome is None or self.outcome == event.outcome)
            and (not self.only_refused or event.refused)
            and (self.start is None or event.time >= self.start)
            and (self.end is None or event.time < self.end)
            and (self.action is None or self.action == event.action)
            and self.first <= event.number
            and (self.last is None or event.number <= self.last)
        )

    def _places(self, event: Event) -> bool:
        return (self.cluster is None or self.cluster == event.cluster) and (
            self.organization is None or self.organization == event.organization
        )


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Where in the log to read, and which entries at least.

    The store may return further entries than those that it was asked for, never fewer.

    Attributes:
        after: The number after which to begin, in the direction of reading; None: at the end.
        newest_first: Whether to read backwards.
        limit: Most entries to read.
        clusters: Read what concerns these clusters; None: whatever the cluster.
        organizations: Read what concerns these organizations; None: whatever the organization.
        caller: Read what this caller did; None: whoever the caller is.
        start: Leave out what was long before this time, in milliseconds of Unix time.
        end: Leave out what was long after this time, in milliseconds of Unix time.
        first: The lowest number to read.
        last: The highest number to read, or None.
    """

    after: int | None
    newest_first: bool
    limit: int
    clusters: tuple[str, ...] | None = None
    organizations: tuple[str, ...] | None = None
    caller: str | None = None
    start: int | None = None
    end: int | None = None
    first: int = 0
    last: int | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Entries of the log that a store read, each verified.

    Attributes:
        events: The entries, in the direction of reading.
        more: Whether there may be further ones after the last.
    """

    events: list[Event]
    more: bool


@dataclass(frozen=True, slots=True)
class LogMark:
    """An entry of the log as a chain knows it.

    Attributes:
        number: Its number; 0 stands for the place before the first entry.
        entry_id: Its random id, empty for that place.
        mac: Its MAC, empty for that place.
    """

    number: int = 0
    entry_id: bytes = b""
    mac: bytes = b""


@dataclass(frozen=True, slots=True)
class LogMarks:
    """Entries of the log, and its ends, at one moment.

    Attributes:
        store_uid: The store's id.
        service_key_id: The id of the key that seals the log.
        now: Milliseconds of Unix time, by the store's clock.
        newest: The newest entry.
        pruned: The last entry that pruning removed.
        found: Entries that were asked for, by number, as far as the log has them.
    """

    store_uid: bytes
    service_key_id: str
    now: int
    newest: LogMark
    pruned: LogMark
    found: dict[int, LogMark]


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What a look at a part of the log's chain has shown.

    Attributes:
        pruned: The number of the last entry that pruning removed, where the chain begins.
        first: The number of the first entry of the part.
        last: The last entry that is verified, where the next look goes on.
        newest: The number of the newest entry of the log.
        broken: The number of the first entry that is not as Keyfold wrote it, or None.
    """

    pruned: int
    first: int
    last: LogMark
    newest: int
    broken: int | None = None

    @property
    def complete(self) -> bool:
        """Whether the chain is verified to its end."""
        return self.broken is None and self.last.number == self.newest


@dataclass(frozen=True, slots=True)
class RootUse:
    """Which uses of a root key count: those in regions that a caller may see, and a filter means.

    Attributes:
        covered: What the caller may see.
        cluster: The only cluster that counts, or None.
        organization: The only organization that counts, or None.
    """

    covered: tuple[Coverage, ...]
    cluster: str | None = None
    organization: str | None = None
