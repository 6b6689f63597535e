"""Generates clients/go/reasons.go from the server's error tree, or checks it.

go_client.py write    writes it
go_client.py check    fails if the committed file differs from what this program would write
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from keyfold_server.domain import errors as server

REASONS: Final = Path(__file__).resolve().parents[1] / "clients" / "go" / "reasons.go"

Error = type[server.KeyfoldError]

KINDS: Final[Mapping[Error, str]] = {
    server.InvalidInputError: "ErrInvalidInput",
    server.UnauthenticatedError: "ErrUnauthenticated",
    server.ForbiddenError: "ErrForbidden",
    server.NotFoundError: "ErrNotFound",
    server.AlreadyExistsError: "ErrAlreadyExists",
    server.StateError: "ErrState",
    server.ConflictError: "ErrConflict",
    server.KmsError: "ErrKMS",
    server.RefusedError: "ErrRefused",
    server.CouldNotTellError: "ErrCouldNotTell",
    server.OverloadedError: "ErrLimit",
    server.RateLimitedError: "ErrLimit",
    server.RowNotAuthenticError: "ErrRowNotAuthentic",
    server.UnavailableError: "ErrUnavailable",
    server.DeadlineError: "ErrDeadline",
}
"""The client's kind of each branch of the tree. The nearest class up the tree decides."""

PAGE: Final = """\
// Code generated from server/keyfold_server/domain/errors.py by `make client`. DO NOT EDIT.

package keyfold

// The reasons that the server sends.
const (
{constants}
)

// kindOfReason returns the kind of a reason, or ErrUnknown if the client does not know the reason.
func kindOfReason(reason Reason) Kind {{
\tswitch reason {{
{cases}
\t}}
\treturn ErrUnknown
}}
"""

WIDTH: Final = 100
"""Most characters of a comment's line, without its indent."""


def reasons() -> str:
    """Returns clients/go/reasons.go, in gofmt's format."""
    leaves = list(_leaves(server.KeyfoldError))
    constants = [
        f"{_comment(leaf)}\n\t{_name(leaf)} Reason = {_quoted(leaf.reason)}" for leaf in leaves
    ]
    by_kind: dict[str, list[str]] = {}
    for leaf in leaves:
        by_kind.setdefault(_kind(leaf), []).append(_name(leaf))
    cases = [
        "\tcase " + ",\n\t\t".join(names) + f":\n\t\treturn {kind}"
        for kind, names in by_kind.items()
    ]
    return PAGE.format(constants="\n".join(constants), cases="\n".join(cases))


def _leaves(branch: Error) -> Iterator[Error]:
    for child in branch.__subclasses__():
        if "reason" in vars(child) and child is not server.SetupError:
            yield child
        yield from _leaves(child)


def _kind(leaf: Error) -> str:
    return next(KINDS[one] for one in leaf.__mro__ if one in KINDS)


def _name(leaf: Error) -> str:
    words = leaf.reason.split("_")
    return "Reason" + "".join(
        word if word in {"ID", "KMS", "KEK"} else word.title() for word in words
    )


def _quoted(text: str) -> str:
    return f'"{text}"'


def _comment(leaf: Error) -> str:
    """Returns what the error's docstring says, as the comment of its constant."""
    paragraphs = re.split(r"\n{2,}", inspect.getdoc(leaf) or "")
    first, *rest = (" ".join(paragraph.split()) for paragraph in paragraphs)
    texts = [f"{_name(leaf)}: {first}", *rest]
    lines = [line for text in texts for line in (*textwrap.wrap(text, WIDTH - 3), "")]
    return "\n".join(f"\t// {line}".rstrip() for line in lines[:-1])


def stale() -> str:
    """Returns how the committed file differs from the generated one; empty if it does not."""
    there = REASONS.read_text(encoding="utf-8") if REASONS.exists() else ""
    lines = difflib.unified_diff(
        there.splitlines(), reasons().splitlines(), REASONS.name, "generated", n=0
    )
    return "\n".join(lines)


def main() -> int:
    """Runs the command line."""
    match sys.argv[1:]:
        case ["write"]:
            REASONS.write_text(reasons(), encoding="utf-8")
        case ["check"]:
            if difference := stale():
                print(difference)
                print("client for Go: run `make client` and commit the result")
                return 1
            print("client for Go: up to date")
        case _:
            print("usage: go_client.py write|check", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
