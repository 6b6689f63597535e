"""Organizations and key links, as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from keyfold.cli.output.tables import console, key_text, remarks, styled_table, time_text
from keyfold.cli.output.text import counted, one_line
from keyfold.models.organizations import KeyLink, KeyLinkUse, Organization

_MORE = Text("there are more; raise --limit", "yellow")


def show_organization(one: Organization) -> None:
    """Prints an organization."""
    out = console()
    title = one_line(one.organization)
    if one.display_name:
        title += f", {one_line(one.display_name)}"
    made = f"made {time_text(one.create_time)}" if one.create_time else "not made: has the defaults"
    out.print(Text.assemble((title, "bold"), " ", (made, "dim")))
    out.print(Text(one_line(one.default_description)))
    out.print(
        f"{_things(one.cluster_count, one.max_clusters, 'cluster')}, "
        f"{_things(one.key_link_count, one.max_key_links, 'key link')}"
    )
    if one.cluster_patterns:
        out.print(Text(one_line(f"clusters named {', '.join(one.cluster_patterns)}")))
    if one.holders:
        out.print(Text(one_line(f"its own: {', '.join(one.holders)}")))
    if one.identities:
        table = styled_table("KIND", "STATE", "PROVIDER", "REGION", "VALUE", "CLUSTER", "ISSUED")
        for identity in one.identities:
            table.add_row(
                identity.kind,
                identity.state,
                one_line(identity.provider) or "-",
                one_line(identity.region) or "-",
                one_line(identity.value) or f"{identity.count} free",
                one_line(identity.cluster) or "-",
                time_text(identity.create_time),
            )
        out.print(table)
    if one.etag:
        out.print(Text(f"etag {one_line(one.etag)}", "dim"))


def show_organizations(organizations: Sequence[Organization], *, more: bool) -> None:
    """Prints a table of organizations, and whether there are more of them."""
    out = console()
    if not organizations:
        remarks().print("no organizations")
        return
    table = styled_table("ORGANIZATION", "NAME", "DEFAULT KEY", "CLUSTERS", "LINKS", "MADE")
    for one in organizations:
        table.add_row(
            one_line(one.organization),
            one_line(one.display_name) or "-",
            one.default_key.value,
            _of(one.cluster_count, one.max_clusters),
            _of(one.key_link_count, one.max_key_links),
            time_text(one.create_time),
        )
    out.print(table)
    if more:
        remarks().print(_MORE)


def show_link(link: KeyLink) -> None:
    """Prints a key link, the replicas of a geo, and the regions that use it."""
    out = console()
    show_links([link], more=False)
    if link.description:
        out.print(Text(one_line(link.description)))
    if link.previous_key_spec is not None:
        before = Text.assemble("moving from ", key_text(link.previous_key_spec))
        left = f": {counted(link.unmoved_count, 'region')} with another key ({link.operation})"
        out.print(before.append(one_line(left)))
    if link.replicas:
        table = styled_table("REGION", "REPLICA", "PROBLEM")
        for replica in link.replicas:
            table.add_row(
                one_line(replica.region),
                key_text(replica.key_spec) if replica.key_spec else "-",
                Text(one_line(replica.message) or "-", "red" if replica.reason else "dim"),
            )
        out.print(table)
    for user in link.users:
        out.print(Text(one_line(f"used by {user.cluster}/{user.region}")))
    if link.users_count > len(link.users):
        out.print(f"and by {link.users_count - len(link.users):,} more")
    out.print(Text(f"etag {one_line(link.etag)}", "dim"))


def show_links(links: Sequence[KeyLink], *, more: bool) -> None:
    """Prints a table of key links, and whether there are more of them."""
    out = console()
    if not links:
        remarks().print("no key links")
        return
    table = styled_table("LINK", "ORGANIZATION", "FOR", "USE", "USERS", "KEY", "CHANGED")
    for link in links:
        table.add_row(
            one_line(link.key_link),
            one_line(link.organization),
            one_line(f"geo {link.geo}" if link.geo else link.region),
            _use(link.use),
            f"{link.users_count:,}",
            key_text(link.key_spec) if link.key_spec else "-",
            time_text(link.update_time),
        )
    out.print(table)
    if more:
        remarks().print(_MORE)


def _use(use: KeyLinkUse) -> Text:
    colours = {KeyLinkUse.IN_USE: "green", KeyLinkUse.MOVING: "yellow"}
    return Text("-" if use is KeyLinkUse.UNSPECIFIED else use.value, colours.get(use, "dim"))


def _of(count: int, most: int) -> str:
    return f"{count:,} of {most:,}" if most else f"{count:,}"


def _things(count: int, most: int, what: str) -> str:
    return f"{count:,} of {counted(most, what)}" if most else counted(count, what)
