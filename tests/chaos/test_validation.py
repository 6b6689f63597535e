"""Proof that the validation finds the faults it is made for in a history, and no others."""

from __future__ import annotations

import pytest

from behaviour import Region, Request, State
from chaos.history import Answer, Attempt, Change, History, Look, Lost, Span, Use
from chaos.rollback import left
from chaos.validate import validate

ON: State = (("eu", Region("local:a")),)
OFF: State = (("eu", Region("local:a", revoked=True)),)
TWO: State = (("eu", Region("local:a", 2)),)

ENABLE = Request("Enable", ("eu",), (("eu", "local:a"),))
REVOKE = Request("Revoke")
RESTORE = Request("Restore")
ROTATE = Request("Rotate", ("eu",), fresh=True)


@pytest.fixture
def history() -> History:
    """Returns the history of one server, with cluster acme enabled from 0 to 1."""
    history = History(servers=1, staleness=2.0, ttl=1.5, grace=1.0)
    changed(history, ENABLE, (0, 1, told(ON)))
    return history


def told(
    state: State, *, replayed: bool = False, superseded: bool = False, stops_within: float = 0.0
) -> Answer:
    """Makes an answer that shows a cluster."""
    return Answer(
        shown=state,
        told=True,
        replayed=replayed,
        superseded=superseded,
        stops_within=stops_within,
    )


LOST = Answer("UNAVAILABLE", unknown=True)


def changed(history: History, request: Request, *attempts: tuple[float, float, Answer]) -> None:
    """Notes a change and its attempts, each as start, end and answer."""
    made = [Attempt(start, end, "s0.1", answer) for start, end, answer in attempts]
    history.changes.append(Change(1, "acme", request, "id", made))


def used(
    history: History,
    start: float,
    end: float,
    reason: str = "",
    generation: int = 1,
    *,
    wrong: str = "",
    server: str = "s0.1",
    cluster: str = "acme",
    region: str = "eu",
) -> None:
    """Notes a Wrap."""
    attempt = Attempt(start, end, server, Answer(reason))
    history.uses.append(Use(2, cluster, region, "Wrap", attempt, generation, wrong))


def found(history: History) -> list[str]:
    """Returns the names of the checks that find a violation."""
    return [violation.check for violation in validate(history)]


def test_what_may_be_is_not_found(history: History) -> None:
    """R1, R6: lost answers, repetitions and overlapping calls fit an order if they can."""
    used(history, 1.5, 1.6)
    changed(history, ROTATE, (2, 3, LOST), (3.1, 3.2, told(TWO, replayed=True)))
    used(history, 2.5, 2.6, generation=2)
    changed(history, REVOKE, (4, 5, LOST))
    used(history, 6, 6.1, "REVOKED")
    changed(history, REVOKE, (7, 8, told((("eu", Region("local:a", 2, revoked=True)),))))
    used(history, 7.5, 8.5, generation=2)  # It began before.
    changed(history, RESTORE, (9, 10, told(TWO)))
    used(history, 9.1, 9.2, generation=2)
    assert found(history) == []


def test_a_refusal_that_fits_before_and_after_a_lost_change(history: History) -> None:
    """R1: a lost Restore may have come before a refusal that its absence would explain as well."""
    off = (("eu", Region("local:a", revoked=True)), ("us", Region("local:a", revoked=True)))
    add = Request("AddRegions", ("us",), (("us", "local:a"),))
    changed(history, add, (1.1, 1.2, told((*(ON or ()), ("us", Region("local:a"))))))
    changed(history, REVOKE, (2, 3, told(off)))
    changed(history, Request("Restore", ("eu",)), (4, 5, LOST))
    history.births["s0"] = [0.0, 5.5]  # So the lost Restore was over before the refusal began.
    changed(history, Request("Rotate", ("eu", "us")), (7, 8, Answer("REVOKED")))
    half = (("eu", Region("local:a")), off[1])
    history.looks.append(Look(2, "acme", Attempt(9, 10, "s0.2", told(half))))
    assert found(history) == []
    history.births["s0"] = [0.0, 3.5]
    history.looks.append(Look(2, "acme", Attempt(11, 12, "s0.2", told(off))))
    assert found(history) == ["order"]


def test_use_after_a_confirmed_revoke(history: History) -> None:
    """R1 to R4: no use that began after a Revoke's answer succeeds, until a Restore has begun."""
    changed(history, REVOKE, (2, 3, told(OFF)))
    used(history, 3.1, 3.2)
    assert found(history) == ["revoked"]


def test_a_region_that_came_after_a_revoke(history: History) -> None:
    """R1, R6: a Revoke of all regions covers those that existed, whatever a repetition shows."""
    both: State = (("eu", Region("local:a", revoked=True)), ("us", Region("local:a")))
    changed(
        history,
        REVOKE,
        (2, 3, LOST),
        (6, 7, told(both, replayed=True, superseded=True)),
    )
    add = Request("AddRegions", ("us",), (("us", "local:a"),), into_revoked=True)
    changed(history, add, (4, 5, told(both)))
    used(history, 8, 8.1, region="us")
    assert found(history) == []
    used(history, 8, 8.1)
    assert found(history) == ["revoked"]


