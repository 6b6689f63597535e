"""One replica: joins the parts of the service, starts and stops them.

Providers, store and clock come in from outside, so that tests run the whole service on fakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import isfinite

from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.key_names import KeyNames
from keyfold_server.domain.operations import Operation, Work
from keyfold_server.domain.ports import Clock, Heartbeat, Store
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.domain.residency import ResidencyPolicy
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.seats import SeatPool
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.data_plane import DataPlane
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.data.keyring import Keyring
from keyfold_server.service.events.alarm import LogAlarm
from keyfold_server.service.events.listing import Events
from keyfold_server.service.events.log_checks import LogChecks
from keyfold_server.service.events.usage import Usage
from keyfold_server.service.fleet.changes import Changes, replica_name
from keyfold_server.service.fleet.confirmations import Confirmations
from keyfold_server.service.fleet.refusals import Refusals
from keyfold_server.service.fleet.staleness import Moment
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.kms.kek_wrapper import KekWrapper
from keyfold_server.service.lane import PLACES
from keyfold_server.service.life.acknowledgements import Acknowledgements
from keyfold_server.service.life.attempts import Attempts
from keyfold_server.service.life.clusters import Clusters
from keyfold_server.service.life.deletion import Deletion
from keyfold_server.service.life.key_usage import KeyUsage
from keyfold_server.service.life.listing import Listing
from keyfold_server.service.life.mutations import Mutations
from keyfold_server.service.life.policies import Policies
from keyfold_server.service.life.rechecks import Rechecks
from keyfold_server.service.life.reports import Reports
from keyfold_server.service.life.restoration import Restoration
from keyfold_server.service.life.revocation import Revocation
from keyfold_server.service.life.rotation import Rotation
from keyfold_server.service.life.status import Status
from keyfold_server.service.limits import Accounts, Limits, Room
from keyfold_server.service.loading.first_uses import FirstUses
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.observed.usage import FLUSH as COUNTS_FLUSH
from keyfold_server.service.observed.usage import UsageRecorder
from keyfold_server.service.observed.uses import FLUSH, UseRecorder
from keyfold_server.service.operations.census import Counting
from keyfold_server.service.operations.control import Control
from keyfold_server.service.operations.decisions import Decisions
from keyfold_server.service.operations.items import Items
from keyfold_server.service.operations.operations import Operations
from keyfold_server.service.operations.run import Run
from keyfold_server.service.operations.runner import Runner
from keyfold_server.service.operations.steps import RightsOf, Steps
from keyfold_server.service.organizations.key_links import KeyLinks
from keyfold_server.service.organizations.link_moves import LinkMoves
from keyfold_server.service.organizations.link_proofs import LinkProofs
from keyfold_server.service.organizations.mutations import OrganizationMutations
from keyfold_server.service.organizations.organizations import Organizations
from keyfold_server.service.root_keys.access_policies import AccessPolicies
from keyfold_server.service.root_keys.admission import Admission
from keyfold_server.service.root_keys.audit import Audit
from keyfold_server.service.root_keys.external_ids import ExternalIds
from keyfold_server.service.root_keys.geo_keys import GeoKeys
from keyfold_server.service.root_keys.geo_trials import GeoTrials
from keyfold_server.service.root_keys.holders import Holders
from keyfold_server.service.root_keys.identities import Identities
from keyfold_server.service.root_keys.link_keys import LinkKeys
from keyfold_server.service.root_keys.replica_of import ReplicaKeys
from keyfold_server.service.root_keys.residency import Residency
from keyfold_server.service.root_keys.resolution import Resolution
from keyfold_server.service.root_keys.scope import Scopes
from keyfold_server.service.root_keys.seats import Seats
from keyfold_server.service.root_keys.spec_keys import SpecKeys
from keyfold_server.service.root_keys.trials import Trials
from keyfold_server.service.shared_room import SharedRoom
from keyfold_server.service.storage import Storage
from keyfold_server.service.supervisor import Supervisor
from keyfold_server.service.tasks import Tasks
from keyfold_server.service.upkeep import erasure, flushing, log_verification, pruning
from keyfold_server.service.upkeep.auto_rotation import AutoRotation
from keyfold_server.service.upkeep.erasure import Erasure
from keyfold_server.service.upkeep.flushing import Flushing
from keyfold_server.service.upkeep.gauges import Gauges
from keyfold_server.service.upkeep.log_verification import LogVerification
from keyfold_server.service.upkeep.pruning import Pruning
from keyfold_server.service.upkeep.sweep import Sweep
from keyfold_server.service.upkeep.turns import Turns
from keyfold_server.service.upkeep.unserved import UnservedRegions
from keyfold_server.service.upkeep.verification import TURNS, Verification
from keyfold_server.service.watch import cursors, watches
from keyfold_server.service.watch.cursors import CursorReaders
from keyfold_server.service.watch.feed import Feed
from keyfold_server.service.watch.looks import Looks
from keyfold_server.service.watch.sources import Pulse, Sources
from keyfold_server.service.watch.tokens import ResumeTokens
from keyfold_server.service.watch.watches import BEATS, Watches

log = logging.getLogger(__name__)


class Replica:
    """The service of one process.

    Attributes:
        clock: Time.
        store_uid: The uid of the store.
        timing: The spans that the promises are made of.
        served: The regions whose KMSs this replica calls.
        geos: The settings' geos.
        data_plane: Answers Wrap, Unwrap and the other data-plane calls.
        loads: Brings keys into memory.
        clusters: Carries out Enable and AddRegions.
        rotation: Carries out Rotate.
        revocation: Carries out Revoke and RetireGeneration.
        restoration: Carries out Restore.
        deletion: Carries out DeleteCluster and UndeleteCluster.
        trials: Carries out TestKey.
        geo_trials: Carries out TestKey for a geo.
        seats: Gives seats to owners.
        access_policies: Answers GetAccessPolicy.
        seats: Gives seats to owners.
        identities: Lists what was issued to organizations.
        rechecks: Carries out Recheck.
        operations: Answers the calls about operations.
        decisions: Answers those about decisions that replicas confirm.
        reports: Makes the cluster reports in answers.
        status: Answers GetStatus.
        listing: Answers ListClusters.
        key_usage: Answers ListKeyUsage.
        organization_service: Carries out the methods of organizations.
        key_links: Carries out the methods of key links.
        events: Answers ListEvents.
        usage: Answers ListUsage.
        usage_recorder: Counts uses.
        log_checks: Answers VerifyEvents and GetAnchor.
        watches: Carries out WatchEvents, and the calls about cursors.
        changes: Follows the changes of the other replicas.
        sweep: Checks keys that no caller uses.
        erasure: Erases what is deleted, once its time has come.
        gauges: Shows the metrics that say how things stand.
        supervisor: Keeps the tasks going that live as long as the replica.
        bounds: The limits on calls and their sizes.
        callers: The places and rates of each caller.
        organizations: The places and rates of each organization.
        limits: The limits that changes of clusters count against.
    """

    def __init__(  # noqa: PLR0913  one argument for each part of the settings
        self,
        providers: Callable[[str], KeyProvider],
        names: KeyNames,
        store: Store,
        clock: Clock,
        timing: Timing,
        *,
        bounds: Bounds | None = None,
        regions: ResidencyPolicy | None = None,
        seats: SeatPool | None = None,
        served: ServedRegions | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins the parts; `start` brings them to life.

        Args:
            providers: Returns a provider by its type; raises UnknownProviderError.
            names: What key uris and PLATFORM mean.
            store: The store.
            clock: Time.
            timing: The spans that the promises are made of.
            bounds: The limits on calls and their sizes.
            regions: The settings' rules for the places of keys.
            seats: The settings' seats.
            served: The regions whose KMSs this replica calls; every region by default.
            random: The source of keys and ids.
        """
        self.clock = clock
        self.store_uid = store.uid
        self.timing = timing
        self.bounds = bounds or Bounds()
        self.geos = (regions or ResidencyPolicy()).geos
        self._random = random
        self._names = names
        self._alarm = LogAlarm()
        self._storage = Storage(store, self._alarm.watching)
        self.served = served or ServedRegions()
        self._kms = KmsClient(
            providers, clock, timing.provider_budget, self.bounds.kms_rates, self.served
        )
        self._health = HealthRecorder(clock, self._storage, self.served, timing.sweep)
        self._cache = KeyCache(self.bounds.cached_clusters)
        self._uses = UseRecorder(self._cache, clock, self._storage)
        self._tasks = Tasks()
        self.supervisor = Supervisor(clock)
        name = replica_name()
        self.usage_recorder = UsageRecorder(self._cache, clock, self._storage, name)
        self.watches = self._watches(timing)
        self._refusals = Refusals(
            name, self._storage, timing.store_poll, self.supervisor, self.watches.refused
        )
        self.loads = Loads(
            self._cache,
            self._kms,
            self._storage,
            self._health,
            clock,
            timing,
            self._refusals.tell_others,
            self._tasks,
        )
        self._kek_wrapper = KekWrapper(self._kms, self.loads.refused, random)
        self.changes = Changes(
            Heartbeat(name, 0, b"", timing.store_max_staleness, 0, self.served.names),
            self._storage,
            self.loads,
            clock,
            timing,
            self._tasks,
            self.supervisor.watch("poll"),
            self.watches,
        )
        self.loads.before_first_use = FirstUses(
            self._storage, self._tasks, self.changes.applied_here, self.changes.made_elsewhere
        ).record
        self._join_data_plane()
        self._join_root_keys(names, regions or ResidencyPolicy(), seats or SeatPool())
        self._join_life(timing)
        self._join_operations()
        self._join_upkeep(timing)

    def _watches(self, timing: Timing) -> Watches:
        storage, clock, feed = self._storage, self.clock, Feed()
        looks = Looks(
            storage,
            self._health,
            self._cache.last_seen,
            self.supervisor,
            self._tasks,
            feed.wake,
        )
        tokens = ResumeTokens(storage.store.mac, storage.store.uid)
        most = timing.store_max_staleness
        pulse = Pulse(self.check_serving, self._since, most, min(BEATS, most / 4))
        sources = Sources(feed, looks, tokens, storage, self._tasks, pulse, clock.monotonic)
        readers = CursorReaders(storage, tokens)
        return Watches(sources, readers, self.bounds.streams_per_caller)

    @property
    def store_age(self) -> float | None:
        """Seconds since this replica saw the store; None: it has not seen it yet."""
        age = self.changes.staleness.age()
        return age if isfinite(age) else None

    def _since(self, moment: Moment) -> float:
        return self.changes.staleness.since(moment)

    def _join_data_plane(self) -> None:
        bounds = self.bounds
        self.callers = Accounts(
            bounds.calls_per_caller, bounds.rate_per_caller, "caller", self.clock
        )
        self.organizations = Accounts(
            bounds.calls_per_organization, bounds.rate_per_organization, "organization", self.clock
        )
        # Data-plane calls have a room of their own, so that neither kind can delay the other.
        room = Room(bounds.calls, "calls")
        urgent = SharedRoom(PLACES, "revocations")
        self.limits = Limits(self.callers, self.organizations, room, urgent)
        keyring = Keyring(
            self._cache,
            self.clock,
            self.changes.check_serving,
            self.loads.refresh_on_grace,
            self.organizations,
        )
        self.data_plane = DataPlane(keyring, self._random)

    def _join_root_keys(self, names: KeyNames, regions: ResidencyPolicy, pool: SeatPool) -> None:
        kms = self._kms
        external_ids = ExternalIds(kms, self._storage, self.clock, self._random)
        self.seats = seats = Seats(kms, self._storage, self._kek_wrapper, pool, self.clock)
        identities = external_ids, seats
        self._holders = holders = Holders(kms, self._storage, external_ids, seats)
        self._residency = residency = Residency(kms, regions)
        self._resolution = resolution = Resolution(kms, names.platform)
        scopes = Scopes(self._storage, resolution, seats)
        self._admission = Admission(resolution, residency, external_ids, seats, holders)
        replica_keys = ReplicaKeys(kms, resolution, regions, pool)
        geo_keys = GeoKeys(kms, resolution, regions, replica_keys)
        link_keys = LinkKeys(self._storage, geo_keys)
        self._spec_keys = SpecKeys(geo_keys, replica_keys, link_keys)
        self._link_proofs = LinkProofs(
            resolution,
            residency,
            identities,
            holders,
            geo_keys,
            self._kek_wrapper,
            regions,
            self.clock,
        )
        self.identities = Identities(self._storage, pool)
        audit = Audit(self._storage, self._tasks, self.limits)
        self.trials = Trials(
            kms, scopes, residency, identities, holders, audit, self.clock, self._random
        )
        self.geo_trials = GeoTrials(geo_keys, self.trials)
        self.access_policies = AccessPolicies(
            self._storage,
            kms,
            scopes,
            residency,
            identities,
            holders,
            audit,
            self.changes,
        )

    def _join_life(self, timing: Timing) -> None:
        storage, clock, health = self._storage, self.clock, self._health
        kek_wrapper, check_fresh = self._kek_wrapper, self.changes.staleness.check
        self._attempts = attempts = Attempts(storage)
        last_seen = self._cache.last_seen
        self._mutations = mutations = Mutations(
            storage, self.changes, clock, self._tasks, self.limits, attempts, last_seen
        )
        self._confirmations = confirmations = Confirmations(
            self.changes.replica, storage, clock, timing
        )
        self.clusters = Clusters(
            mutations,
            self._spec_keys,
            self._admission,
            kek_wrapper,
            health,
            self._random,
        )
        self.reports = Reports(
            self.loads,
            health,
            self._uses,
            self._residency,
            self.geos,
            storage,
            clock,
            timing.backup_retention,
        )
        self.rotation = Rotation(
            mutations,
            confirmations,
            self._kms,
            self._spec_keys,
            self._admission,
            kek_wrapper,
            health,
            self.reports,
        )
        acknowledgements = Acknowledgements(mutations, confirmations, clock, timing)
        self.revocation = Revocation(mutations, acknowledgements, self.reports, storage)
        self.deletion = Deletion(mutations, acknowledgements, self.reports, storage, timing)
        self.restoration = Restoration(mutations, kek_wrapper, health)
        self.rechecks = Rechecks(
            storage,
            self.loads,
            kek_wrapper,
            health,
            confirmations,
            clock,
            timing.revoke_wait,
            check_serving=self.check_serving,
        )
        self.status = Status(
            storage,
            self.loads,
            kek_wrapper,
            health,
            self.reports,
            clock,
            timing,
            check_fresh=check_fresh,
        )
        organization_mutations = OrganizationMutations(
            storage, self.changes, clock, self._tasks, self.limits, attempts
        )
        self.organization_service = Organizations(
            organization_mutations, self._holders, storage, clock, check_fresh=check_fresh
        )
        self.key_links = KeyLinks(
            organization_mutations, self._link_proofs, storage, clock, check_fresh=check_fresh
        )
        self._link_moves = LinkMoves(organization_mutations, self._link_proofs, storage)
        self.listing = Listing(storage, self.reports, health, clock, check_fresh=check_fresh)
        self.key_usage = KeyUsage(
            storage,
            self._kms,
            clock,
            timing,
            names=self._names,
            check_fresh=check_fresh,
        )
        self.events = Events(storage, clock, check_fresh=check_fresh)
        self.usage = Usage(storage, clock, check_fresh=check_fresh)
        self.log_checks = LogChecks(storage, clock, self._alarm, check_fresh=check_fresh)

    def _join_operations(self) -> None:
        items = Items(self._storage)
        self._runner: Runner | None = None
        self._control = Control(self.served, self._storage, self.clock)

        def hasten() -> None:
            if self._runner is not None:
                self._runner.hasten()

        self.operations = Operations(
            self._storage,
            items,
            self._counting,
            self._link_moves,
            self.clock,
            hasten,
            self._control,
        )
        self.decisions = Decisions(
            self._storage, self._confirmations, self.changes.has_applied, self.operations.left
        )

    def _counting(self, work: Work) -> Counting:
        return Counting(work, self._kms, self.bounds.kms_rates)

    def run_operations(self, rights: RightsOf) -> None:
        """Makes this replica run operations once it has started.

        Args:
            rights: Returns the rights of an operation's caller under the policy in force.
        """
        storage, clock, lease = self._storage, self.clock, self.timing.operation_lease
        policies = Policies(self._mutations, self._kms)
        steps = Steps(
            self._mutations,
            self.rotation,
            policies,
            self.trials,
            self.rechecks,
            self._link_moves,
            rights,
            clock,
        )
        items = Items(storage)

        def run(operation: Operation, room: asyncio.Semaphore) -> Run:
            return Run(operation, items, steps, storage, self._counting, clock, lease, room)

        self._runner = Runner(
            storage, run, self.changes.replica, lease, self.check_serving, self._control
        )

    def _join_upkeep(self, timing: Timing) -> None:
        storage, clock = self._storage, self.clock
        self.sweep = Sweep(
            self._cache,
            self.loads,
            self._kek_wrapper,
            self._health,
            storage,
            Turns(storage, timing.sweep, clock, self.served.names),
            self.check_serving,
            AutoRotation(self._resolution, self.rotation, self._kek_wrapper, storage, clock),
        )
        self._verification = Verification(self._cache, self.loads, storage)
        # Twice per sweep, so that no cluster waits longer than that, wherever it is in its order.
        self._verify_every = timing.sweep / 2 / TURNS
        self._flushing = Flushing(self._health, self._uses, self.usage_recorder)
        self._log_verification = LogVerification(storage, self._alarm)
        self.erasure = Erasure(storage, self.changes, clock)
        self._pruning = Pruning(storage, clock, timing)
        self.gauges = Gauges(
            self._cache,
            storage,
            clock,
            self.changes.staleness.age,
            self.sweep.turns,
            UnservedRegions(storage),
            self._health,
        )

    async def start(self) -> None:
        """Registers with the store and begins to follow it and to keep keys fresh."""
        await self.changes.start()
        await self.seats.start()
        self.gauges.show()
        start = self.supervisor.start
        start("freshness", self.loads.freshness.turn)
        start("write_health", self._flushing.write_health, flushing.WRITE_HEALTH)
        start("write_usage", self._flushing.write_usage, COUNTS_FLUSH)
        start("write_uses", self._flushing.write_uses, FLUSH)
        start("prune", self._pruning.prune, pruning.INTERVAL)
        start("erase", self.erasure.turn, erasure.EVERY)
        start("count_regions", self.gauges.turn)
        start("verify_log", self._log_verification.turn, log_verification.EVERY)
        start("watches", self.watches.tick, watches.TICK)
        start("show_cursors", self.watches.cursors.show, cursors.EVERY)
        start("verify_clusters", self._verification.turn, self._verify_every)
        self.sweep.start(self.supervisor)
        if self._runner is not None:
            start("operations", self._runner.turn)

    def check_serving(self) -> None:
        """Refuses if this replica must not use keys now, for the reason that probes and log get.

        Raises:
            KeyfoldError: The reason.
        """
        self.changes.check_serving(self.clock.monotonic())

    def room_of(self, cluster: str, rights: Rights) -> AbstractContextManager[None]:
        """Returns a context that holds a place among an organization's waiting calls.

        A caller that may not see the cluster takes none of its organization's places, and cannot
        learn from them that the cluster exists (protocol C8).

        Raises:
            OverloadedError: The organization has no place left.
        """
        view = self._cache.view(cluster)
        organization = None if view is None else view.cluster.organization
        if organization is None or not rights.sees(cluster, organization):
            return contextlib.nullcontext()
        return self.organizations.of(organization).room.place()

    async def stop(self) -> None:
        """Ends what is under way, drops every key and signs off from the store."""
        _, _, graced = self._cache.count(self.clock.monotonic())
        if graced:
            log.warning("%d keys serve on grace in an outage; this stop ends that", graced)
        self.watches.drain()
        await self.supervisor.stop()
        if self._runner is not None:
            await self._runner.stop()
        await self.sweep.stop()
        await self._tasks.drain()
        self.loads.announcements.close()
        await self._refusals.stop()
        await self._attempts.stop()
        await self._confirmations.stop()
        self.loads.drop_all()
        await self._flushing.flush()
        await self.changes.stop()
        self._kms.close()
        self._storage.close()
