"""What goes wrong between regions, each time with traffic in all of them.

A scene returns what it measured, in seconds. Whoever runs it validates the history afterwards.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Final

from chaos.board import Live
from chaos.calls import Caller
from chaos.history import Change, now
from chaos.messages import message
from drill.database import ETCD, POSTGRES
from drill.drill import RECOVERY, RESTORE, REVOKE, Drill
from drill.regions import DELAY, NAMES, REGIONS, STALENESS, TTL
from drill.traffic import ENABLE, Calls
from drill.wan import Fault
from keyfold.v1 import key_management_service_pb2 as pb

_LATE: Final = 0.15 - DELAY
"""Seconds that packets take beyond the usual delay where they are late."""

ROUNDS: Final = 9
"""Revocations that are timed."""

_REVOCATIONS: Final = 8
"""Revocations that are under way when the network breaks."""


def revocations_reach_every_region(drill: Drill, rounds: int = ROUNDS) -> dict[str, float]:
    """Each region revokes, and nobody anywhere uses the key once that is answered."""
    answered, last, restored = [], [], []
    for number in range(rounds):
        region = REGIONS[number % len(REGIONS)]
        revoked = drill.revoke(region, now())
        answered.append(revoked.end - revoked.start)
        last.append(drill.last_use)
        back = drill.timed(RESTORE, region)
        restored.append(back.end - back.start)
        time.sleep(1.0)  # the key is in every server's memory again
    return {
        "last use, median": statistics.median(last),
        f"slowest of {rounds}": max(last),
        "revoke answered, slowest": max(answered),
        "restore answered, slowest": max(restored),
    }


def keys_are_enabled_and_loaded(drill: Drill, rounds: int = ROUNDS) -> dict[str, float]:
    """Enable at each region's control replica, and loads of keys that are in no memory.

    A rotation empties the memories, so the next use of each region's key is a cold load. Each
    region's KMS is beside its servers, so such a load is a round trip to the store and little more.
    A validation makes an Enable's calls to the KMSs, and changes nothing in the store.
    """
    _, others = drill.split()
    caller, place = Caller(0, drill.history), drill.traffic.places[0]
    enabled, beside, cold = [], [], []
    for number in range(rounds):
        live = Live(f"{drill.traffic.timed.name}-{number}")
        drill.traffic.further.append(live)
        with Calls([drill.world.control(REGIONS[number % len(REGIONS)])]) as (control,):
            asked = message(Change(0, f"{live.name}-not", ENABLE, ""))
            asked.validate_only = True
            began = now()
            control.stub.Enable(asked, timeout=10)
            validated = now() - began
            made = drill.traffic.made(live, control).attempts[-1]
            enabled.append(made.end - made.start)
            beside.append(made.end - made.start - validated)
            place.carry_out([control], live, drill.traffic.rotated(live))
        time.sleep(1.0)
        for region in others:
            blob = next(blob for blob in live.blobs if blob.region == NAMES[region])
            with Calls(drill.world.servers[region][:-1]) as ways:
                for way in ways:
                    way.stub.GetStatus(pb.GetStatusRequest(cluster=drill.traffic.warm.name))
                    began = now()
                    caller.unwrap(way, blob)
                    cold.append(now() - began)
    return {
        "enable of three regions, median": statistics.median(enabled),
        "slowest": max(enabled),
        "beside the KMSs, slowest": max(beside),
        "cold load, median": statistics.median(cold),
        f"slowest of {len(cold)}": max(cold),
    }


def primarys_region_is_cut_off(drill: Drill) -> dict[str, float]:
    """The region of the primary is cut off, for longer than a server may go without its store."""
    lost, others = drill.split()
    drill.seen.spared = others
    with drill.cut_off(lost) as cut:
        drill.revoke(others[0], cut)
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, RECOVERY)
        stopped = drill.stopped(cut, now(), lost)
    back = drill.settled()
    drill.timed(RESTORE, lost)
    return {"cut-off region served for": stopped, "back": back}


def two_failovers_in_a_row(drill: Drill) -> dict[str, float]:
    """As soon as the first region is back, the new primary's is cut off."""
    told: dict[str, float] = {}
    spared: tuple[int, ...] = REGIONS
    for which in ("first", "second"):
        found = primarys_region_is_cut_off(drill)
        told |= {f"{which}: {what}": seconds for what, seconds in found.items()}
        spared = tuple(region for region in drill.seen.spared if region in spared)
    drill.seen.spared = spared
    return told


def another_region_is_cut_off(drill: Drill) -> dict[str, float]:
    """A region without the primary is cut off: the others go on, and it comes back by itself."""
    primary, (lost, other) = drill.split()
    drill.seen.spared = (primary, other)
    with drill.cut_off(lost) as cut:
        drill.revoke(other, now())
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, RECOVERY)
        stopped = drill.stopped(cut, now(), lost)
    back = drill.settled()
    drill.timed(RESTORE, lost)
    return {"cut-off region served for": stopped, "back": back}


