"""The flags of a command that stand for fields of its request, for hints about errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import typer

_PART: Final = re.compile(r"([a-z_]+)(?:\[(\d+)\])?")

_OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "anchors": ("anchor",),
    "auth_principal": ("principal",),
    "cluster_patterns": ("cluster_pattern",),
    "clusters": ("cluster",),
    "destination": ("to_cluster",),
    "end": ("until",),
    "holders": ("holder",),
    "key_link": ("link",),
    "key_spec": ("uri",),
    "key_version": ("version",),
    "kinds": ("kind",),
    "operation": ("name",),
    "options": ("option",),
    "page_size": ("limit",),
    "plaintext": ("source",),
    "region_specs": ("region",),
    "regions": ("region",),
    "root_key": ("key_uri",),
    "selector": ("uri",),
    "start": ("since",),
    "states": ("state",),
    "type": ("key_type", "provider"),
    "uri": ("key_uri",),
    "wrapped_key": ("source", "files"),
}
"""The other names that a field of the contract has among the parameters of commands."""


def flag_of(field: str, context: typer.Context) -> str:
    """Returns the flag or argument that gave a field its value, such as `--uri`.

    A field that came from a file keeps its path, which is the place in the file.

    Args:
        field: The field's path in the request, such as `key_spec.uri`.
        context: The command, as it was parsed.
    """
    if context.params.get("file"):
        return field
    params: dict[str, Any] = {one.name or "": one for one in context.command.params}
    for name, index in reversed(_PART.findall(field)):
        for known in (name, *_OTHERS.get(name, ())):
            if known in params:
                return _shown(params[known], context.params.get(known), index)
    return field


def _shown(param: Any, value: Any, index: str) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper()).strip("[].")
    flag = str(max(param.opts, key=len))
    if index and isinstance(value, (list, tuple)) and int(index) < len(value):
        return f"{flag} {value[int(index)]}"
    return flag
