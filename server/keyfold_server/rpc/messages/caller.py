"""Converts the messages of GetCaller from plain values."""

from __future__ import annotations

from typing import Final

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.version import __version__
from keyfold_server.domain.rights import Caller, Holding
from keyfold_server.rpc.messages.replies import span, time_of
from keyfold_server.service.replica import Replica

_PROOFS: Final = {
    name.removeprefix("CALLER_PROOF_").lower(): number for name, number in pb.CallerProof.items()
}


def caller_reply(caller: Caller) -> pb.GetCallerResponse:
    """Returns who a caller is and what it holds, without the replica that answers."""
    rights = caller.rights
    identity = rights.identity
    holdings = rights.holdings
    return pb.GetCallerResponse(
        caller=identity.name,
        names=identity.names,
        proof=_PROOFS[identity.proof],
        organization=_organization(holdings),
        expire_time=None if caller.expires is None else time_of(round(caller.expires * 1000)),
        grants=map(_grant, holdings),
        notices=rights.lapsed,
    )


def replica_info(replica: Replica) -> pb.ReplicaInfo:
    """Returns what the replica that answers says of itself."""
    age = replica.store_age
    return pb.ReplicaInfo(
        replica=replica.changes.replica,
        version=__version__,
        time=time_of(round(replica.clock.wall() * 1000)),
        store_age=None if age is None else span(age),
        max_store_age=span(replica.timing.store_max_staleness),
        serves=sorted(replica.served.names or ()),
    )


def _organization(holdings: tuple[Holding, ...]) -> str:
    """Returns the organization in a token; empty: no grant goes by one, or grants by several."""
    named = {name for one in holdings if one.by_claim for name in one.organizations or ()}
    return named.pop() if len(named) == 1 else ""


def _grant(holding: Holding) -> pb.CallerGrant:
    return pb.CallerGrant(
        roles=holding.roles,
        methods=holding.methods,
        cluster_patterns=holding.clusters or (),
        organization_patterns=holding.organizations or (),
        region_patterns=holding.regions or (),
        context=dict(holding.context),
        keys=[
            pb.CallerKey(
                type=key.type,
                uri_pattern=key.uri,
                principal_pattern=key.principal,
                options=dict(key.options),
            )
            for key in holding.keys
        ],
    )