def servers_sleep_through_a_failover(drill: Drill) -> dict[str, float]:
    """The servers of one region sleep while another region takes the database over."""
    lost, (asleep, awake) = drill.split()
    drill.seen.spared = (awake,)
    with drill.asleep(asleep), drill.cut_off(lost) as cut:
        drill.revoke(awake, cut)
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, RECOVERY)
    back = drill.settled()
    drill.timed(RESTORE, asleep)
    return {"back": back}


def etcd_loses_its_quorum(drill: Drill) -> dict[str, float]:
    """Two of three etcds end. The primary can reach every member, so it goes on (failsafe mode)."""
    gone = REGIONS[1:]
    for region in gone:
        drill.world.members[region].stop("etcd")
    time.sleep(30.0)  # longer than the primary's lease
    drill.revoke(REGIONS[0], now())
    for region in gone:
        drill.world.members[region].start_etcd(len(REGIONS))
    back = drill.settled()
    drill.timed(RESTORE, REGIONS[0])
    return {"back": back}


def only_etcd_is_cut_off(drill: Drill) -> dict[str, float]:
    """The primary's etcd is cut off from the others, while the databases reach one another."""
    primary, others = drill.split()
    around = drill.world.wan.around(primary, ETCD)
    with drill.suffering("etcd is cut off", around, keyless=()):
        time.sleep(30.0)  # longer than the primary's lease
        drill.revoke(others[0], now())
    back = drill.settled()
    drill.timed(RESTORE, primary)
    return {"back": back}


def only_the_database_is_cut_off(drill: Drill) -> dict[str, float]:
    """The primary's PostgreSQL is cut off, while etcd and Patroni reach one another.

    So the primary keeps its lease, and its commits wait for a second region. Nobody may serve
    beyond the bound, and all serve again when the network is whole.
    """
    primary, others = drill.split()
    drill.seen.spared = ()
    around = drill.world.wan.around(primary, (POSTGRES,))
    with drill.suffering("the database is cut off", around, storeless=REGIONS, keyless=()) as cut:
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, RECOVERY)
        stopped = max(drill.stopped(cut, now(), region) for region in REGIONS)
    back = drill.settled()
    drill.timed(REVOKE, others[0])
    drill.timed(RESTORE, primary)
    return {"served for": stopped, "back": back}


def two_regions_lose_sight(drill: Drill) -> dict[str, float]:
    """A region does not reach the primary's, but the third region reaches both.

    The database goes on. The servers of the region stop at their bound and serve again afterwards.
    """
    primary, (lost, other) = drill.split()
    drill.seen.spared = (primary, other)
    faults = [Fault(primary, lost), Fault(lost, primary)]
    with drill.suffering(f"{primary} and {lost}", faults, storeless=(lost,)) as cut:
        drill.revoke(other, now())
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, RECOVERY)
        stopped = drill.stopped(cut, now(), lost)
    back = drill.settled()
    drill.timed(RESTORE, lost)
    return {"served for": stopped, "back": back}


def _one_way(drill: Drill, lost: int, faults: list[Fault]) -> float:
    """The primary's region is cut off in one direction; returns how long the way back took."""
    with drill.suffering(f"region {lost}, one way", faults, storeless=(lost,)) as cut:
        drill.revoke(drill.seen.spared[0], cut)
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, RECOVERY)
        drill.stopped(cut, now(), lost)
    back = drill.settled()
    drill.timed(RESTORE, lost)
    return back


def nobody_hears_the_primary(drill: Drill) -> dict[str, float]:
    """What the primary's region sends is lost, and what others send arrives."""
    lost, drill.seen.spared = drill.split()
    return {"back": _one_way(drill, lost, [Fault(lost, n) for n in drill.seen.spared])}


def the_primary_hears_nobody(drill: Drill) -> dict[str, float]:
    """What others send to the primary's region is lost, and what it sends arrives."""
    lost, drill.seen.spared = drill.split()
    return {"back": _one_way(drill, lost, [Fault(n, lost) for n in drill.seen.spared])}


def a_link_flaps(drill: Drill) -> dict[str, float]:
    """The primary's region is cut off for a few seconds, again and again."""
    lost, others = drill.split()
    drill.seen.spared = others
    began = now()
    for seconds in (1.0, 3.0, 6.0, 2.0, 8.0, 4.0):
        with drill.cut_off(lost):
            time.sleep(seconds)
        time.sleep(2.0)
    drill.revoke(others[0], now())
    took = now() - began
    back = drill.settled()
    drill.timed(RESTORE, lost)
    return {"flapped for": took, "back": back}


def packets_are_lost_and_late(drill: Drill) -> dict[str, float]:
    """All ways lose every twentieth packet, and the others take 300 ms there and back."""
    faults = [
        Fault(one, other, lost=0.05, late=_LATE)
        for one in REGIONS
        for other in REGIONS
        if one != other
    ]
    slowest = 0.0
    drill.seen.spared = ()
    with drill.suffering("packets are lost and late", faults):
        ends = now() + 45.0
        number = 0
        while now() < ends:
            revoked = drill.timed(REVOKE, REGIONS[number % len(REGIONS)])
            slowest = max(slowest, revoked.end - revoked.start)
            drill.timed(RESTORE, REGIONS[number % len(REGIONS)])
            number += 1
    back = drill.settled()
    return {"revoke answered, slowest": slowest, "back": back}


