"""Documents: organizations, key links and clusters as a file declares them.

A document has the contract's own messages under three names: `organizations` (Organization),
`key_links` (KeyLink) and `clusters` (EnableRequest), with the contract's field names. What is wrong
is told with its line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Generic, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict

from keyfold.cli.errors import InputError
from keyfold.cli.input.json_files import file_name
from keyfold.cli.input.streams import open_input
from keyfold.cli.input.values import seconds
from keyfold.cli.input.yaml_tree import MAX_BYTES, Fields, Items, Node, Text, documents
from keyfold.models.organizations import KeyLink, Organization
from keyfold.models.specs import RegionSpec
from keyfold.v1 import key_management_service_pb2 as api
from keyfold.v1 import organization_service_pb2 as organization_api

_LONGEST: Final = 1e9
"""Seconds, more than any span of the contract, so that the server refuses a longer one."""

_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_MOST: Final = 2**32 - 1
"""The largest number of the contract's fields of numbers."""


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
    except InputError as wrong:
        raise InputError(f"{document.file}: {wrong}") from None
    return document


def _read(root: Node, document: Document) -> None:
    """Adds the resources of one document of a file."""
    for name, node in _fields(root, "", ("organizations", "key_links", "clusters")):
        if not isinstance(node, Items):
            raise _wrong(node, name, f"must be a list, not {_kind(node)}")
        for number, one in enumerate(node.items):
            path = f"{name}[{number}]"
            if name == "organizations":
                _add_organization(one, path, document)
            elif name == "key_links":
                _add_link(one, path, document)
            else:
                _add_cluster(one, path, document)


def _add_organization(node: Node, path: str, document: Document) -> None:
    content = _message(node, organization_api.Organization.DESCRIPTOR, path, _ORGANIZATION)
    name = _required(node, content, path, "organization")
    made = Organization.from_message(ParseDict(content, organization_api.Organization()))
    _put(
        document.organizations,
        name,
        Entry(node.line, frozenset(content), made),
        f"organization {name}",
    )


def _add_link(node: Node, path: str, document: Document) -> None:
    content = _message(node, organization_api.KeyLink.DESCRIPTOR, path, _KEY_LINK)
    names = tuple(_required(node, content, path, each) for each in ("organization", "key_link"))
    if bool(content.get("region")) == bool(content.get("geo")):
        raise _wrong(node, path, "needs a region or a geo, and not both")
    made = KeyLink.from_message(ParseDict(content, organization_api.KeyLink()))
    entry = Entry(node.line, frozenset(content), made)
    _put(document.key_links, (names[0], names[1]), entry, f"key link {'/'.join(names)}")


def _add_cluster(node: Node, path: str, document: Document) -> None:
    content = _message(node, api.EnableRequest.DESCRIPTOR, path, _CLUSTER)
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
            raise _wrong(node, place, "needs a region or a geo, and not both")
        ways = [
            each.name
            for each in fields(spec)
            if each.name in ("key_spec", "replica_of", "key_link") and getattr(spec, each.name)
        ]
        if len(ways) > 1:
            raise _wrong(node, place, f"has {' and '.join(ways)}; give one of them")
        if (name := spec.region or f"geo {spec.geo}") in named:
            raise _wrong(node, place, f"{name} stands there twice")
        named.add(name)
        if spec.region and once and spec.region not in once:
            raise _wrong(node, place, f"{spec.region} is not among the cluster's regions")
    if twice := sorted({each for each in once if once.count(each) > 1}):
        raise _wrong(node, f"{path}.regions", f"{twice[0]} stands there twice")


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
        raise _wrong(node, path, f"has no {name}")
    return str(value)


def _fields(node: Node, path: str, known: Iterable[str]) -> Iterator[tuple[str, Node]]:
    """Yields the fields of a mapping.

    Raises:
        InputError: It is not a mapping, or has a field that is not known.
    """
    if not isinstance(node, Fields):
        raise _wrong(node, path, f"must have fields, and is {_kind(node)}")
    names = list(known)
    for name, value in node.fields.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(names)}"
            place = f"{path}.{name}" if path else name
            raise InputError(f"line {node.lines[name]}: {place}: unknown field; {hint}")
        yield name, value


def _message(
    node: Node, kind: Descriptor, path: str, known: Iterable[str] | None = None
) -> dict[str, Any]:
    """Returns the fields of a message in protobuf's JSON form.

    Args:
        node: The message.
        kind: Its type.
        path: Its path, for errors.
        known: The names of the fields that a caller sets; None: all of the type.
    """
    names = [each.name for each in kind.fields] if known is None else list(known)
    if isinstance(node, Fields):
        for name in node.fields:
            if name in kind.fields_by_name and name not in names:
                place = f"{path}.{name}"
                line = node.lines[name]
                raise InputError(f"line {line}: {place}: the server sets it; leave it out")
    return {
        name: _value(value, kind.fields_by_name[name], f"{path}.{name}")
        for name, value in _fields(node, path, names)
    }


def _value(node: Node, kind: FieldDescriptor, path: str) -> Any:
    nested = kind.message_type
    if nested is not None and nested.GetOptions().map_entry:
        if not isinstance(node, Fields):
            raise _wrong(node, path, f"must have fields, and is {_kind(node)}")
        return {name: _text(one, f"{path}.{name}") for name, one in node.fields.items()}
    if not kind.is_repeated:
        return _single(node, kind, path)
    if not isinstance(node, Items):
        raise _wrong(node, path, f"must be a list, not {_kind(node)}")
    return [_single(one, kind, f"{path}[{at}]") for at, one in enumerate(node.items)]


def _single(node: Node, kind: FieldDescriptor, path: str) -> Any:
    if kind.message_type is None:
        text = _text(node, path)
        if kind.enum_type is not None:
            return _enum(node, text, kind.enum_type, path)
        if kind.type == kind.TYPE_BOOL:
            if text.lower() not in ("true", "false"):
                raise _wrong(node, path, f"must be true or false, not {text!r}")
            return text.lower() == "true"
        if kind.type == kind.TYPE_UINT32:
            if _NUMBER.fullmatch(text) is None or int(text) > _MOST:
                raise _wrong(node, path, f"must be a number from 0 to {_MOST}, not {text[:40]!r}")
            return int(text)
        return text
    if kind.message_type.full_name != "google.protobuf.Duration":
        return _message(node, kind.message_type, path)
    try:
        span = seconds(_text(node, path), path)
    except InputError as wrong:
        raise InputError(f"line {node.line}: {wrong}") from None
    return f"{min(span, _LONGEST):.9f}s"


def _enum(node: Node, text: str, kind: EnumDescriptor, path: str) -> str:
    """Returns the name of an enum's value, which may stand there without the enum's own name."""
    names = [one.name for one in kind.values if one.number]
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    for name in (text, prefix + text):
        if name in names:
            return name
    short = ", ".join(name.removeprefix(prefix) for name in names)
    raise _wrong(node, path, f"must be one of {short}, not {text!r}")


def _text(node: Node, path: str) -> str:
    if not isinstance(node, Text):
        raise _wrong(node, path, f"must be text, not {_kind(node)}")
    if node.is_null:
        raise _wrong(node, path, 'has no value; leave the field out, or write "" for an empty text')
    return node.text


def _kind(node: Node) -> str:
    if isinstance(node, Text):
        return "empty" if node.is_null else f"the text {node.text[:40]!r}"
    return "a list" if isinstance(node, Items) else "fields"


def _wrong(node: Node, path: str, problem: str) -> InputError:
    return InputError(
        f"line {node.line}: {path}: {problem}" if path else f"line {node.line}: {problem}"
    )
