"""The overview's timeline: what was not well, in which region, in which hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from keyfold.models.events import Event, EventKind
from keyfold.models.specs import KeySpec, RegionPolicy
from keyfold.models.status import ClusterStatus, Health, RegionStatus, State
from keyfold_console.timeline import Row, rows

MIDNIGHT = datetime(2026, 11, 30, tzinfo=UTC)
NOW = MIDNIGHT + timedelta(hours=23, minutes=30)
DECIDED = {"decision": {"regions": {"eu": {"state": "REVOKED"}}}}


def at(hour: float) -> datetime:
    """Returns a time of the day."""
    return MIDNIGHT + timedelta(hours=hour)


def region(name: str = "eu", key: str = "local:a", **changes: Any) -> RegionStatus:
    """Returns the status of a region, which is well."""
    fields: dict[str, Any] = {
        "region": name,
        "key_spec": KeySpec("LOCAL", key),
        "policy": RegionPolicy(),
        "state": State.ENABLED,
        "state_time": MIDNIGHT,
        "health": Health.HEALTHY,
        "health_time": MIDNIGHT,
        "key_version": "1",
        "generations": (),
        "can_wrap": True,
        "can_unwrap": True,
        "can_describe": None,
        "last_check_time": None,
        "last_success_time": None,
        "last_error": None,
        "key_owner": "CLUSTER",
        "key_region": "",
        "notices": (),
    }
    return RegionStatus(**(fields | changes))


def cluster(name: str, *regions: RegionStatus, made: datetime | None = None) -> ClusterStatus:
    """Returns the status of a cluster that is older than the day."""
    return ClusterStatus(name, "", regions, made or MIDNIGHT - timedelta(days=9), MIDNIGHT)


def of_key(number: int, hour: float, outcome: str, key: str = "local:a") -> Event:
    """Returns what the log says of a root key."""
    kind = EventKind.HEALTH if outcome in ("HEALTHY", "COULD_NOT_TELL") else EventKind.REFUSAL
    return Event(number, "", at(hour), kind, "kms:root_key", outcome, key=KeySpec("LOCAL", key))


def decision(number: int, hour: float, action: str, **fields: Any) -> Event:
    """Returns what the log says of a change of the cluster `a`."""
    return Event(number, "", at(hour), EventKind.DECISION, action, "done", "a", **fields)


def hours(row: Row) -> dict[int, tuple[str, int]]:
    """Returns the hours in which something was not well, with the worst and the count."""
    return {hour: (one.kind, one.count) for hour, one in enumerate(row.cells) if one.count}


def test_a_refusal_lasts_until_the_key_works_again() -> None:
    """Each hour between a refusal and its end is bad, in every region that has the key."""
    clusters = [cluster("a", region(), region("us", "local:b")), cluster("b", region())]
    events = [of_key(7, 9.9, "HEALTHY"), of_key(3, 7.2, "KEY_DISABLED")]
    eu, us = rows(clusters, events, MIDNIGHT, NOW)
    assert hours(eu) == {7: ("bad", 2), 8: ("bad", 2), 9: ("bad", 2)}
    assert (eu.region, eu.total, eu.amiss) == ("eu", 2, 0)
    assert hours(us) == {}
    assert eu.cells[8].text == "08:00 to 09:00 UTC: Key disabled (a, b)"
    assert eu.cells[10].text == "10:00 to 11:00 UTC: well"


def test_what_is_wrong_now_is_there_without_an_event() -> None:
    """An outage that the log does not tell yet shows since the status has it."""
    ill = region(health=Health.UNREACHABLE, health_time=at(22.5))
    [eu] = rows([cluster("a", ill)], [], MIDNIGHT, NOW)
    assert hours(eu) == {22: ("warn", 1), 23: ("warn", 1)}
    assert eu.amiss == 1


def test_an_end_without_its_beginning() -> None:
    """A key that works again was not well since before the day, and the first event says so."""
    [eu] = rows([cluster("a", region())], [of_key(1, 1.5, "HEALTHY")], MIDNIGHT, NOW)
    assert hours(eu) == {0: ("warn", 1), 1: ("warn", 1)}


def test_a_revocation_lasts_until_the_restore() -> None:
    """A revoked region is bad until somebody restores it; what is revoked now, until now."""
    events = [
        decision(1, 2.5, "rpc:cluster:revoke", regions=("eu",), detail=DECIDED),
        decision(2, 4.5, "rpc:cluster:restore", regions=("eu",)),
        decision(3, 22.5, "rpc:cluster:revoke", regions=("eu",), detail=DECIDED),
    ]
    revoked = region(state=State.REVOKED, state_time=at(22.5))
    [eu] = rows([cluster("a", revoked)], events, MIDNIGHT, NOW)
    assert hours(eu) == dict.fromkeys((2, 3, 4, 22, 23), ("bad", 1))


def test_a_cluster_has_no_past_before_it_was_made() -> None:
    """What was wrong with a key before a cluster had it is not the cluster's."""
    events = [of_key(1, 1, "KEY_DISABLED"), of_key(2, 2, "HEALTHY")]
    [eu] = rows([cluster("a", region(), made=at(5))], events, MIDNIGHT, NOW)
    assert hours(eu) == {}
