"""The steps to the organizations and key links that a document declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from keyfold.calls import organizations as calls
from keyfold.cli.commands.documents import actual
from keyfold.cli.commands.documents.actual import Actual
from keyfold.cli.commands.documents.moves import move_step
from keyfold.cli.commands.documents.step import Step
from keyfold.cli.input.documents import Document, Entry
from keyfold.cli.output.documents import link_form, organization_form
from keyfold.cli.output.plan import Action, FieldChange, difference
from keyfold.cli.session import Session
from keyfold.errors import TooManyKeyLinksError
from keyfold.models.organizations import (
    KeyLink,
    KeyLinkChanged,
    KeyLinkUse,
    Organization,
    OrganizationChanged,
)

_PLACE: Final = frozenset({"region", "geo"})


def organization_name(name: str) -> str:
    """Returns the name of an organization in plans."""
    return f"organization/{name}"


def link_name(organization: str, name: str) -> str:
    """Returns the name of a key link in plans."""
    return f"link/{organization}/{name}"


def organization_steps(document: Document, exists: Actual) -> Iterator[Step]:
    """Yields a step for each organization that is not as the document says."""
    for name, entry in document.organizations.items():
        found = exists.organization(name)
        if found is None:
            yield _create_organization(name, entry.value)
        elif fields := _given(difference(organization_form(found), _wanted(entry, found)), entry):
            yield _update_organization(name, entry.value, found, fields)


def _wanted(entry: Entry[Organization], found: Organization) -> dict[str, Any]:
    """Returns the form of an organization as the file says, and elsewhere as it is."""
    form = organization_form(entry.value)
    return {
        name: form.get(name, value) if name in entry.given else value
        for name, value in organization_form(found).items()
    }


def _create_organization(name: str, made: Organization) -> Step:
    return Step(
        organization_name(name),
        Action.CREATE,
        (),
        calls.create_organization(made, None, validate_only=False),
        calls.create_organization(made, None, validate_only=True),
        _organization_changed,
        lambda session: organization_now(session, name),
        None,
    )


def _update_organization(
    name: str, changed: Organization, found: Organization, fields: tuple[FieldChange, ...]
) -> Step:
    mask = [each.field for each in fields]

    call = partial(calls.update_organization, changed, mask, found.etag, None)
    return Step(
        organization_name(name),
        Action.CHANGE,
        fields,
        call(validate_only=False),
        call(validate_only=True),
        _organization_changed,
        lambda session: organization_now(session, name),
        organization_form(found),
        found.etag,
    )


def _organization_changed(
    result: OrganizationChanged, before: dict[str, Any]
) -> tuple[FieldChange, ...]:
    return difference(before, organization_form(result.organization))


def organization_now(session: Session, name: str) -> tuple[dict[str, Any] | None, str]:
    """Reads the form of an organization, None if it does not exist, and its etag."""
    found = actual.organization(session, name)
    return (None, "") if found is None else (organization_form(found), found.etag)


def link_steps(document: Document, exists: Actual) -> Iterator[Step]:
    """Yields a step for each key link that is not as the document says.

    Raises:
        InputError: A link is for another region or geo than the document says.
    """
    for (organization, name), entry in document.key_links.items():
        found = exists.key_links(organization).get(name)
        if found is None:
            yield _create_link(document, entry)
            continue
        wanted = link_form(entry.value)
        now = link_form(found)
        fields = _given(difference(now, now | {one: wanted.get(one) for one in entry.given}), entry)
        if any(each.field in _PLACE for each in fields):
            raise document.wrong(
                entry,
                f"key link {name} of {organization} is for {found.region or f'geo {found.geo}'}, "
                "which never changes; give a link for another place another name",
            )
        if found.users_count or found.use is KeyLinkUse.MOVING:
            yield from _change_used(entry, found, fields)
        elif fields:
            yield _update_link(entry.value, found, fields)


def _change_used(
    entry: Entry[KeyLink], found: KeyLink, fields: tuple[FieldChange, ...]
) -> Iterator[Step]:
    """Yields the steps to a link that regions use: its key moves, and they with it."""
    here = tuple(each for each in fields if each.field != "key_spec")
    if here:
        yield _update_link(entry.value, found, here)
    if (here != fields or found.use is KeyLinkUse.MOVING) and entry.value.key_spec is not None:
        moved = tuple(each for each in fields if each.field == "key_spec")
        read = partial(link_now, organization=found.organization, name=found.key_link)
        name = link_name(found.organization, found.key_link)
        yield move_step(name, found, entry.value.key_spec, moved, link_form(found), read)


def _create_link(document: Document, entry: Entry[KeyLink]) -> Step:
    made = entry.value
    if made.key_spec is None:
        raise document.wrong(entry, f"key link {made.key_link} does not exist and has no key_spec")
    return Step(
        link_name(made.organization, made.key_link),
        Action.CREATE,
        difference({}, link_form(made)),
        calls.create_key_link(made, None, validate_only=False),
        calls.create_key_link(made, None, validate_only=True),
        _link_changed,
        lambda session: link_now(session, made.organization, made.key_link),
        None,
        excused=(TooManyKeyLinksError,) if made.organization in document.organizations else (),
    )


def _update_link(changed: KeyLink, found: KeyLink, fields: tuple[FieldChange, ...]) -> Step:
    mask = [each.field for each in fields]
    # The place is not among the fields of an update.
    changed = replace(changed, region="", geo="")

    call = partial(calls.update_key_link, changed, mask, found.etag, None)
    return Step(
        link_name(found.organization, found.key_link),
        Action.CHANGE,
        fields,
        call(validate_only=False),
        call(validate_only=True),
        _link_changed,
        lambda session: link_now(session, found.organization, found.key_link),
        link_form(found),
        found.etag,
    )


def _link_changed(result: KeyLinkChanged, before: dict[str, Any]) -> tuple[FieldChange, ...]:
    return difference(before, link_form(result.key_link))


def link_now(session: Session, organization: str, name: str) -> tuple[dict[str, Any] | None, str]:
    """Reads the form of a key link, None if it does not exist, and its etag."""
    found = actual.key_link(session, organization, name)
    return (None, "") if found is None else (link_form(found), found.etag)


def _given(fields: tuple[FieldChange, ...], entry: Entry[Any]) -> tuple[FieldChange, ...]:
    return tuple(each for each in fields if each.field in entry.given)
