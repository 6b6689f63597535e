"""The transitions of a cluster, driven at random beside a small model of what they promise."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from builders import NOW, a_cluster, a_region, a_rotation
from keyfold_server.domain.changes import (
    Decide,
    created,
    deleted,
    restored,
    retired,
    revoked,
    undeleted,
    with_regions,
)
from keyfold_server.domain.cluster import Cluster, SupersededWrap, existing
from keyfold_server.domain.errors import (
    ClusterNotFoundError,
    ConcurrentChangeError,
    KeyDeletedError,
    NotDeletedError,
    NotRevokedError,
    RegionNotFoundError,
    RevokedError,
    StateError,
)
from keyfold_server.domain.lifecycle import TRANSITIONS, Action, State, after

NAMES = ("ap", "eu", "us")
SOME = st.sets(st.sampled_from(NAMES))
DAY = 86_400_000


@dataclass
class Model:
    """The state that a caller may expect, without Keyfold's own types."""

    epoch: int = 0
    version: int = 1
    states: dict[str, str] = field(default_factory=dict)
    wraps: dict[str, list[int]] = field(default_factory=dict)
    """The number of wraps of each generation, by region."""


class Lifecycle(RuleBasedStateMachine):
    """Changes as a store makes them: on the current cluster, decided from an earlier read."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.cluster = a_cluster()
        self.seen = [self.cluster]
        self.keks: set[bytes] = set()
        self.history: dict[bytes, list[SupersededWrap]] = {}

    @initialize(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def make(self, names: set[str]) -> None:
        """Enables a cluster."""
        self.model.states = dict.fromkeys(names, "ENABLED")
        self.model.wraps = {name: [1] for name in names}
        self.cluster = created(a_cluster("acme", [a_region(name) for name in names]))(None).cluster
        self.seen = [self.cluster]

    def change(self, decide: Decide, *, seen: Cluster) -> bool:
        """Commits a decision if the read was current, else checks that the decision is refused."""
        if seen is not self.cluster:
            with pytest.raises(ConcurrentChangeError):
                decide(self.cluster)
            return False
        decision = decide(self.cluster)
        for region in self.cluster.regions:
            for g in region.generations:
                if (region.name, g.kek_id, g.current.number) in decision.superseded:
                    self.history.setdefault(g.kek_id, []).append(g.superseded(NOW))
        self.cluster = decision.cluster
        self.seen.append(self.cluster)
        self.model.version += 1
        return True

    @rule(data=st.data(), names=SOME)
    def add_regions(self, data: st.DataObject, names: set[str]) -> None:
        """Adds the regions that are new."""
        seen = data.draw(st.sampled_from(self.seen))
        fresh = names - {region.name for region in seen.regions}
        regions = [a_region(name) for name in fresh]
        if self.change(with_regions(seen, regions, NOW), seen=seen):
            self.model.states |= dict.fromkeys(fresh, "ENABLED")
            self.model.wraps |= {name: [1] for name in fresh}

    @rule(data=st.data(), fresh=st.booleans(), names=SOME)
    def rotate(self, data: st.DataObject, fresh: bool, names: set[str]) -> None:  # noqa: FBT001
        """Moves regions to another root key, with a new generation or without."""
        seen = data.draw(st.sampled_from(self.seen))
        chosen = [region for region in seen.regions if region.name in names]
        moved = [a_rotation(region, "local:two", fresh=fresh) for region in chosen]
        if self.change(with_regions(seen, moved, NOW), seen=seen):
            for region in chosen:
                counts = [count + 1 for count in self.model.wraps[region.name]]
                self.model.wraps[region.name] = [*counts, 1] if fresh else counts

    @rule(names=SOME)
    def revoke(self, names: set[str]) -> None:
        """Revokes existing regions, which is never refused, however old the read (protocol R1)."""
        chosen = names & self.model.states.keys()
        assert self.change(revoked("acme", chosen, NOW), seen=self.cluster)
        self.model.epoch += 1
        for name in chosen or set(self.model.states):
            if self.model.states[name] == "ENABLED":
                self.model.states[name] = "REVOKED"

    @rule(names=SOME, days=st.integers(0, 2))
    def delete(self, names: set[str], days: int) -> None:
        """D1: deletes regions that are revoked, all of those named or none; no name means all."""
        named = names & self.model.states.keys()
        chosen = named or set(self.model.states)
        decide = deleted("acme", named, days * DAY).at(NOW)
        before = {name: self.model.states[name] for name in chosen}
        again = [self.cluster.region(n).purge_time for n in chosen if before[n] == "DELETED"]
        if "ENABLED" in before.values() or any(at != NOW + days * DAY for at in again):
            with pytest.raises((NotRevokedError, KeyDeletedError)):
                decide(self.cluster)
            return
        assert self.change(decide, seen=self.cluster)
        self.model.epoch += 1
        self.model.states |= dict.fromkeys(chosen, "DELETED")

    @rule(names=SOME)
    def undelete(self, names: set[str]) -> None:
        """D2: takes deletions back, to REVOKED."""
        chosen = names & self.model.states.keys()
        gone = {name for name, state in self.model.states.items() if state == "DELETED"}
        chosen = chosen or gone or set(self.model.states)
        decide = undeleted("acme", chosen if names & self.model.states.keys() else (), NOW)
        if any(self.model.states[name] == "ENABLED" for name in chosen):
            with pytest.raises(NotDeletedError):
                decide(self.cluster)
            return
        assert self.change(decide, seen=self.cluster)
        self.model.epoch += 1
        self.model.states |= dict.fromkeys(chosen, "REVOKED")

    @rule(data=st.data(), names=SOME)
    def restore(self, data: st.DataObject, names: set[str]) -> None:
        """Takes regions back."""
        seen = data.draw(st.sampled_from(self.seen))
        chosen = names & {region.name for region in seen.regions}
        decide = restored(seen, chosen, NOW)
        if seen is self.cluster and any(self.model.states[n] == "DELETED" for n in chosen):
            with pytest.raises(KeyDeletedError):
                decide(self.cluster)
            return
        if self.change(decide, seen=seen):
            self.model.states |= dict.fromkeys(chosen, "ENABLED")

    @rule()
    def enable_again(self) -> None:
        """A cluster cannot be made twice."""
        with pytest.raises(ConcurrentChangeError):
            created(a_cluster())(self.cluster)

    @rule(names=SOME)
    def revoke_unknown(self, names: set[str]) -> None:
        """The error names a region that does not exist, and no other region is revoked."""
        for name in names - self.model.states.keys():
            with pytest.raises(RegionNotFoundError):
                revoked("acme", [name, *self.model.states], NOW)(self.cluster)
            with pytest.raises(RegionNotFoundError):
                deleted("acme", [name], DAY).at(NOW)(self.cluster)

    @invariant()
    def agrees(self) -> None:
        """States, counters and generations equal the model's."""
        cluster, model = self.cluster, self.model
        assert (cluster.epoch, cluster.version) == (model.epoch, model.version)
        assert [region.name for region in cluster.regions] == sorted(model.states)
        for region in cluster.regions:
            assert region.state.value == model.states[region.name]
            assert (region.purge_time is not None) == (region.state is State.DELETED)
            counts = [1 + len(self.history.get(g.kek_id, ())) for g in region.generations]
            assert counts == model.wraps[region.name]

    @invariant()
    def keeps_every_kek(self) -> None:
        """S5: no KEK is lost, each has one live wrap, the last, and numbers have no gaps."""
        keks = set()
        for region in self.cluster.regions:
            numbers = [generation.number for generation in region.generations]
            assert numbers == list(range(1, len(numbers) + 1))
            for generation in region.generations:
                keks.add(generation.kek_id)
                old, current = self.history.get(generation.kek_id, []), generation.current
                assert current.ciphertext
                assert not any(hasattr(w, "ciphertext") for w in old)
                assert all(w.superseded_at == NOW for w in old)
                numbers_of_wraps = [*(w.number for w in old), current.number]
                assert numbers_of_wraps == list(range(1, len(old) + 2))
        assert self.keks <= keks
        self.keks = keks


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=60, stateful_step_count=25)


