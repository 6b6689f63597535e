"""Generates parts of the Python client from other code, or checks them.

client.py write    writes them
client.py check    fails if a committed file differs from what this program would write

In clients/python/keyfold it generates:
    client/               the synchronous client, from the asyncio client in aio/
    caching/client/       the synchronous cache of data keys, from caching/aio/
    envelope/client/      the synchronous envelope, from envelope/aio/
    errors/reasons.py     an error class for each reason, from the server's error tree
    errors/__init__.py    its imports and `__all__`, which name every error
    __init__.py           its `__all__`, and its import of every error
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

from keyfold_server.domain import errors as server

KEYFOLD: Final = Path(__file__).resolve().parents[1] / "clients" / "python" / "keyfold"

# --- the synchronous client ------------------------------------------------------------

ROOMS: Final = (KEYFOLD, KEYFOLD / "envelope", KEYFOLD / "caching")
"""The folders whose aio/ has a synchronous twin client/."""

SYNC: Final[Mapping[str, str]] = {
    r"\bawait ": "",
    r"\bCoroutine\[Any, Any, (\w+)\]": r"\1",
    r"\bimport Coroutine, ": "import ",
    r"\basync (?=def |with |for )": "",
    r"\bAsync(?=Client\b|Iterator\b|Watch\b|MessageReader\b|Envelope\b|Keeper\b|KeySource\b)": "",
    r"\bAsync(?=KeyCache\b|OpeningKey\b|SealingKey\b|Reader\b|Asker\b|Landing\b|Coalescer\b)": "",
    r"\bAsync(?=Streams?\b)": "",
    r"\bkeyfold\.coalescing\.tasks\b": "keyfold.coalescing.threads",
    r"\bAbstractAsync(?=ContextManager\b)": "Abstract",
    r"\basync(?=contextmanager\b)": "",
    r"\basync_(?=pause\b|turn\b|work\b|waiting\b|this_loop\b|explained\b)": "",
    r"\b__a(?=enter__|exit__|iter__)": "__",
    r"\bgrpc\.aio\.": "grpc.",
    r"\.aio_channel\b": ".channel",
    r"\bkeyfold(\.envelope|\.caching)?\.aio\b": r"keyfold\1.client",
}
"""Patterns in the asyncio client, code and examples alike, and their replacements."""

SYNC_DOCS: Final[Mapping[str, str]] = {
    "The client for asyncio, from which `make client` generates `keyfold.client`.": (
        "The client for synchronous programs."
    ),
    "A connection to Keyfold for asyncio.": "A connection to Keyfold.",
    "The envelope for asyncio, from which `make client` generates `keyfold.envelope.client`.": (
        "The envelope for synchronous programs."
    ),
    "The cache for asyncio, from which `make client` generates `keyfold.caching.client`.": (
        "The cache for synchronous programs."
    ),
    "It begins to watch at its first use.": (
        "It begins to watch at its first use, in a thread of its own."
    ),
    "It works on the client's event loop.": "Any number of threads may share it.",
    "It belongs to the event loop of its first call, and cancelling a task cancels its call.": (
        "Any number of threads may share it."
    ),
}
"""Sentences that are true only of the asyncio client, and their replacements."""

ASYNC_LEFT: Final = re.compile(r"\b(async\w*|await\w*|aio|__a(enter|exit|iter)__)\b", re.IGNORECASE)
"""Words that the synchronous client must not contain."""


def sync_client() -> dict[Path, str]:
    """Returns the files of each client/, made from those of the aio/ beside it.

    Raises:
        ValueError: A sentence of SYNC_DOCS is gone from aio/, or a line would still be
            asynchronous.
    """
    paths = [path for room in ROOMS for path in sorted(room.glob("aio/*.py"))]
    sources = {path: path.read_text(encoding="utf-8") for path in paths}
    for sentence in SYNC_DOCS:
        if not any(sentence in source for source in sources.values()):
            raise ValueError(f"aio/ no longer says: {sentence}")
    made = {}
    for path, source in sources.items():
        twin = path.parents[1] / "client" / path.name
        text = synchronous(str(twin.relative_to(KEYFOLD)), source)
        made[twin] = _marked(text, str(path.relative_to(KEYFOLD)))
    return made


def synchronous(name: str, source: str) -> str:
    """Returns the synchronous form of a file of aio/; `name` is the form's, below keyfold/.

    Raises:
        ValueError: A line would still be asynchronous.
    """
    for sentence, replacement in SYNC_DOCS.items():
        source = source.replace(sentence, replacement)
    for pattern, replacement in SYNC.items():
        source = re.sub(pattern, replacement, source)
    for number, line in enumerate(source.splitlines(), 1):
        if ASYNC_LEFT.search(line):
            raise ValueError(f"{name}:{number} would still be asynchronous: {line.strip()}")
    return source


# --- the errors ------------------------------------------------------------------------

BRANCHES: Final[Mapping[type[server.KeyfoldError], str]] = {
    server.OverloadedError: "LimitError",
    server.RateLimitedError: "LimitError",
}
"""Errors that derive from a branch which only the client has."""

NOT_REASONS: Final = {server.DeadlineError, server.SetupError}
"""Errors without a generated class: a branch of the client, and one that no server sends."""

REASONS: Final = '''\
"""The error classes of all reasons that the server sends; `branches` has those they derive from.

