"""What the lock files pin: each package with its version and hashes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]

_PACKAGE: Final = re.compile(r"([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)(?: ; ([^\\]+?))?(?: \\)?")
_HASH: Final = re.compile(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?")
_NEEDED_BY: Final = re.compile(r"    #(?: via|  ) ([a-z0-9][a-z0-9._-]*)(?: \(pyproject\.toml\))?")


class Locked(NamedTuple):
    """A locked package.

    Attributes:
        name: Its name, normalised.
        version: Its version.
        marker: Where it is installed, as PEP 508 writes it; empty: everywhere.
        hashes: The SHA-256 of each file of it that may be installed, in hexadecimal.
        needed_by: The names of the locked packages that need it. Some locks do not say.
    """

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...] = ()


def read(path: Path) -> list[Locked]:
    """Reads one of the locks in requirements/.

    Raises:
        ValueError: A line has a form that `make lock` does not write, a package has no hash, or
            there is no package. Otherwise a package could be left out without anybody noticing.
    """
    found: list[Locked] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if found and (comment := _NEEDED_BY.fullmatch(line)):
            found[-1] = found[-1]._replace(needed_by=(*found[-1].needed_by, comment[1]))
            continue
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if package := _PACKAGE.fullmatch(line):
            name, version, marker = package.groups(default="")
            found.append(Locked(name, version, marker, ()))
        elif found and (digest := _HASH.fullmatch(line)):
            found[-1] = found[-1]._replace(hashes=(*found[-1].hashes, digest[1]))
        else:
            raise ValueError(f"{path}:{number}: not a line that `make lock` writes")
    if not found:
        raise ValueError(f"{path}: no package")
    if bare := [package.name for package in found if not package.hashes]:
        raise ValueError(f"{path}: no hash of {', '.join(bare)}")
    return found
