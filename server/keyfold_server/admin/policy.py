"""The commands that show what a policy file allows, and which of its lines say so.

Invariant: they decide with the same code as the server, and never by rules of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyfold_server.admin.terminal import app, fail, reported
from keyfold_server.domain.errors import (
    ContextNotGrantedError,
    ForbiddenError,
    NotAllowedError,
    NotFoundError,
)
from keyfold_server.domain.keyspec import KeySpec, RootKey
from keyfold_server.domain.rights import Identity, Rights, Verdict

if TYPE_CHECKING:
    from keyfold_server.access.policy.grants import Grant
    from keyfold_server.access.policy.rights import Policy

EXIT_REFUSED: Final = 1
"""The exit code if the policy does not allow the call, or names the caller nowhere."""

policy = typer.Typer(
    help="Show what a policy file allows, and which of its lines say so. Calls no server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(policy, name="policy")

_As = Annotated[
    list[str],
    typer.Option(
        "--as",
        metavar="CALLER",
        help="The caller, in the policy's form. Repeat for further names of one certificate.",
    ),
]
_Claim = Annotated[
    list[str] | None,
    typer.Option(
        "--claim",
        metavar="NAME=VALUE",
        help="A claim of the caller's token, for grants with organization_claim. Repeat for more.",
        show_default=False,
    ),
]
_File = Annotated[
    Path | None,
    typer.Option("--file", envvar="KEYFOLD_POLICY", help="The policy file.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class _Question:
    """One call that somebody might make. It does not name a part that is None or empty here."""

    rpc: str
    cluster: str | None
    organization: str | None
    regions: tuple[str, ...]
    context: Mapping[str, str]
    key: RootKey | None


@policy.command()
def check(  # noqa: PLR0913, PLR0917  options, one argument each
    caller: _As,
    rpc: Annotated[str, typer.Option("--rpc", metavar="METHOD", help="The method, such as Wrap.")],
    file: _File = None,
    claim: _Claim = None,
    cluster: Annotated[
        str | None, typer.Option(help="The cluster.", show_default="no cluster")
    ] = None,
    organization: Annotated[
        str | None,
        typer.Option(help="The cluster's organization.", show_default="none"),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="A region. Repeat for more regions.", show_default=False),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An entry of the data key's context. Repeat for more entries.",
            show_default=False,
        ),
    ] = None,
    key_type: Annotated[
        str | None,
        typer.Option(help="The type of the key that the call names.", show_default=False),
    ] = None,
    key_uri: Annotated[
        str, typer.Option(help="The key's uri, in canonical form.", show_default=False)
    ] = "",
    principal: Annotated[
        str,
        typer.Option(
            help="The principal under which Keyfold calls the key.",
            show_default="the server's own identity",
        ),
    ] = "",
    key_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An option of the key. Repeat for more options.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show whether a call is allowed, denied or hidden, and which lines of the file say so.

    A hidden cluster or region looks to the caller as if it did not exist. The exit code is 1 if
    the call is not allowed.
    """
    with reported():
        asked = _Question(
            rpc,
            cluster,
            organization,
            tuple(region or ()),
            _pairs("--context", context),
            _key(key_type, key_uri, principal, _pairs("--key-option", key_option)),
        )
        loaded = _loaded(file)
        identity = _identity(caller, claim)
    _complete(asked)
    own = loaded.granted(identity)
    refusal = _refusal(loaded.rights(identity), asked)
    if refusal is None:
        for where in _giving(identity, own, asked):
            typer.echo(f"allowed: {where}")
        if _rests_on_patterns(loaded.rights(identity), asked):
            typer.echo(f"if the cluster_patterns of organization {asked.organization} allow it")
        return
    hidden = isinstance(refusal, NotFoundError)
    typer.echo(f"{'hidden' if hidden else 'denied'}: {refusal.message}")
    if not own:
        typer.echo(f"no grant names {', '.join(identity.names)}")
    for grant in own:
        why = grant.lapse(identity)
        what = f"does not hold, because {why}" if why else "not enough"
        typer.echo(f"{grant.where}: {what}: {_inline(grant)}")
    raise typer.Exit(EXIT_REFUSED)


@policy.command()
def explain(caller: _As, file: _File = None, claim: _Claim = None) -> None:
    """List what a caller may do, grant by grant, with the lines of the file."""
    with reported():
        loaded = _loaded(file)
        identity = _identity(caller, claim)
    own = loaded.granted(identity)
    for grant in own:
        typer.echo(grant.where)
        for name, value in _described(grant):
            typer.echo(f"  {name:<13} {value}")
        if identity.claims and grant.organization_claim:
            why = grant.lapse(identity)
            held = f"no: {why}" if why else f"for {grant.held(identity).organizations}"
            typer.echo(f"  {'holds':<13} {held}")
    if loaded.believes(identity):
        typer.echo("Keyfold believes it about whom it calls for")
    if not own:
        typer.echo(f"no grant names {', '.join(identity.names)}: it may do nothing")
        raise typer.Exit(EXIT_REFUSED)


def _loaded(file: Path | None) -> Policy:
    from keyfold_server.access.policy import watcher

    if file is None:
        raise fail("no policy file; give --file, or set KEYFOLD_POLICY")
    return watcher.read(file)


def _identity(names: Iterable[str], claims: Iterable[str] | None) -> Identity:
    """Returns the caller whom a question is about, with what its token says."""
    from keyfold_server.access.tokens.verifier import claim_of

    told: dict[str, object] = dict(_pairs("--claim", claims))
    return Identity(tuple(names), "none", tuple(claim_of(told, name) for name in sorted(told)))


