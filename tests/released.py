"""A release of the work tree, made once for all tests of what users install, and places to put it.

A release is made from a tagged commit. So the files of the work tree become the only commit of a
repository of its own, with what a maintainer's last commit before a release changes.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Release:
    """What a maintainer has after `make release`.

    Attributes:
        repository: The clone, with the tag; its `dist` has the files.
        key: The private key that signed.
        said: What the command printed, stdout and stderr together.
    """

    repository: Path
    key: Path
    said: str

    @property
    def dist(self) -> Path:
        """The folder with the files."""
        return self.repository / "dist"

    @property
    def wheel(self) -> Path:
        """The package."""
        (wheel,) = self.dist.glob("keyfold-*.whl")
        return wheel


def run(
    command: Sequence[str | Path],
    code: int = 0,
    *,
    folder: str | Path = "/",
    given: Mapping[str, str] | None = None,
) -> str:
    """Runs a command that must end with `code`; returns its output, stdout and stderr together.

    `given` are variables beside those of the tests' own environment, of which it gets none that
    Keyfold or Python reads.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEYFOLD_", "PYTHON"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=kept | dict(given or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def make_release(repository: Path, code: int = 0, **given: str) -> str:
    """Makes a release in a repository of `tagged`; returns what the command says."""
    program = repository / "scripts" / "release.py"
    return run([sys.executable, program], code, folder=repository, given=given)


def new_key(path: Path) -> str:
    """Makes a private key; returns the line with which release-signers trusts it."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a test", "-f", path])
    public = path.with_suffix(".pub").read_text(encoding="utf-8")
    return f'keyfold namespaces="keyfold-release" {public}'


def tagged(repository: Path, signer: str) -> None:
    """Makes a repository of the work tree's files, ready for `make release`."""
    listed = run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], folder=ROOT
    )
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.exists():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, repository / name, follow_symlinks=False)
    log = repository / "CHANGELOG.md"
    dated = re.sub(r"(?m)^(## .*) - unreleased$", r"\1 - 2026-12-01", log.read_text("utf-8"))
    log.write_text(dated, encoding="utf-8")
    with (repository / "deploy" / "release-signers").open("a", encoding="utf-8") as signers:
        signers.write(signer)
    (version,) = re.findall(
        r'(?m)^version = "(.+)"$', (repository / "pyproject.toml").read_text(encoding="utf-8")
    )
    git("init", "--quiet", repository=repository)
    git("add", "--all", repository=repository)
    git("commit", "--quiet", "--message", "Release", repository=repository)
    git("tag", f"v{version}", repository=repository)
    # The scripts find the tests' own environment there.
    (repository / ".venv").symlink_to(sys.prefix)
    (repository / ".git" / "info" / "exclude").write_text(".venv\n", encoding="utf-8")


def git(*arguments: str, repository: Path) -> str:
    """Runs git in a repository, as nobody in particular."""
    who = ["-c", "user.name=a test", "-c", "user.email=test@example.org", "-c", "gc.auto=0"]
    return run(["git", *who, *arguments], folder=repository)


@contextmanager
def released() -> Iterator[Release]:
    """Makes a signed release of the work tree."""
    with tempfile.TemporaryDirectory(prefix="keyfold-released-") as name:
        repository, key = Path(name, "repository"), Path(name, "key")
        repository.mkdir()
        tagged(repository, new_key(key))
        yield Release(repository, key, make_release(repository, SIGN_KEY=str(key)))


def installed(release: Release, lock: str, folder: Path, extras: str = "") -> Path:
    """Makes an environment with a lock's packages and the release, and returns its Python.

    The packages come from the tests' own environment, for which pip checked their hashes. They are
    linked, which takes a second where pip takes twenty. pip then checks, without a network, that
    the release has all that it asks for.
    """
    run([sys.executable, "-m", "venv", "--without-pip", folder / "env"])
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    for name, version in versions(lock).items():
        # One that another platform needs is not here. pip would miss one that this platform needs.
        if (there := _here().get(name)) is None:
            continue
        assert there.version == version
        for file in sorted(_links()[name]):
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(there.locate_file(file))))
    install = ["install", "--quiet", "--no-index", "--no-compile", f"{release.wheel}{extras}"]
    run([sys.executable, "-m", "pip", "--python", python, *install])
    return python


def versions(lock: str) -> dict[str, str]:
    """Returns the version of each package of a lock in requirements/."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)==([^ \\]+)", text))


@functools.cache
def _here() -> dict[str, Distribution]:
    """Returns the packages of the tests' own environment by their normalised names."""
    return {re.sub(r"[-_.]+", "-", each.name).lower(): each for each in distributions()}


@functools.cache
def _links() -> dict[str, set[Path]]:
    """Returns the folders and files of each package in the site's folder.

    A folder that several packages share, such as `google`, is there file by file.
    """
    files = {
        name: [Path(file) for file in each.files or () if file.parts[0] != ".."]
        for name, each in _here().items()
    }
    owners = Counter(top for paths in files.values() for top in {path.parts[0] for path in paths})
    return {
        name: {Path(path.parts[0]) if owners[path.parts[0]] == 1 else path for path in paths}
        for name, paths in files.items()
    }
