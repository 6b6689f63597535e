"""Region specs, from a file in CockroachDB's form or from `--region` arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError

from keyfold.cli.errors import InputError
from keyfold.cli.input.json_files import file_name, read_json
from keyfold.cli.input.values import seconds
from keyfold.models.specs import KeySpec, RegionPolicy, RegionSpec
from keyfold.v1 import resources_pb2 as resources

_KINDS: Final = {
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "text",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions that a file and arguments name together.

    Attributes:
        specs: The region specs.
        expected: All regions of the cluster, if the file lists them; otherwise empty.
    """

    specs: list[RegionSpec]
    expected: list[str]


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """The policy that options set; None leaves the file's value, or the server's default.

    Attributes:
        cache_ttl: The span for which Keyfold uses a key before it asks the KMS again.
        outage_grace: The additional span while the KMS is unreachable.
        auto_rotate: Whether Keyfold rotates by itself when the root key gets a new version.
    """

    cache_ttl: timedelta | None = None
    outage_grace: timedelta | None = None
    auto_rotate: bool | None = None

    def over(self, spec: RegionSpec) -> RegionSpec:
        """Returns the region spec with these values in its policy."""
        if self == NO_CHANGE:
            # A spec without a policy stays so: Rotate then keeps the region's own policy.
            return spec
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(spec, policy=replace(spec.policy or RegionPolicy(), **given))


NO_CHANGE: Final = PolicyChange()
"""The change when no option sets anything."""


def policy_of(
    cache_ttl: str | None, outage_grace: str | None, *, auto_rotate: bool | None
) -> PolicyChange:
    """Reads the options of a policy.

    Raises:
        InputError: A value is not a duration.
    """
    return PolicyChange(
        None if cache_ttl is None else timedelta(seconds=seconds(cache_ttl, "--cache-ttl")),
        None
        if outage_grace is None
        else timedelta(seconds=seconds(outage_grace, "--outage-grace")),
        auto_rotate,
    )


def read(
    file: str | None,
    arguments: Sequence[str],
    policy: PolicyChange = NO_CHANGE,
    replica_of: str | None = None,
    also: str = "",
    *,
    geos: Sequence[str] = (),
    key_link: str | None = None,
) -> Regions:
    """Reads the regions that a command line names.

    Args:
        file: A JSON file, or `-` for stdin.
        arguments: Regions as `NAME` or `NAME=TYPE[,URI[,PRINCIPAL]]`.
        geos: Geos in the same form.
        policy: The policy of all these regions, which takes precedence over the file's.
        replica_of: The region whose multi-Region key gives regions without a key its replicas.
        key_link: The key link whose key regions without a key get.
        also: Further ways in which the command accepts regions, for the error message.

    Raises:
        InputError: No region is named, or the file or an argument is malformed.
    """
    regions = Regions([], []) if file is None else _read_file(file)
    specs = regions.specs + [_from_argument(one, "--region") for one in arguments]
    for one in geos:
        spec = _from_argument(one, "--geo")
        specs.append(replace(spec, region="", geo=spec.region))
    if not specs and not regions.expected:
        raise InputError(
            f"name the regions: --file cmek_config.json or --region NAME=TYPE,URI{also}"
        )
    if replica_of is not None and key_link is not None:
        raise InputError("give --replica-of or --key-link, but not both")
    if replica_of is not None:
        specs = _replicas(specs, replica_of)
    if key_link is not None:
        specs = _linked(specs, key_link)
    return Regions([policy.over(one) for one in specs], regions.expected)


def _replicas(specs: Sequence[RegionSpec], origin: str) -> list[RegionSpec]:
    if not any(_keyless(one) for one in specs):
        raise InputError(
            "--replica-of: every region has a key of its own; name the region that shall use a "
            "replica with --region NAME"
        )
    return [replace(one, replica_of=origin) if _keyless(one) else one for one in specs]


def _linked(specs: Sequence[RegionSpec], link: str) -> list[RegionSpec]:
    if not any(_keyless(one) for one in specs):
        raise InputError(
            "--key-link: every region has a key of its own; name the region that shall use the "
            "link with --region NAME"
        )
    return [replace(one, key_link=link) if _keyless(one) else one for one in specs]


def _keyless(spec: RegionSpec) -> bool:
    return not (spec.key_spec or spec.replica_of or spec.geo or spec.key_link)


def _from_argument(text: str, option: str) -> RegionSpec:
    region, equals, key = text.partition("=")
    if not region or (equals and not key):
        raise InputError(f"{option}: {text!r} is not NAME or NAME=TYPE,URI[,PRINCIPAL]")
    if not equals:
        return RegionSpec(region)
    provider, _, rest = key.partition(",")
    uri, _, principal = rest.partition(",")
    return RegionSpec(region, KeySpec(provider, uri, principal))


