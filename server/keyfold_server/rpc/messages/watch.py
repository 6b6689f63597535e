"""Converts what concerns watches and cursors between the contract's messages and plain values."""

from __future__ import annotations

from typing import Final

from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import resources_pb2 as res
from keyfold_server.domain.cursors import CursorReport
from keyfold_server.domain.errors import ClusterBannedError
from keyfold_server.domain.watching import WatchRequest
from keyfold_server.rpc.messages import events, requests
from keyfold_server.rpc.messages.replies import HEALTH, STATES, span, time_of
from keyfold_server.service.events.listing import VisibleEvent
from keyfold_server.service.watch.looks import Look, RegionLook
from keyfold_server.service.watch.messages import Beat, Message, SnapshotEnd, Told

_TOKEN: Final = pb.WatchEventsResponse.DESCRIPTOR.fields_by_name["resume_token"].name


def watch_request(message: pb.WatchEventsRequest) -> WatchRequest:
    """Returns the request of WatchEvents.

    Raises:
        InvalidPageError: The filter is wrong.
    """
    return WatchRequest(
        clusters=frozenset(message.clusters),
        organization=requests.sought(message.organization, "organization"),
        states=message.states,
        events=message.events,
        which=events.event_filter(message.filter),
        resume_token=message.resume_token,
        cursor=message.cursor,
    )


class WatchMessages:
    """Makes the messages of one replica's streams."""

    def __init__(self, cache_ttl: float) -> None:
        """Takes the seconds of the TTL of a region whose policy sets none."""
        self._cache_ttl = cache_ttl

    def encoded(self, message: Message, token: str, session: str, store: str) -> bytes:
        """Returns a message as bytes.

        A state's own bytes are made once for all readers that see the same regions.
        """
        rest = pb.WatchEventsResponse(resume_token=token, cursor_session=session, store=store)
        if isinstance(message, Told):
            # Protobuf joins what is written one after the other into one message.
            return self._state(message) + rest.SerializeToString()
        if isinstance(message, VisibleEvent):
            rest.event.CopyFrom(events.event(message))
        elif isinstance(message, Beat):
            rest.heartbeat.number = message.number
            if message.age is not None:
                rest.heartbeat.store_age.CopyFrom(span(message.age))
            rest.heartbeat.max_store_age.CopyFrom(span(message.most))
            rest.heartbeat.stream_age.CopyFrom(span(message.stream))
        elif isinstance(message, SnapshotEnd):
            rest.snapshot_end.SetInParent()
        return rest.SerializeToString()

    def _state(self, told: Told) -> bytes:
        look = told.look
        if told.regions is None:
            gone = pb.ClusterState(cluster=look.name, exists=False)
            return pb.WatchEventsResponse(state=gone).SerializeToString()
        known = look.encoded.get(told.regions)
        if known is None:
            state = self._cluster(look, told.regions)
            known = pb.WatchEventsResponse(state=state).SerializeToString()
            look.encoded[told.regions] = known
        return known

    def _cluster(self, look: Look, regions: tuple[str, ...]) -> pb.ClusterState:
        cluster = look.cluster
        if cluster is None:
            banned = isinstance(look.unusable, ClusterBannedError)
            return pb.ClusterState(
                cluster=look.name,
                organization=look.organization or "",
                exists=True,
                banned=banned,
                not_authentic=not banned,
            )
        return pb.ClusterState(
            cluster=cluster.name,
            uid=cluster.uid,
            organization=cluster.organization or "",
            epoch=cluster.epoch,
            exists=True,
            regions=[self._region(each) for each in look.regions if each.region.name in regions],
        )

    def _region(self, look: RegionLook) -> pb.RegionState:
        region, seen = look.region, look.seen
        ttl = region.policy.cache_ttl
        state = pb.RegionState(
            region=region.name,
            state=STATES[region.state],
            health=res.HEALTH_UNKNOWN if seen is None else HEALTH[seen.health],
            generations=[
                pb.GenerationState(
                    generation=each.number, kek_id=each.kek_id, retired=each.retired_at is not None
                )
                for each in region.generations
            ],
            refusal=look.refusal,
            cache_ttl=span(self._cache_ttl if ttl is None else ttl),
        )
        if seen is not None and region.in_service:
            if seen.can_wrap is not None:
                state.can_wrap = seen.can_wrap
            if seen.can_unwrap is not None:
                state.can_unwrap = seen.can_unwrap
        return state


def cursor(report: CursorReport, expiry: float) -> pb.Cursor:
    """Returns a cursor; `expiry` is the seconds after which one expires that nobody advances."""
    kept = report.cursor
    expires = kept.advanced_at + int(expiry * 1000) if kept.expired_at is None else kept.expired_at
    return pb.Cursor(
        name=kept.key.name,
        number=kept.position.number,
        advance_time=time_of(kept.advanced_at),
        expire_time=time_of(expires),
        behind=report.behind,
        caller=kept.key.owner,
        create_time=time_of(kept.created_at),
        expired=kept.expired_at is not None,
    )