def a_regions_vault_is_away(drill: Drill) -> dict[str, float]:
    """A KMS hangs, and is sealed, for longer than a proof lasts: its keys serve on grace (F1).

    That is no refusal, and nobody needs a KMS to revoke.
    """
    primary, (region, _) = drill.split()
    server = drill.world.vaults[region].server
    stop, go = ((server.pid, how) for how in (signal.SIGSTOP, signal.SIGCONT))
    with drill.vault_away(region, lambda: os.kill(*stop), lambda: os.kill(*go)):
        time.sleep(TTL + 5.0)
        drill.revoke(primary, now())
    with drill.vault_away(region, server.seal, server.unseal):
        time.sleep(TTL + 5.0)
    drill.timed(RESTORE, region)
    return {"back": drill.settled()}


def the_old_primary_kept_a_change(drill: Drill) -> dict[str, float]:
    """The primary's region is cut off with a Revoke that no second region has.

    It is lost or made again, and its caller hears which. Meanwhile the other regions change the
    same cluster.
    """
    lost, others = drill.split()
    drill.seen.spared = others
    live = drill.traffic.timed

    def revoke_there() -> None:
        with Calls(drill.world.servers[lost]) as ways:
            drill.traffic.places[0].carry_out(ways, live, REVOKE)

    there = threading.Thread(target=revoke_there)
    with drill.cut_off(lost) as cut:
        there.start()
        time.sleep(2.0)
        with Calls([drill.world.control(others[0])]) as ways:
            rotate = drill.traffic.rotated(live)
            drill.traffic.places[1].carry_out(ways, live, rotate)
        again = now() - cut
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, RECOVERY)
        stopped = drill.stopped(cut, now(), lost)
    back = drill.settled()
    there.join(RECOVERY)
    assert not there.is_alive()
    drill.timed(RESTORE, lost)
    return {"changed again after": again, "cut-off region served for": stopped, "back": back}


def a_revocation_is_cut_short(drill: Drill) -> dict[str, float]:
    """The primary's region is cut off in the middle of Revoke: the answer is not known.

    The same request at a server of another region says what is true, and makes it so.
    """
    lost, (here, there) = drill.split()
    drill.seen.spared = (here, there)
    clusters = [Live(f"{drill.traffic.timed.name}-{number}") for number in range(_REVOCATIONS)]
    caller = Caller(0, drill.history)

    def revoke(live: Live, after: float) -> None:
        with Calls(drill.world.servers[here]) as ways, Calls(drill.world.servers[there]) as others:
            time.sleep(after)
            drill.traffic.places[0].carry_out(ways, live, REVOKE, others)
            for way in (*ways, *others):
                for blob in live.blobs:
                    caller.unwrap(way, blob)

    drill.traffic.further += clusters
    with Calls([drill.world.control(here)]) as ways:
        for live in clusters:
            drill.traffic.made(live, ways[0])
    threads = [
        threading.Thread(target=revoke, args=(live, 0.08 * number))
        for number, live in enumerate(clusters)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.08 * _REVOCATIONS / 2)
    with drill.cut_off(lost):
        for thread in threads:
            thread.join(RECOVERY)
            assert not thread.is_alive()
    back = drill.settled()
    return {"back": back}


def patroni_sleeps(drill: Drill) -> dict[str, float]:
    """The primary's Patroni sleeps, so nobody tells its PostgreSQL that another took over (S2).

    It still takes connections, but no second region confirms what is written there. So every server
    leaves it for the new primary.
    """
    lost, others = drill.split()
    member = drill.world.members[lost]
    began = now()
    member.tell("patroni", signal.SIGSTOP)
    try:
        drill.world.until(lambda: drill.world.primary() in others, RECOVERY)
        drill.revoke(lost, began)
        drill.world.until(lambda: now() > began + 2 * STALENESS, RECOVERY)
    finally:
        member.tell("patroni", signal.SIGCONT)
    back = drill.settled()
    drill.timed(RESTORE, lost)
    return {"back": back}


SCENES: Final[dict[str, Callable[[Drill], dict[str, float]]]] = {
    scene.__name__: scene
    for scene in (
        revocations_reach_every_region,
        keys_are_enabled_and_loaded,
        primarys_region_is_cut_off,
        another_region_is_cut_off,
        a_revocation_is_cut_short,
        the_old_primary_kept_a_change,
        nobody_hears_the_primary,
        the_primary_hears_nobody,
        two_failovers_in_a_row,
        servers_sleep_through_a_failover,
        patroni_sleeps,
        a_link_flaps,
        packets_are_lost_and_late,
        two_regions_lose_sight,
        only_the_database_is_cut_off,
        only_etcd_is_cut_off,
        etcd_loses_its_quorum,
        a_regions_vault_is_away,
    )
}
"""The scenes, by name."""