Reasons are part of the API: no release renames one, and new ones may come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyfold.errors.branches import {branches}

{classes}

BY_REASON: Final[Mapping[str, type[KeyfoldError]]] = {{
    error.reason: error for error in ({names})
}}
"""The class of each reason that this client knows."""
'''


def reasons() -> str:
    """Returns errors/reasons.py."""
    leaves = list(_leaves(server.KeyfoldError))
    parents = {leaf: BRANCHES.get(leaf, leaf.__bases__[0].__name__) for leaf in leaves}
    branches = {*parents.values(), "KeyfoldError", "DeadlineError"}
    branches -= {leaf.__name__ for leaf in leaves}
    classes = [
        f"class {leaf.__name__}({parents[leaf]}):\n"
        + textwrap.indent(f'"""{inspect.getdoc(leaf)}"""\n\nreason = "{leaf.reason}"\n', "    ")
        for leaf in leaves
    ]
    return REASONS.format(
        branches=_listed(branches),
        classes="\n".join(classes),
        names=", ".join(["DeadlineError", *(leaf.__name__ for leaf in leaves)]),
    )


def _leaves(branch: type[server.KeyfoldError]) -> Iterator[type[server.KeyfoldError]]:
    for child in branch.__subclasses__():
        if "reason" in vars(child) and child not in NOT_REASONS:
            yield child
        yield from _leaves(child)


def _listed(names: Iterable[str]) -> str:
    return f"({', '.join(sorted(names))})"


# --- the lists of names ----------------------------------------------------------------


def public_names(path: Path, exported: Mapping[str, Iterable[str]]) -> str:
    """Returns a package's `__init__.py` with the given names in its imports and `__all__`.

    Args:
        path: The file. Its docstring and its other imports stay as they are.
        exported: The names to import, by module.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = {
        node.module or "": [one.name for one in node.names]
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
    } | {module: list(names) for module, names in exported.items()}
    lines = [f'"""{ast.get_docstring(tree, clean=False)}"""\n']
    lines += [f"from {module} import {_listed(names)}" for module, names in imports.items()]
    every = sorted(name for names in imports.values() for name in names)
    return "\n".join([*lines, f"\n__all__ = {every}\n"])


def _classes(source: str) -> list[str]:
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]


# --- all of them -----------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Returns every generated file, formatted."""
    made = sync_client()
    made[KEYFOLD / "errors" / "reasons.py"] = leaves = _marked(
        reasons(), "server/keyfold_server/domain/errors.py"
    )
    written = {
        name: (KEYFOLD / "errors" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("branches", "messages", "usage")
    }
    by_module = {
        **{f"keyfold.errors.{name}": _classes(text) for name, text in written.items()},
        "keyfold.errors.reasons": _classes(leaves),
    }
    errors = KEYFOLD / "errors" / "__init__.py"
    made[errors] = public_names(errors, by_module)
    root = KEYFOLD / "__init__.py"
    made[root] = public_names(root, {"keyfold.errors": chain.from_iterable(by_module.values())})
    return {path: _formatted(path, source) for path, source in made.items()}


def _marked(source: str, origin: str) -> str:
    return f"# Generated from {origin} by `make client`; never edited.\n\n{source}"


def _twins() -> Iterator[Path]:
    return chain.from_iterable(room.glob("client/*.py") for room in ROOMS)


def _formatted(path: Path, source: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--fix-only", "--quiet"], ["format"]):
        source = subprocess.run(
            [ruff, *command, "--stdin-filename", path, "-"],
            input=source,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return source


def stale() -> str:
    """Returns how the committed files differ from the generated ones; empty if they do not."""
    found: list[str] = []
    made = files()
    for path in sorted({*made, *_twins()}):
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        name = str(path.relative_to(KEYFOLD))
        found += difflib.unified_diff(
            there.splitlines(), made.get(path, "").splitlines(), name, "generated", n=0
        )
    return "\n".join(found)


def main() -> int:
    """Runs the command line."""
    match sys.argv[1:]:
        case ["write"]:
            made = files()
            for path in {*_twins()} - made.keys():
                path.unlink()
            for path, source in made.items():
                path.write_text(source, encoding="utf-8")
        case ["check"]:
            if difference := stale():
                print(difference)
                print("client: not the generated files: run `make client` and commit the result")
                return 1
            print("client: up to date")
        case _:
            print("usage: client.py write|check", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
