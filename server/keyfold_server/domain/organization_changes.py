"""Changes of organizations and key links: the pure functions that decide them.

A change gets the organization as the store has it, read under its lock, and returns it as it shall
be. It raises if the change may not happen. So limits, etags and "one link for each provider and
region" are decided here, and a store only reads, calls and writes (`changes` does so for clusters).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from keyfold_server.domain.changes import RequestKey
from keyfold_server.domain.errors import (
    ConcurrentChangeError,
    EtagMismatchError,
    KeyLinkExistsError,
    KeyLinkInUseError,
    KeyLinkMovingError,
    OrganizationExistsError,
    OrganizationNotEmptyError,
    OrganizationNotFoundError,
    TooManyKeyLinksError,
)
from keyfold_server.domain.holders import Holder, with_claimed
from keyfold_server.domain.key_links import KeyLink, LinkUse, Move, listed
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.operations import OperationChange
from keyfold_server.domain.organizations import (
    DEFAULTS,
    NAMED,
    Organization,
    OrganizationView,
    Settings,
    sorted_links,
)

DecideOrganization = Callable[[OrganizationView], Organization]
"""A change: from the organization under its lock to the organization as it shall be. One that is
not kept any more (`Organization.is_kept`) loses its row. The same object: nothing changes."""


@dataclass(frozen=True, slots=True)
class OrganizationChange:
    """One RPC's change of one organization, which is committed as a whole or not at all.

    Attributes:
        organization: The organization's name.
        decide: The change, which the store calls under the row's lock.
        event: Who asked for it, for the entry of the log in the same transaction.
        request: The request_id to record, in the same transaction, or None.
        operation: The change of the operation that moves one of the organization's links, in the
            same transaction, so that neither goes without the other; or None. It has an entry of
            its own. Where it changes nothing, the organization does not change either.
        holders: The holders in which the change has proven keys under principals that several
            customers share, which it claims (`claiming`).
    """

    organization: str
    decide: DecideOrganization
    event: AuditEvent
    request: RequestKey | None = None
    operation: OperationChange | None = None
    holders: tuple[Holder, ...] = ()


def no_organization(name: str) -> OrganizationNotFoundError:
    """Returns the error for an organization that does not exist, or that the caller may not see."""
    return OrganizationNotFoundError(
        f"there is no organization {name}; check the name, or make it with CreateOrganization",
        field="organization",
    )


def existing_organization(view: OrganizationView) -> Organization:
    """Returns the organization that a look-up found.

    Raises:
        OrganizationNotFoundError: Nobody made it, and no cluster names it.
    """
    if not view.exists:
        raise no_organization(view.organization.name)
    return view.organization


def described(before: Organization, after: Organization) -> str:
    """Returns what a decision does to an organization, as JSON with sorted keys, for the log."""
    told: dict[str, Any] = {}
    if (before.settings, before.created_at) != (after.settings, after.created_at):
        made = after.created_at is not None
        told["settings"] = _settings(after.settings) if made else None
    was = {link.name: link for link in before.links}
    now = {link.name: link for link in after.links}
    links = {
        name: _link(now[name]) if name in now else None
        for name in was.keys() | now.keys()
        if was.get(name) != now.get(name)
    }
    if links:
        told["links"] = links
    changed = set(before.holders) ^ set(after.holders)
    if changed:
        told["holders"] = {str(each): each in after.holders for each in changed}
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


def _settings(settings: Settings) -> dict[str, Any]:
    return asdict(settings) | {"default_key": settings.default_key.value}


def _link(link: KeyLink) -> dict[str, Any]:
    told = _key(link.key_spec) | {"proven": link.proven}
    told |= {"geo": link.geo} if link.geo else {"region": link.region}
    move = link.move
    if move is not None:
        previous = _key(move.previous)
        told["move"] = {"previous": previous, "operation": move.operation, "open": move.open}
    return told


def _key(spec: KeySpec) -> dict[str, Any]:
    return {"type": spec.type, "uri": spec.uri, "principal": spec.principal}


def created(settings: Settings, now: int) -> DecideOrganization:
    """Returns the change that makes an organization.

    Made again with the same settings, it does not change.
    """

    def decide(view: OrganizationView) -> Organization:
        current = view.organization
        if current.created_at is None:
            return _with_settings(current, settings, now)
        if current.settings == settings:
            return current
        raise OrganizationExistsError(
            f"organization {current.name} was made before, with other settings; change it with "
            "UpdateOrganization",
            field="organization",
        )

    return decide


def updated(
    change: Callable[[Settings], Settings],
    expected_etag: str,
    now: int,
    *,
    holders: tuple[Holder, ...] | None = None,
) -> DecideOrganization:
    """Returns the change of an organization's settings; makes one that only clusters name.

    Args:
        change: Returns the new settings.
        expected_etag: The etag that the organization must have; empty: any.
        now: Milliseconds of Unix time.
        holders: The new holders, sorted; None: those that it has. Others may have the same.
    """

    def decide(view: OrganizationView) -> Organization:
        current = existing_organization(view)
        _check_etag(current.etag, expected_etag, f"organization {current.name}")
        settings = change(current.settings)
        held = current.holders if holders is None else holders
        if current.created_at is not None and (settings, held) == (
            current.settings,
            current.holders,
        ):
            return current
        return replace(_with_settings(current, settings, now), holders=held)

    return decide


def claiming(
    decide: DecideOrganization, holders: tuple[Holder, ...], now: int
) -> DecideOrganization:
    """Returns a change with what it claims for its organization (protocol C9).

    Args:
        decide: The change.
        holders: The holders in which the change has proven keys.
        now: Milliseconds of Unix time.

    Returns:
        The change, which raises KeyHeldByAnotherError if another organization has one of them.
    """

    def claimed(view: OrganizationView) -> Organization:
        current, after = view.organization, decide(view)
        held = with_claimed(current.holders, holders, view.held_elsewhere)
        if held == current.holders:
            return after
        made = current.created_at is not None
        return replace(
            after,
            holders=held,
            version=current.version + 1,
            revision=after.revision + made,
            updated_at=now,
        )

    return claimed


def deleted(expected_etag: str, now: int) -> DecideOrganization:
    """Returns the change that deletes an organization without clusters, links and holders."""

    def decide(view: OrganizationView) -> Organization:
        current = existing_organization(view)
        _check_etag(current.etag, expected_etag, f"organization {current.name}")
        left = []
        if view.cluster_count:
            left.append(f"clusters {listed(view.clusters, view.cluster_count)}")
        if current.links:
            names = [link.name for link in current.links]
            left.append(f"key links {listed(names[:NAMED], len(names))}")
        if current.holders:
            names = [str(holder) for holder in current.holders]
            left.append(f"holders {listed(names[:NAMED], len(names))}")
        if left:
            release = ", and release holders with UpdateOrganization" if current.holders else ""
            raise OrganizationNotEmptyError(
                f"organization {current.name} still has {' and '.join(left)}; delete them first"
                f"{release}",
                field="organization",
            )
        return Organization(current.name, version=current.version + 1, updated_at=now)

    return decide


def link_created(new: KeyLink, now: int) -> DecideOrganization:
    """Returns the change that adds a link whose key was proven.

    Linked again with the same values, the link does not change.
    """

    def decide(view: OrganizationView) -> Organization:
        current = view.organization
        for link in current.links:
            if link.name == new.name:
                if _same(link, new):
                    return current
                raise KeyLinkExistsError(
                    f"organization {current.name} has a key link {new.name} already, with other "
                    "values; change it with UpdateKeyLink, or give this one another name",
                    field="key_link.key_link",
                )
        _check_apart(current, new)
        _check_room(current)
        return _with_links(current, (*current.links, new), now)

    return decide


def _check_room(organization: Organization) -> None:
    """Refuses a further link, if the organization has as many as it may.

    Raises:
        TooManyKeyLinksError: It has.
    """
    if len(organization.links) >= organization.most_links:
        raise TooManyKeyLinksError(
            f"organization {organization.name} may have {organization.most_links:,} key links, and "
            "has them; delete one, or have max_key_links raised",
            field="key_link",
        )


def _check_apart(organization: Organization, new: KeyLink) -> None:
    """Refuses a link for a provider and region for which the organization has another one.

    Raises:
        KeyLinkExistsError: It has one.
    """
    for link in organization.links:
        both = sorted({*link.proven, link.region} & {*new.proven, new.region} - {""})
        if link.name != new.name and link.key_spec.type == new.key_spec.type and both:
            raise KeyLinkExistsError(
                f"organization {organization.name} has linked {link.key_spec.type} for region "
                f"{', '.join(both)} already, as key link {link.name}; change that one with "
                "UpdateKeyLink, or delete it",
                region=both[0],
                field="key_link",
            )


def link_updated(
    name: str,
    expected_etag: str,
    now: int,
    *,
    seen: KeyLink,
    description: str | None,
    key: tuple[KeySpec, tuple[str, ...]] | None,
) -> DecideOrganization:
    """Returns the change of a link.

    Args:
        name: The link's name.
        expected_etag: The etag that the link must have; empty: any.
        now: Milliseconds of Unix time.
        seen: The link as it was when its key was proven.
        description: The new description, or None.
        key: The key that was proven, with the regions in which it was, or None.
    """

    def decide(view: OrganizationView) -> Organization:
        current = view.organization
        link = current.link(name)
        check_link_etag(link, expected_etag)
        check_still(link)
        if key is not None and link != seen:
            raise ConcurrentChangeError(
                f"key link {name} was changed by another request while its key was proven; ask "
                "again",
                field="key_link",
            )
        changed = replace(
            link, description=link.description if description is None else description
        )
        if key is not None:
            spec, proven = key
            if spec != link.key_spec:
                check_unused(link, view.use(name))
                changed = replace(changed, move=None)
            changed = replace(changed, key_spec=spec, proven=proven)
            _check_apart(current, changed)
        if changed == link:
            return current
        changed = replace(changed, revision=link.revision + 1, updated_at=now)
        others = [other for other in current.links if other.name != name]
        return _with_links(current, (*others, changed), now)

    return decide


def link_deleted(name: str, expected_etag: str, now: int) -> DecideOrganization:
    """Returns the change that deletes a link which no region uses."""

    def decide(view: OrganizationView) -> Organization:
        current = view.organization
        link = current.link(name)
        check_link_etag(link, expected_etag)
        check_still(link)
        use = view.use(name)
        if use.count:
            raise KeyLinkInUseError(
                f"key link {name} of organization {current.name} is used by {_users(use)}; have "
                "them leave it first, with Rotate and a key_spec, or delete their clusters: a "
                "deleted region uses it until its keys are erased, because it may come back",
                field="key_link",
            )
        return _with_links(current, tuple(x for x in current.links if x.name != name), now)

    return decide


def check_unused(link: KeyLink, use: LinkUse) -> None:
    """Refuses another key for a link that regions use, since they would not change with it.

    Raises:
        KeyLinkInUseError: Regions use it.
    """
    if use.count:
        raise KeyLinkInUseError(
            f"key link {link.name} is used by {_users(use)}, which would stay with its old key; "
            "move it with StartOperation and the action move_link (`keyfold links move`), which "
            "rotates each of them to the new key",
            field="key_link.key_spec",
        )


def check_still(link: KeyLink) -> None:
    """Refuses a change of a link while an operation moves it.

    Raises:
        KeyLinkMovingError: One does.
    """
    if link.move is not None and link.move.open:
        raise KeyLinkMovingError(
            f"{link.move.operation} is moving key link {link.name} of organization "
            f"{link.organization} to another key; wait for its end with WaitOperation, or cancel "
            "it with CancelOperation, and ask again then",
            field="key_link",
        )


def link_moving(
    name: str,
    key: tuple[KeySpec, tuple[str, ...]],
    operation: str,
    now: int,
    *,
    seen: KeyLink,
) -> DecideOrganization:
    """Returns the change by which an operation begins to move a link to another key.

    With the key that the link has, it goes on with the move before, whose users were not all moved.

    Args:
        name: The link's name.
        key: The new key, with the regions in which it was proven.
        operation: The full name of the operation.
        now: Milliseconds of Unix time.
        seen: The link as it was when its key was proven.
    """

    def decide(view: OrganizationView) -> Organization:
        current = view.organization
        link = current.link(name)
        if link.move is not None and link.move.open and link.move.operation == operation:
            return current
        check_still(link)
        if link != seen:
            raise ConcurrentChangeError(
                f"key link {name} was changed by another request while its new key was proven; "
                "ask again",
                field="key_link",
            )
        spec, proven = key
        goes_on = link.move is not None and spec == link.key_spec
        previous = link.move.previous if link.move is not None and goes_on else link.key_spec
        moving = replace(
            link,
            key_spec=spec,
            proven=proven,
            move=Move(previous, operation),
            revision=link.revision + 1,
            updated_at=now,
        )
        _check_apart(current, moving)
        others = [other for other in current.links if other.name != name]
        return _with_links(current, (*others, moving), now)

    return decide


def link_moved(name: str, operation: str, now: int) -> DecideOrganization:
    """Returns the change by which the operation that moves a link ends, however that is.

    Users that it did not move keep the keys that they have, and can be told by them.
    """

    def decide(view: OrganizationView) -> Organization:
        current = view.organization
        for link in current.links:
            move = link.move
            if link.name == name and move is not None and move.operation == operation and move.open:
                done = replace(
                    link,
                    move=replace(move, open=False),
                    revision=link.revision + 1,
                    updated_at=now,
                )
                others = [other for other in current.links if other.name != name]
                return _with_links(current, (*others, done), now)
        return current

    return decide


def check_link_etag(link: KeyLink, expected: str) -> None:
    """Refuses a link that is not the one that the caller saw.

    Raises:
        EtagMismatchError: The link has another etag.
    """
    _check_etag(link.etag, expected, f"key link {link.name} of organization {link.organization}")


def _check_etag(current: str, expected: str, what: str) -> None:
    if expected and expected != current:
        raise EtagMismatchError(
            f"{what} has changed since it had the etag {expected[:32]!a}; read it, and ask again "
            "with its etag if you still want the change",
            field="etag",
        )


def _users(use: LinkUse) -> str:
    named = [f"{user.cluster}/{user.region}" for user in use.users[:NAMED]]
    return listed(named, use.count)


def _same(link: KeyLink, new: KeyLink) -> bool:
    """Says whether a link is what a request would make of it, apart from what time does to it."""
    return link == replace(
        new,
        proven=link.proven,
        revision=link.revision,
        created_at=link.created_at,
        updated_at=link.updated_at,
    )


def _with_settings(current: Organization, settings: Settings, now: int) -> Organization:
    return replace(
        current,
        settings=settings,
        version=current.version + 1,
        revision=current.revision + 1,
        created_at=now if current.created_at is None else current.created_at,
        updated_at=now,
    )


def _with_links(current: Organization, links: tuple[KeyLink, ...], now: int) -> Organization:
    changed = replace(
        current, links=sorted_links(links), version=current.version + 1, updated_at=now
    )
    if changed.is_kept:
        return changed
    return Organization(current.name, DEFAULTS, version=changed.version, updated_at=now)