def test_use_after_what_was_pending(history: History) -> None:
    """R4: a pending replica may go on until the time that the answer gave, and no longer."""
    changed(history, REVOKE, (2, 3, told(OFF, stops_within=2.0)))
    used(history, 4.0, 4.1)
    assert found(history) == []
    used(history, 5.1, 5.2)
    assert found(history) == ["revoked"]


def test_a_change_that_came_back(history: History) -> None:
    """R1: an answer that undoes a revocation fits no order."""
    changed(history, REVOKE, (2, 3, told(OFF)))
    changed(history, ROTATE, (2.5, 4, told(TWO)))
    changed(history, Request("Revoke", ("eu",)), (5, 6, told(OFF)))
    assert found(history) == ["order"]


def test_what_a_pinned_server_reads(history: History) -> None:
    """S3: a cut-off server may show old data until it is stale, then not; other servers never."""
    changed(history, REVOKE, (3, 4, told(OFF)))
    history.spans.append(Span("store:s1", 2, 2.1, 9, 9.1))

    def looked(start: float, server: str) -> None:
        attempt = Attempt(start, start + 0.1, server, told(ON))
        history.looks.append(Look(2, "acme", attempt))

    looked(4.3, "s1.1")
    assert found(history) == []
    looked(5.0, "s1.1")
    assert found(history) == ["order"]
    history.looks.pop()
    looked(4.3, "s0.1")
    assert found(history) == ["order"]


def test_a_request_that_was_carried_out_twice(history: History) -> None:
    """R6: a repeated request makes no second generation, whether or not it was answered."""
    changed(history, ROTATE, (2, 3, told(TWO)), (4, 5, told((("eu", Region("local:a", 3)),))))
    assert set(found(history)) == {"twice"}


def test_a_lost_request_that_was_carried_out_twice(history: History) -> None:
    """R6: if the first answer was lost, the second shows one more generation, not two."""
    changed(history, ROTATE, (2, 3, LOST), (4, 5, told((("eu", Region("local:a", 3)),))))
    assert found(history) == ["order"]


def test_half_a_rotation() -> None:
    """S5: a rotation moves all named regions or no region."""
    history = History(servers=1, staleness=2.0, ttl=1.5, grace=1.0)
    both = ("eu", "us")
    there: State = (("eu", Region("local:a")), ("us", Region("local:a")))
    half: State = (("eu", Region("local:a", 2)), ("us", Region("local:a")))
    asked = Request("Enable", both, (("eu", "local:a"), ("us", "local:a")))
    changed(history, asked, (0, 1, told(there)))
    changed(history, Request("Rotate", both, fresh=True), (2, 3, LOST))
    changed(history, Request("Rotate", ("us",)), (4, 5, told(half)))
    assert found(history) == ["order"]


def test_a_restore_without_a_key(history: History) -> None:
    """R7: a Restore does not restore a region whose key cannot have proven itself."""
    changed(history, REVOKE, (2, 3, told(OFF)))
    history.spans.append(Span("keys", 3.1, 3.2, 6, 6.1))
    changed(history, RESTORE, (4, 5, told(ON)))
    assert found(history) == ["proven"]


def test_a_store_that_is_not_seen(history: History) -> None:
    """S3: two seconds after the last poll, a server uses no key."""
    history.spans.append(Span("store", 2, 2.1, 6, 6.1))
    used(history, 4.0, 4.05)
    assert found(history) == []
    used(history, 4.2, 4.3)
    assert found(history) == ["stale"]


def test_a_key_that_cannot_be_asked(history: History) -> None:
    """F1: TTL and grace are a hard bound on use without the KMS."""
    history.spans.append(Span("keys", 2, 2.1, 9, 9.1))
    used(history, 4.5, 4.55)
    assert found(history) == []
    used(history, 4.7, 4.8)
    assert found(history) == ["refusal"]


@pytest.mark.parametrize("reason", ["INTERNAL", "KEK_MISMATCH", "UNKNOWN_KEK", "REVOKED"])
def test_a_refusal_that_nothing_explains(reason: str, history: History) -> None:
    """A server refuses a wrapped key for a reason that the record gives, and for no other."""
    used(history, 2, 3, reason)
    assert found(history) == ["answers"]


def test_another_key(history: History) -> None:
    """A wrapped key opens to the key that was wrapped, under the newest generation."""
    used(history, 2, 3, wrong="it opened to another key")
    used(history, 2, 3, generation=2)
    assert found(history) == ["wrapped-key", "generation"]


def test_a_pinned_server(history: History) -> None:
    """S2: a server whose store takes no writes stops; the others need not."""
    history.spans.append(Span("store:s1", 2, 2.1, 6, 6.1))
    used(history, 5.0, 5.05, server="s0.1")
    used(history, 4.0, 4.05, server="s1.1")
    assert found(history) == []
    used(history, 4.2, 4.3, server="s1.2")
    assert found(history) == ["stale"]