REFUSALS: dict[tuple[State, Action], type[StateError]] = {
    **{(State.REVOKED, a): RevokedError for a in (Action.USE, Action.ENABLE, Action.ROTATE)},
    **{
        (State.DELETED, a): KeyDeletedError
        for a in (
            Action.USE,
            Action.ENABLE,
            Action.ROTATE,
            Action.RESTORE,
            Action.ADD,
            Action.RETIRE,
        )
    },
    (State.ENABLED, Action.DELETE): NotRevokedError,
    (State.ENABLED, Action.UNDELETE): NotDeletedError,
}


def test_what_the_table_lacks_is_refused() -> None:
    """The table refuses every transition that it lacks, and each error says what to call first."""
    refused = {
        (state, action)
        for state in State
        for action in Action
        if (state, action) not in TRANSITIONS
    }
    assert refused == REFUSALS.keys()
    says = {RevokedError: "Restore", NotRevokedError: "Revoke", NotDeletedError: "nothing"}
    for (state, action), kind in REFUSALS.items():
        with pytest.raises(kind, match=says.get(kind, "UndeleteCluster")) as caught:
            after(state, action, cluster="acme", region="eu", purge_time=0)
        assert (caught.value.cluster, caught.value.region) == ("acme", "eu")
        if kind is KeyDeletedError:
            assert "erases it after 1970-01-01T00:00:00Z" in caught.value.message
    assert after(None, Action.ENABLE, cluster="acme", region="eu") is State.ENABLED


def test_a_deleted_region_keeps_its_waiting_period() -> None:
    """A second Delete neither hastens nor delays the first; UndeleteCluster comes before that."""
    cluster = revoked("acme", (), NOW)(a_cluster("acme", [a_region("eu")])).cluster
    first = deleted("acme", ["eu"], DAY).at(NOW)(cluster).cluster
    again = deleted("acme", ["eu"], DAY).at(NOW + 5)(first).cluster
    assert again.region("eu") == first.region("eu")
    assert first.region("eu").purge_time == NOW + DAY
    with pytest.raises(KeyDeletedError, match="UndeleteCluster") as caught:
        deleted("acme", ["eu"], 0).at(NOW)(first)
    assert caught.value.field == "waiting_period"
    with pytest.raises(KeyDeletedError):
        retired("acme", "eu", 1, NOW, back=True)(first)
    back = undeleted("acme", (), NOW + 1)(first).cluster.region("eu")
    assert (back.state, back.purge_time) == (State.REVOKED, None)


def test_a_cluster_that_does_not_exist() -> None:
    """A cluster or region that does not exist is neither revoked nor found."""
    with pytest.raises(ClusterNotFoundError):
        revoked("acme", (), NOW)(None)
    with pytest.raises(ClusterNotFoundError):
        existing(None, "acme")
    with pytest.raises(ConcurrentChangeError):
        with_regions(a_cluster(), (), NOW)(None)
