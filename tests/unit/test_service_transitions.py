"""A root key's health moves from one condition to another, and the log says so once (S0, S7)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from keyfold_server.domain.errors import AccessDeniedError, KeyDisabledError, UnreachableError
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.transitions import Condition, transition
from replicas import House, Member, house_in

SEEN = Observation("root:ab12", Health.HEALTHY, 1_000, 2_000)
DISABLED = replace(SEEN, health=Health.KEY_DISABLED)
AWAY = replace(SEEN, health=Health.UNREACHABLE)
LONG_AWAY = replace(AWAY, last_check=301_000)
NO_WRAP = replace(SEEN, can_wrap=False)


@pytest.mark.parametrize(
    ("stored", "new", "expected"),
    [
        (None, SEEN, None),
        (SEEN, SEEN, None),
        (SEEN, replace(SEEN, can_wrap=True), None),
        (None, NO_WRAP, Condition.CANNOT_WRAP),
        (SEEN, NO_WRAP, Condition.CANNOT_WRAP),
        (NO_WRAP, SEEN, Condition.HEALTHY),
        # Whoever meets a refusal tells it.
        (SEEN, DISABLED, None),
        (DISABLED, SEEN, Condition.HEALTHY),
        (DISABLED, NO_WRAP, Condition.CANNOT_WRAP),
        (SEEN, AWAY, None),
        (SEEN, LONG_AWAY, Condition.COULD_NOT_TELL),
        (AWAY, LONG_AWAY, Condition.COULD_NOT_TELL),
        (LONG_AWAY, LONG_AWAY, None),
        (LONG_AWAY, SEEN, Condition.HEALTHY),
        # The log knows whether this one had lasted before.
        (AWAY, SEEN, Condition.HEALTHY),
        (SEEN, replace(SEEN, health=Health.UNKNOWN), None),
        (replace(DISABLED, subject="kek:00"), replace(SEEN, subject="kek:00"), None),
    ],
)
def test_what_is_a_transition(
    stored: Observation | None, new: Observation, expected: Condition | None
) -> None:
    """S7: conditions are few, and what comes and goes in between is not one."""
    found = transition(stored, new)
    assert (found and found.condition) is expected
    assert found is None or (found.root, found.seen) == ("ab12", new)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Gives a house whose replicas tests start."""
    async with house_in(tmp_path) as made:
        yield made


@pytest.fixture
async def one(house: House) -> Member:
    """Gives a replica with a key that it has checked."""
    made = await house.replica()
    await made.enable()
    await made.enable("other")
    await made.sweep()
    return made


def told(house: House) -> list[tuple[str, str]]:
    """Reads what the log says of root keys: the kinds and outcomes of entries."""
    with closing(sqlite3.connect(house.file)) as file:
        return file.execute(
            "SELECT kind, outcome FROM log WHERE root IS NOT NULL AND kek IS NULL ORDER BY number"
        ).fetchall()


async def test_a_lost_permission_is_one_entry(house: House, one: Member) -> None:
    """F5, S0: however many clusters and sweeps, a root key loses and regains it once."""
    house.provider.fail(
        AccessDeniedError("no", missing_permission="kms:Encrypt"), operations=("wrap",)
    )
    for _ in range(3):
        await house.after(600.0)
        await one.sweep()
    assert told(house) == [("HEALTH", "CANNOT_WRAP")]
    with closing(sqlite3.connect(house.file)) as file:
        [(text, caller, cluster)] = file.execute(
            "SELECT detail, caller, cluster FROM log WHERE kind = 'HEALTH'"
        )
    detail = json.loads(text)
    assert (detail["reason"], detail["missing_permission"]) == ("ACCESS_DENIED", "kms:Encrypt")
    assert (caller, cluster) == ("", None)
    house.provider.mend()
    for _ in range(2):
        await house.after(600.0)
        await one.sweep()
    assert told(house)[1:] == [("HEALTH", "HEALTHY")]


async def test_a_refusal_and_its_end(house: House, one: Member) -> None:
    """F2, S0: the refusal is an entry of its own kind, and the recovery is the other one."""
    two = await house.replica()
    house.provider.disable("fake:one")
    await house.after(61.0)
    with pytest.raises(KeyDisabledError):
        await one.wrap()
    await one.settle()
    await one.replica._health.flush()
    assert [kind for kind, _ in told(house)][:1] == ["REFUSAL"]
    house.provider.enable("fake:one")
    await house.after(600.0)
    for member in (one, two):
        await member.sweep()
    *refusals, recovered = told(house)
    assert {kind for kind, _ in refusals} == {"REFUSAL"}
    assert recovered == ("HEALTH", "HEALTHY")


async def test_an_outage_counts_once_it_has_lasted(house: House, one: Member) -> None:
    """F6, S0: a short outage is no entry; one of 5 minutes is, and so is its end."""
    house.provider.fail(UnreachableError("away"))
    await house.after(61.0)
    await one.sweep()
    house.provider.mend()
    await house.after(61.0)
    await one.sweep()
    assert told(house) == []
    house.provider.fail(UnreachableError("away"))
    for _ in range(3):
        await house.after(600.0)
        await one.sweep()
    assert told(house) == [("HEALTH", "COULD_NOT_TELL")]
    house.provider.mend()
    await house.after(600.0)
    await one.sweep()
    assert told(house) == [("HEALTH", "COULD_NOT_TELL"), ("HEALTH", "HEALTHY")]
