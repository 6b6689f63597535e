"""Writes the schemas that kubeconform needs, from what Kubernetes and its extensions publish.

    kubernetes_schemas.py FILE FOLDER

FILE is the OpenAPI file of Kubernetes (`swagger.json`), or a custom resource definition in YAML.
Each kind becomes one file of JSON Schema in FOLDER, with the name that kubeconform looks for by
default. An object may have no field that its type does not name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

_PREFIX: Final = "#/definitions/"


def _file_name(kind: str, group: str, version: str) -> str:
    first = group.partition(".")[0]
    return "-".join(part for part in (kind, first, version) if part).lower() + ".json"


def _strict(schema: Any) -> Any:
    """Returns a schema that refuses unknown fields and takes numbers where text may be one."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    if (
        isinstance(schema.get("properties"), dict)
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        made["additionalProperties"] = False
    return made


def _named(schema: Any) -> Iterator[str]:
    """Yields the definitions that a schema names."""
    if isinstance(schema, list):
        for one in schema:
            yield from _named(one)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(_PREFIX)
            else:
                yield from _named(value)


def _with_definitions(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns a definition with all others that it needs, in one schema."""
    needed: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in needed:
            needed[one] = definitions[one]
            waiting.extend(_named(definitions[one]))
    return {"$ref": f"{_PREFIX}{name}", "definitions": needed}


def _of_kubernetes(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    definitions = _strict(json.loads(text)["definitions"])
    # What a quantity is in Go. In a file it may be a number, too.
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    for name, definition in definitions.items():
        kinds = definition.get("x-kubernetes-group-version-kind", ())
        # Those with several kinds, such as DeleteOptions, are no objects of a manifest.
        if len(kinds) == 1:
            (of,) = kinds
            yield (
                _file_name(of["kind"], of["group"], of["version"]),
                _with_definitions(name, definitions),
            )


def _of_extension(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    definition = yaml.safe_load(text)["spec"]
    for version in definition["versions"]:
        schema = _strict(version["schema"]["openAPIV3Schema"])
        # The definition leaves these to Kubernetes.
        schema["properties"]["metadata"] = {"type": "object"}
        kind = definition["names"]["kind"]
        yield _file_name(kind, definition["group"], version["name"]), schema


def main(source: str, folder: str) -> None:
    """Writes the schemas of one file."""
    path = Path(source)
    text = path.read_text(encoding="utf-8")
    for name, schema in (_of_kubernetes if path.suffix == ".json" else _of_extension)(text):
        (Path(folder) / name).write_text(json.dumps(schema), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