def test_a_repetition_says_what_it_is(history: History) -> None:
    """R6: an answer says replayed, or superseded, exactly if the request was."""
    off: State = (("eu", Region("local:a", 2, revoked=True)),)
    changed(
        history,
        ROTATE,
        (2, 3, told(TWO)),
        (4, 5, told(TWO, replayed=True)),
        (8, 9, told(off, replayed=True, superseded=True)),
    )
    changed(history, REVOKE, (6, 7, told(off)))
    assert found(history) == []
    last = history.changes[-2].attempts
    last[1:] = [Attempt(4, 5, "s0.1", told(TWO, replayed=True, superseded=True))]
    assert found(history) == ["replayed"]
    last[1:] = [Attempt(8, 9, "s0.1", told(off, replayed=True))]
    assert found(history) == ["replayed"]
    changed(history, REVOKE, (10, 11, told(off, replayed=True)))
    assert found(history) == ["replayed", "replayed"]


def test_a_restore_that_was_carried_out_anew(history: History) -> None:
    """R6, R7: a Restore that moved nothing is not recorded; replays refer to the one that did."""
    changed(history, REVOKE, (2, 3, told(OFF)))
    changed(
        history,
        RESTORE,
        (4, 5, told(OFF)),  # Its key was out of reach.
        (8, 9, told(ON)),
        (10, 11, told(ON, replayed=True)),
        (14, 15, told(OFF, replayed=True, superseded=True)),
    )
    changed(history, REVOKE, (6, 7, told(OFF)))
    changed(history, REVOKE, (12, 13, told(OFF)))
    assert found(history) == []
    history.changes[-3].attempts[-1] = Attempt(14, 15, "s0.1", told(OFF, replayed=True))
    assert found(history) == ["replayed"]


def test_a_restore_whose_second_attempt_was_lost(history: History) -> None:
    """R6, R7: a lost attempt may have moved what the first did not, but nothing once replayed."""
    changed(history, REVOKE, (2, 3, told(OFF)))
    changed(history, RESTORE, (4, 5, told(OFF)), (6, 7, LOST), (8, 9, told(ON, replayed=True)))
    assert found(history) == []
    changed(history, REVOKE, (10, 11, told(OFF)))
    history.changes[-2].attempts.append(Attempt(12, 13, "s0.1", LOST))
    changed(history, ROTATE, (14, 15, told(TWO)))
    assert found(history) == ["order"]


def refused(history: History) -> None:
    """Notes that one server sees a key refused, while another cannot reach the key and goes on."""
    history.spans.append(Span("key:local:twins", 1.9, 2, 7, 7.1))
    history.spans.append(Span("keys:s1", 1.9, 2, 9, 9.1))
    used(history, 2.5, 2.6, "KEY_DISABLED", server="s0.1", cluster="twin-asked")
    used(history, 6.8, 6.9, "KEY_DISABLED", server="s0.1", cluster="twin-asked")


@pytest.mark.parametrize("at", [6.0, 8.0])
def test_a_refusal_spreads(at: float, history: History) -> None:
    """F2: a server without its KMS stops once another saw a refusal, even when the key is back."""
    history.servers = 3
    refused(history)
    used(history, 5.0, 5.1, server="s1.1", cluster="twin-warm")
    used(history, 9.2, 9.3, server="s1.1", cluster="twin-warm")
    assert found(history) == []
    used(history, at, at + 0.1, server="s1.1", cluster="twin-warm")
    assert found(history) == ["spread"]


def test_a_rolled_back_store(history: History) -> None:
    """S1: a server that has seen lost changes refuses from its bound on, and stays refusing."""
    history.lost = Lost(since=2.0, until=5.0)
    used(history, 6.9, 7.0)
    used(history, 8.0, 8.1, "STORE_ROLLED_BACK")
    assert found(history) == []
    used(history, 7.1, 7.2)
    assert found(history) == ["rolled-back"]
    history.uses.pop()
    used(history, 6.0, 6.1, "STORE_ROLLED_BACK")
    used(history, 6.2, 6.3)
    assert found(history) == ["rolled-back", "rolled-back"]


def test_what_a_failover_may_lose(history: History) -> None:
    """S1: a failover may lose changes from after the standby was cut off, and none from before."""
    history.lost = Lost(since=4.0, until=9.0)
    changed(history, ROTATE, (2, 3, told(TWO)))
    changed(history, REVOKE, (5, 6, told((("eu", Region("local:a", 2, revoked=True)),))))
    for state in (TWO, (("eu", Region("local:a", 2, revoked=True)),)):
        assert not list(left(history, "acme", state, 10.0))
    for state in (None, ON, OFF, (("eu", Region("local:a", 3)),)):
        assert [violation.check for violation in left(history, "acme", state, 10.0)] == ["lost"]