def _pairs(option: str, given: Iterable[str] | None) -> dict[str, str]:
    pairs = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise fail(f"{option} {pair!r} is not a pair; write NAME=VALUE")
        pairs[name] = value
    return pairs


def _key(type_: str | None, uri: str, principal: str, options: Mapping[str, str]) -> RootKey | None:
    if type_ is None:
        if uri or principal or options:
            raise fail("a key needs its type; give --key-type")
        return None
    spec = KeySpec.of(type_, uri, principal, options)
    spec.check_uri()
    return RootKey(spec.type, spec.uri, spec.principal, spec.options)


def _complete(asked: _Question) -> None:
    """Refuses a question that lacks what every call of its method has."""
    from keyfold_server.access.policy.grants import RULES
    from keyfold_server.access.policy.rights import purposes

    if asked.rpc not in RULES:
        raise fail(f"there is no method {asked.rpc}; use one of {', '.join(RULES)}")
    if purposes(asked.rpc) and not (asked.cluster and asked.regions):
        raise fail(f"{asked.rpc} uses the keys of one cluster and region; give --cluster, --region")


def _refusal(rights: Rights, asked: _Question) -> ForbiddenError | NotFoundError | None:
    """Returns why a call is refused, or None; checks in the same order as the server."""
    from keyfold_server.access.policy.grants import rule
    from keyfold_server.access.policy.rights import purposes

    try:
        rights.check(asked.rpc)
        if purposes(asked.rpc):
            _check_uses(rights, asked)
        elif asked.organization is not None and rule(asked.rpc).organization:
            _check_organization(rights, asked, asked.organization)
        elif asked.cluster is not None:
            rights.check_named(asked.rpc, asked.cluster, asked.regions)
            rights.check_cluster(asked.rpc, asked.cluster, asked.organization, asked.regions)
        if asked.key is not None and not rule(asked.rpc).organization:
            for region in asked.regions or (None,):
                rights.check_key(asked.cluster, asked.organization, region, asked.key)
    except (ForbiddenError, NotFoundError) as error:
        return error
    return None


def _check_organization(rights: Rights, asked: _Question, organization: str) -> None:
    rights.check_organization(asked.rpc, organization)
    for region in asked.regions or (None,):
        if not rights.covers_organization(asked.rpc, organization, region):
            where = f"region {region}" if region else "all regions"
            raise NotAllowedError(f"no grant covers {where} of organization {organization}")
        if asked.key is not None:
            rights.check_organization_key(organization, region, asked.key)


def _rests_on_patterns(rights: Rights, asked: _Question) -> bool:
    """Says whether the organization's own patterns decide about a new cluster's name (C8)."""
    from keyfold_server.access.policy.grants import rule

    if asked.cluster is None or asked.organization is None or not rule(asked.rpc).new_cluster:
        return False
    return rights.names_freely(asked.rpc, asked.cluster, asked.organization)


def _check_uses(rights: Rights, asked: _Question) -> None:
    from keyfold_server.access.policy.rights import purposes

    cluster = asked.cluster or ""
    for purpose in purposes(asked.rpc):
        for region in asked.regions:
            use = rights.use(cluster, asked.organization, region, purpose)
            method = purpose.value.capitalize()
            if use.verdict is not Verdict.ALLOWED:
                rights.check_cluster(method, cluster, asked.organization, (region,))
                raise NotAllowedError(f"{method} is {use.verdict.value} in region {region}")
            held = asked.context.items()
            if use.contexts and not any(entries.items() <= held for entries in use.contexts):
                wanted = " or ".join(_context(entries) for entries in use.contexts)
                raise ContextNotGrantedError(f"the context must hold {wanted}")


def _giving(identity: Identity, own: Iterable[Grant], asked: _Question) -> list[str]:
    """Returns each grant that is enough by itself, or else the grants that are enough together."""
    from keyfold_server.access.policy.rights import GrantedRights

    if _refusal(GrantedRights(identity, ()), asked) is None:
        return ["every caller may call it"]
    alone = [g.where for g in own if _refusal(GrantedRights(identity, (g,)), asked) is None]
    if alone:
        return alone
    needed = list(own)
    for grant in own:
        others = [other for other in needed if other is not grant]
        if _refusal(GrantedRights(identity, others), asked) is None:
            needed = others
    return [f"{', '.join(grant.where for grant in needed)} together"]


def _described(grant: Grant) -> list[tuple[str, str]]:
    from keyfold_server.access.policy.grants import RULES

    # Names with a slash are of gRPC's standard services, which have nothing to do with keys.
    methods = [
        name
        for name, rule in RULES.items()
        if "/" not in name and grant.roles.intersection(rule.roles)
    ]
    return [
        ("callers", str(grant.callers)),
        ("roles", ", ".join(sorted(role.value for role in grant.roles))),
        ("methods", ", ".join(methods)),
        ("clusters", str(grant.clusters or "any")),
        ("organizations", _organizations(grant)),
        ("regions", str(grant.regions or "any")),
        ("context", _context(grant.context) if grant.context else "any"),
        ("keys", "; ".join(map(str, grant.keys)) or "none may be named"),
    ]


def _organizations(grant: Grant) -> str:
    if grant.organization_claim is None:
        return str(grant.organizations or "any, and clusters of none")
    told = f"the one in the claim {grant.organization_claim} of the caller's token"
    return f"{told}, if it is one of {grant.organizations}" if grant.organizations else told


def _inline(grant: Grant) -> str:
    """Returns a grant on one line, without the fields that do not narrow it."""
    shown = {"roles", "clusters", "organizations", "regions", "context", "keys"}
    return "; ".join(
        f"{name} {value}"
        for name, value in _described(grant)
        if name in shown and not value.startswith(("any", "none "))
    )


def _context(entries: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in entries.items())
