"""Seals the rows of `vectors/store.json` again after a change of the schema, and its export.

    .venv/bin/python tests/remade_vector.py

It keeps every value but MACs and what holds them: digests, chains and floors. A column that the
schema has and the vector lacks gets NULL, unless `_MISSING` says what. Only before the first
release: afterwards the vector never changes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import store_vector
from builders import HOLDER, NOW
from keyfold_server.store import seal as seals
from keyfold_server.store import service_key
from keyfold_server.store.schema import metadata
from keyfold_server.store.seal import Seal
from keyfold_server.store.transfer import export

Row = dict[str, Any]

_NAMES: Final = {row["uid"]: row["name"] for row in store_vector.ROWS["clusters"]}
_OF_ROOT: Final[Mapping[str, Callable[[Row], object]]] = {
    "cluster": lambda row: _NAMES[row["cluster_uid"]],
    "root_family": lambda row: row["root_uri"],
    "root_holder": lambda _: HOLDER,
}
_MISSING: Final[Mapping[str, Mapping[str, Callable[[Row], object]]]] = {
    "regions": {"cluster": _OF_ROOT["cluster"]},
    "wraps": _OF_ROOT,
    "wrap_history": _OF_ROOT,
    "replicas": {"serves": lambda _: "eu\nus"},
}
"""What a column gets that the vector's rows do not have yet, by table and column."""

_FIRST: Final = ("regions", "generations", "wraps", "wrap_history", "clusters", "log")
"""The tables whose MACs others hold, in that order."""


def _sealed(seal: Seal, table: str, row: Row) -> Row:
    names = metadata.tables[table].columns.keys()
    if "mac" not in names:
        return {name: row[name] for name in names}
    cells = seal.sealed(table, tuple(row[name] for name in names[:-1]))
    return dict(zip(names, cells, strict=True))


def _remade(seal: Seal) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for name, old in store_vector.ROWS.items():
        columns, known = metadata.tables[name].columns.keys(), _MISSING.get(name, {})
        rows[name] = [
            {c: row[c] if c in row else known[c](row) if c in known else None for c in columns}
            for row in old
        ]
    for name in ("regions", "generations", "wraps"):
        rows[name] = [_sealed(seal, name, row) for row in rows[name]]
    for cluster in rows["clusters"]:
        _seal_history(seal, cluster, rows["wrap_history"])
        cluster["children"] = _digest(cluster["uid"], rows)
        cluster.update(_sealed(seal, "clusters", cluster))
    prev = b""
    newest = {e["cluster"]: e for e in rows["log"] if e["version"] is not None}
    for entry in sorted(rows["log"], key=lambda entry: int(entry["number"])):
        for cluster in rows["clusters"]:
            if newest.get(cluster["name"]) is entry and entry["version"] == cluster["version"]:
                entry["row_mac"] = cluster["mac"]
        entry["prev"] = prev
        entry.update(_sealed(seal, "log", entry))
        prev = entry["mac"]
    [head] = rows["log_head"]
    head["entry_mac"] = prev
    return {
        name: those if name in _FIRST else [_sealed(seal, name, row) for row in those]
        for name, those in rows.items()
    }


def _seal_history(seal: Seal, cluster: Row, history: list[Row]) -> None:
    mine = [row for row in history if row["cluster_uid"] == cluster["uid"]]
    for row in sorted(mine, key=lambda row: int(row["number"])):
        row["prev"] = b"" if row["number"] == 1 else cluster["history_head"]
        row.update(_sealed(seal, "wrap_history", row))
        cluster["history_head"] = row["mac"]


def _digest(uid: bytes, rows: dict[str, list[Row]]) -> bytes:
    orders: dict[str, Callable[[Row], Any]] = {
        "regions": lambda row: row["name"],
        "generations": lambda row: (row["region"], row["number"]),
        "wraps": lambda row: row["kek_id"],
    }
    return seals.digest(
        row["mac"]
        for name, order in orders.items()
        for row in sorted((r for r in rows[name] if r["cluster_uid"] == uid), key=order)
    )


def _written(value: object) -> object:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def main() -> None:
    """Writes both files anew."""
    vector = store_vector.VECTORS / "store.json"
    kept = json.loads(vector.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        key = store_vector.service_key(Path(folder))
        rows = _remade(Seal(service_key.load(key, store="the vector")))
        tables = ",\n".join(
            f'"{name}": [\n'
            + ",\n".join(json.dumps({c: _written(v) for c, v in row.items()}) for row in those)
            + "\n]"
            for name, those in rows.items()
        )
        text = f'{{\n"service_key": "{kept["service_key"]}",\n"tables": {{\n{tables}\n}}\n}}\n'
        vector.write_text(text, encoding="utf-8")
        store_vector.ROWS.update(rows)
        with store_vector.a_place("sqlite", Path(folder)) as place:
            place.migrate()
            store_vector.write(place)
            with (
                closing(place.open()) as store,
                export.opened(store) as snapshot,
                store_vector.EXPORT.open("wb") as out,
            ):
                export.write(snapshot, out, cluster=None, now=NOW)


if __name__ == "__main__":
    main()
