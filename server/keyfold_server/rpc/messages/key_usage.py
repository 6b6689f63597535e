"""Converts the messages of ListKeyUsage to and from plain values."""

from __future__ import annotations

from typing import Final

from keyfold.v1 import key_management_service_pb2 as pb
from keyfold_server.domain.errors import ClusterBannedError, InvalidSelectorError
from keyfold_server.domain.key_usage import KeyUse
from keyfold_server.domain.what_if import KeyImpact, WhatIf, When
from keyfold_server.rpc.messages.replies import STATES, span, time_if, time_of
from keyfold_server.rpc.messages.requests import sought
from keyfold_server.rpc.messages.status import code_of
from keyfold_server.service.life.key_usage import KeySelector, KeyUsagePage

_WHAT_IF: Final = {pb.WhatIf.Value(f"WHAT_IF_{what.name}"): what for what in WhatIf}
_WHEN: Final = {when: pb.ImpactTime.Value(f"IMPACT_TIME_{when.name}") for when in When}


def key_selector(message: pb.KeySelector) -> KeySelector:
    """Returns a selector of root keys.

    Raises:
        MalformedRequestError: A text holds a NUL.
    """
    return KeySelector(
        uri=sought(message.uri, "selector.uri") or "",
        key_version=sought(message.key_version, "selector.key_version") or "",
        principal=sought(message.auth_principal, "selector.auth_principal") or "",
        holder=sought(message.holder, "selector.holder") or "",
    )


def what_if(message: pb.ListKeyUsageRequest) -> WhatIf | None:
    """Returns what a customer is supposed to do, or None.

    Raises:
        InvalidSelectorError: It is a number that the contract does not list.
    """
    if message.what_if and message.what_if not in _WHAT_IF:
        raise InvalidSelectorError(
            "the contract does not list this what_if; leave it out", field="what_if"
        )
    return _WHAT_IF.get(message.what_if)


def tells_nothing(reply: pb.ListKeyUsageResponse) -> bool:
    """Says whether a reply is the one that callers get who may not know whether there are uses."""
    return not reply.uses and not reply.HasField("safe_to_disable")


def key_usage(page: KeyUsagePage) -> pb.ListKeyUsageResponse:
    """Returns the response of ListKeyUsage without its uses."""
    safety = page.safety
    banned = [error for error in page.spoilt if isinstance(error, ClusterBannedError)]
    return pb.ListKeyUsageResponse(
        next_page_token=page.next_token,
        hidden=safety.hidden,
        safe_to_disable=safety.safe,
        reasons=safety.reasons,
        backups_need_since=time_if(safety.since),
        backups_need_until=time_if(safety.until),
        total=safety.visible,
        not_authentic=[error.cluster or "" for error in page.spoilt if error not in banned],
        banned=[error.cluster or "" for error in banned],
    )


def key_use(use: KeyUse, impact: KeyImpact | None) -> pb.KeyUse:
    """Returns one use of a root key, with what the request's action does to it, or None."""
    return pb.KeyUse(
        cluster=use.cluster,
        organization=use.organization or "",
        region=use.region,
        state=STATES[use.state],
        generation=use.generation,
        kek_id=use.kek_id,
        retired=use.retired,
        newest=use.newest,
        superseded=use.superseded,
        type=use.key_type,
        uri=use.uri,
        key_version=use.key_version,
        auth_principal=use.principal,
        create_time=time_of(use.created_at),
        supersede_time=time_if(use.superseded_at),
        impact=None if impact is None else _impact(impact),
    )


def _impact(impact: KeyImpact) -> pb.KeyImpact:
    error = impact.error
    return pb.KeyImpact(
        stops_wrap=impact.stops_wrap,
        stops_unwrap=impact.stops_unwrap,
        stops_rotation=impact.stops_rotation,
        when=_WHEN[impact.when],
        stops_within=span(impact.stops_within) if impact.stops else None,
        code="" if error is None else code_of(error).name,
        reason="" if error is None else error.reason,
        resumes=impact.resumes,
        needs=impact.needs,
        because=impact.because,
    )