def _read_file(file: str) -> Regions:
    content = read_json(file)
    try:
        return _regions(content)
    except InputError as wrong:
        raise InputError(f"{file_name(file)}: {wrong}") from None


def _regions(content: Any) -> Regions:
    """Reads the content of a file, in any of the three forms."""
    if isinstance(content, list):
        return Regions(_specs(content, ""), [])
    if not isinstance(content, dict):
        raise InputError(f"must be region specs, not {_kind(content)}")
    if "dedicated" in content:
        # The description of a whole cluster. Its nodes say which regions it has; its other fields
        # are not about keys.
        inner = content["dedicated"]
        if not isinstance(inner, dict) or "cmek_region_specs" not in inner:
            raise InputError("dedicated: has no cmek_region_specs")
        specs = _specs(inner["cmek_region_specs"], "dedicated.cmek_region_specs")
        return Regions(specs, _nodes(inner.get("region_nodes", {})))
    if "action" in content:
        raise InputError("asks for an action; give it to keyfold revoke --file")
    if "region_specs" not in content:
        raise InputError("has no region_specs, and is not a list of them")
    if unknown := sorted(content.keys() - {"region_specs", "regions"}):
        raise InputError(f"{unknown[0]}: unknown field; the fields are region_specs and regions")
    expected = content.get("regions", [])
    if not isinstance(expected, list) or not all(isinstance(one, str) for one in expected):
        raise InputError("regions: must be a list of names")
    return Regions(_specs(content["region_specs"], "region_specs"), expected)


def _nodes(content: Any) -> list[str]:
    """Returns the regions in which the cluster has nodes, which are all its regions.

    Raises:
        InputError: The field is not a number of nodes for each region.
    """
    path = "dedicated.region_nodes"
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be an object, not {_kind(content)}")
    for region, nodes in content.items():
        if isinstance(nodes, bool) or not isinstance(nodes, int):
            raise InputError(f"{path}.{region}: must be a number, not {_kind(nodes)}")
    return list(content)


def _specs(content: Any, path: str) -> list[RegionSpec]:
    if not isinstance(content, list):
        raise InputError(f"{path}: must be a list, not {_kind(content)}")
    return [_spec(one, f"{path}[{index}]") for index, one in enumerate(content)]


def _spec(content: Any, path: str) -> RegionSpec:
    for place, problem in _problems(content, resources.RegionSpec.DESCRIPTOR, path):
        raise InputError(f"{place}: {problem}")
    try:
        return RegionSpec.from_message(ParseDict(content, resources.RegionSpec()))
    except ParseError as wrong:
        raise InputError(f"{path}: {wrong}") from None


def _problems(content: Any, kind: Descriptor, path: str) -> Iterator[tuple[str, str]]:
    """Yields the path of each value that does not fit the contract, and the problem with it.

    Protobuf's own parser would name the message type, which means nothing to the file's author.
    """
    if not isinstance(content, Mapping):
        yield path, f"must be an object, not {_kind(content)}"
        return
    known = {name: field for field in kind.fields for name in (field.name, field.json_name)}
    for name, value in content.items():
        place = f"{path}.{name}"
        field = known.get(name)
        if field is None:
            yield (
                place,
                f"unknown field; the fields are {', '.join(one.name for one in kind.fields)}",
            )
        elif value is not None:
            yield from _field_problems(value, field, place)


def _field_problems(value: Any, field: FieldDescriptor, place: str) -> Iterator[tuple[str, str]]:
    nested = field.message_type
    if nested is None:
        wanted, name = (bool, "true or false") if field.type == field.TYPE_BOOL else (str, "text")
        if not isinstance(value, wanted):
            yield place, f"must be {name}, not {_kind(value)}"
    elif nested.full_name == "google.protobuf.Duration":
        yield from _duration_problems(value, place)
    elif not nested.GetOptions().map_entry:
        yield from _problems(value, nested, place)
    elif not isinstance(value, Mapping):
        yield place, f"must be an object, not {_kind(value)}"
    else:
        for name, text in value.items():
            if not isinstance(text, str):
                yield f"{place}.{name}", f"must be text, not {_kind(text)}"


def _duration_problems(value: Any, place: str) -> Iterator[tuple[str, str]]:
    number = value.removesuffix("s") if isinstance(value, str) and value.endswith("s") else ""
    if not number.replace(".", "", 1).isdecimal():
        yield place, 'must be a duration in seconds, such as "60s"'


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "something else")
