"""Who the caller is, as text for people."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from keyfold.cli.output.tables import NARROW, console, remarks, styled_table, time_text
from keyfold.cli.output.text import one_line
from keyfold.models.caller import CallerIdentity, CallerKey, CallerProof

_PROOFS: Final = {
    CallerProof.CERTIFICATE: "by its certificate",
    CallerProof.TOKEN: "by its token",
    CallerProof.SOCKET: "by the socket, without a credential",
    CallerProof.LOOPBACK: "by the loopback address, without a credential",
    CallerProof.UNSPECIFIED: "in a way that this program does not know",
}


def show_caller(identity: CallerIdentity) -> None:
    """Prints who the caller is, its grants, and the replica that says so."""
    out = console()
    out.print(Text(f"{one_line(identity.caller)}, identified {_PROOFS[identity.proof]}"))
    for name in identity.names[1:]:
        out.print(Text(f"also known as {one_line(name)}"))
    if identity.organization:
        out.print(Text(f"organization {one_line(identity.organization)}"))
    if identity.expire_time is not None:
        out.print(Text(f"until {time_text(identity.expire_time)}"))
    if identity.grants:
        table = styled_table(
            *("ROLES", "CLUSTERS", "ORGANIZATIONS", "REGIONS", "CONTEXT", "KEYS"),
            narrow=out.width < NARROW,
        )
        for grant in identity.grants:
            table.add_row(
                " ".join(grant.roles),
                _patterns(grant.cluster_patterns),
                _patterns(grant.organization_patterns),
                _patterns(grant.region_patterns),
                one_line(" ".join(f"{k}={v}" for k, v in grant.context.items())) or "-",
                one_line("; ".join(map(_key, grant.keys))) or "-",
            )
        out.print(table)
    else:
        remarks().print(Text("no grant of the server's policy holds for you", "yellow"))
    for notice in identity.notices:
        remarks().print(
            Text(f"a grant that names you does not hold, because {one_line(notice)}", "yellow")
        )
    if identity.replica is not None:
        replica = identity.replica
        told = f"told by {one_line(replica.replica)}, which runs Keyfold "
        serves = one_line(", ".join(replica.serves)) or "every region"
        out.print(Text(f"{told}{one_line(replica.version)} and serves {serves}"))


def _key(key: CallerKey) -> str:
    options = " ".join(f"{name}={value}" for name, value in key.options.items())
    return f"{key.type} {key.uri_pattern or '*'} as {key.principal_pattern} {options}".strip()


def _patterns(patterns: tuple[str, ...]) -> str:
    return one_line(" ".join(patterns)) or "all"
