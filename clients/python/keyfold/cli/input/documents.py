"""Documents: organizations, key links and clusters as a file declares them.

A document has the contract's own messages under three names: `organizations` (Organization),
`key_links` (KeyLink) and `clusters` (EnableRequest), with the contract's field names. What is wrong
is told with its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Generic, TypeVar

from google.protobuf.json_format import ParseDict

from keyfold.cli.errors import InputError
from keyfold.cli.input.json_files import file_name
from keyfold.cli.input.messages import fields_of, kind_of, message_of, wrong
from keyfold.cli.input.streams import open_input
from keyfold.cli.input.yaml_tree import MAX_BYTES, Items, Node, documents
from keyfold.models.organizations import KeyLink, Organization
from keyfold.models.specs import RegionSpec
from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import organization_service_pb2 as organization_api


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as a file declares it.

    Attributes:
        cluster: The cluster's name.
        organization: The organization; empty: the file does not say.
        regions: All regions of the cluster; empty: the file does not say.
        specs: The region specs.
    """

    cluster: str
    organization: str
    regions: tuple[str, ...]
    specs: tuple[RegionSpec, ...]


Value = TypeVar("Value", Organization, KeyLink, Cluster)


@dataclass(frozen=True, slots=True)
class Entry(Generic[Value]):
    """A resource that a file declares.

    Attributes:
        line: The line on which it begins.
        given: The names of the fields that the file sets. The others are left alone.
        value: The resource.
    """

    line: int
    given: frozenset[str]
    value: Value


@dataclass(frozen=True, slots=True)
class Document:
    """All that a file declares.

    Attributes:
        file: The file's name, for messages.
        organizations: The organizations, by name.
        key_links: The key links, by organization and name.
        clusters: The clusters, by name.
    """

    file: str
    organizations: dict[str, Entry[Organization]] = field(default_factory=dict)
    key_links: dict[tuple[str, str], Entry[KeyLink]] = field(default_factory=dict)
    clusters: dict[str, Entry[Cluster]] = field(default_factory=dict)

    def wrong(self, entry: Entry[Any], problem: str) -> InputError:
        """Returns the error about a resource of the file."""
        return InputError(f"{self.file}: line {entry.line}: {problem}")


_ORGANIZATION: Final = (
    *("organization", "display_name", "default_key", "cluster_patterns"),
    *("max_clusters", "max_key_links"),
)
_KEY_LINK: Final = ("organization", "key_link", "description", "region", "geo", "key_spec")
_CLUSTER: Final = ("cluster", "organization", "regions", "region_specs")


def read_document(file: str) -> Document:
    """Reads a file of documents.

    Args:
        file: A path, or `-` for stdin.

    Raises:
        InputError: The file cannot be read, or is not what the contract says.
    """
    with open_input(file) as opened:
        data = opened.read(MAX_BYTES + 1)
    document = Document(file_name(file))
    try:
        for root in documents(data):
            _read(root, document)
        _check(document)
    except InputError as problem:
        raise InputError(f"{document.file}: {problem}") from None
    return document


def _read(root: Node, document: Document) -> None:
    """Adds the resources of one document of a file."""
    for name, node in fields_of(root, "", ("organizations", "key_links", "clusters")):
        if not isinstance(node, Items):
            raise wrong(node, name, f"must be a list, not {kind_of(node)}")
        for number, one in enumerate(node.items):
            path = f"{name}[{number}]"
            if name == "organizations":
                _add_organization(one, path, document)
            elif name == "key_links":
                _add_link(one, path, document)
            else:
                _add_cluster(one, path, document)


def _add_organization(node: Node, path: str, document: Document) -> None:
    content = message_of(node, organization_api.Organization.DESCRIPTOR, path, _ORGANIZATION)
    name = _required(node, content, path, "organization")
    made = Organization.from_message(ParseDict(content, organization_api.Organization()))
    _put(
        document.organizations,
        name,
        Entry(node.line, frozenset(content), made),
        f"organization {name}",
    )


def _add_link(node: Node, path: str, document: Document) -> None:
    content = message_of(node, organization_api.KeyLink.DESCRIPTOR, path, _KEY_LINK)
    names = tuple(_required(node, content, path, each) for each in ("organization", "key_link"))
    if bool(content.get("region")) == bool(content.get("geo")):
        raise wrong(node, path, "needs a region or a geo, and not both")
    made = KeyLink.from_message(ParseDict(content, organization_api.KeyLink()))
    entry = Entry(node.line, frozenset(content), made)
    _put(document.key_links, (names[0], names[1]), entry, f"key link {'/'.join(names)}")


def _add_cluster(node: Node, path: str, document: Document) -> None:
    content = message_of(node, api.EnableRequest.DESCRIPTOR, path, _CLUSTER)
    name = _required(node, content, path, "cluster")
    message = ParseDict(content, api.EnableRequest())
    specs = tuple(map(RegionSpec.from_message, message.region_specs))
    _check_specs(node, path, specs, message.regions)
    made = Cluster(name, message.organization, tuple(message.regions), specs)
    _put(document.clusters, name, Entry(node.line, frozenset(content), made), f"cluster {name}")


def _check_specs(
    node: Node, path: str, specs: Iterable[RegionSpec], regions: Iterable[str]
) -> None:
    """Refuses region specs that name no region, or the same one twice."""
    named: set[str] = set()
    once = list(regions)
    for number, spec in enumerate(specs):
        place = f"{path}.region_specs[{number}]"
        if bool(spec.region) == bool(spec.geo):
            raise wrong(node, place, "needs a region or a geo, and not both")
        ways = [
            each.name
            for each in fields(spec)
            if each.name in ("key_spec", "replica_of", "key_link") and getattr(spec, each.name)
        ]
        if len(ways) > 1:
            raise wrong(node, place, f"has {' and '.join(ways)}; give one of them")
        if (name := spec.region or f"geo {spec.geo}") in named:
            raise wrong(node, place, f"{name} stands there twice")
        named.add(name)
        if spec.region and once and spec.region not in once:
            raise wrong(node, place, f"{spec.region} is not among the cluster's regions")
    if twice := sorted({each for each in once if once.count(each) > 1}):
        raise wrong(node, f"{path}.regions", f"{twice[0]} stands there twice")


Key = TypeVar("Key")


def _put(into: dict[Key, Entry[Value]], name: Key, entry: Entry[Value], shown: str) -> None:
    if name in into:
        first = into[name].line
        raise InputError(f"line {entry.line}: {shown} stands there twice, first on line {first}")
    into[name] = entry


def _check(document: Document) -> None:
    """Refuses two links of a provider for one place, of which the server would refuse the second.

    Raises:
        InputError: There are two.
    """
    places: dict[tuple[str, str, str], int] = {}
    for entry in document.key_links.values():
        link = entry.value
        if link.key_spec is None:
            continue
        place = (link.organization, link.key_spec.type, link.region or f"geo {link.geo}")
        if place in places:
            raise InputError(
                f"line {entry.line}: {link.organization} has a {place[1]} link for {place[2]} "
                f"already, on line {places[place]}"
            )
        places[place] = entry.line


def _required(node: Node, content: Mapping[str, Any], path: str, name: str) -> str:
    value = content.get(name)
    if not value:
        raise wrong(node, path, f"has no {name}")
    return str(value)
