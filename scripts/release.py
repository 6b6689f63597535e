"""Makes a release in dist/: everything that users download, with checksums.

The files are made from the tagged commit and from nothing else, so whoever has the commit can make
them again and compare. Packages are made twice, in different places, and must come out equal. It
refuses a work tree with changes, and a commit that is not the one of its version's tag.

With SIGN_KEY=FILE it signs the checksums. FILE is a private SSH key or, for a key that ssh-agent
holds, the public one. The key must be in deploy/release-signers, because users verify with that
file.
"""

from __future__ import annotations

import filecmp
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import locks

ROOT: Final = locks.ROOT
_DIST: Final = ROOT / "dist"
_SUMS: Final = "SHA256SUMS"
_SIGNERS: Final = Path("deploy", "release-signers")
_SIGNER: Final = "keyfold"
_NAMESPACE: Final = "keyfold-release"
"""What a signature is for; ssh-keygen refuses one that was made for something else."""

_MISSING_TOOL: Final = 3
"""Exit code of the scripts that get a tool, on a machine that cannot have it."""


class RefusedError(Exception):
    """There is no release to make, or a part of it cannot be made."""


def _run(
    *command: str | Path,
    folder: Path = ROOT,
    given: str = "",
    umask: int = 0o022,
    **environment: str,
) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        umask=umask,
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RefusedError(f"{Path(command[0]).name} {command[1]} failed; see above")
    return done.stdout


# What is released


def version() -> str:
    """Returns the version of the release.

    Raises:
        RefusedError: The work tree has changes, or the places that name the version differ.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = str(project["version"])
    problems = []
    if changed := _run("git", "status", "--porcelain"):
        problems.append(f"the work tree has changes:\n{changed.rstrip()}")
    if f"v{found}" not in _run("git", "tag", "--points-at", "HEAD").split():
        problems.append(f"this commit does not have the tag v{found}")
    named, day = _first(r"^## \[(.+)\] - (.+)$", "CHANGELOG.md")
    if named != found:
        problems.append(f"the newest release in CHANGELOG.md is {named}")
    try:
        date.fromisoformat(day)
    except ValueError:
        problems.append(f"CHANGELOG.md has no date of {named}: {day}")
    chart = "deploy/helm/keyfold/Chart.yaml"
    for file, pattern in (
        ("Dockerfile", r"^ARG VERSION=(.+)$"),
        (chart, r"^version: (.+)$"),
        (chart, r'^appVersion: "(.+)"$'),
    ):
        (said,) = _first(pattern, file)
        if said != found:
            problems.append(f"{file} says {said}")
    if problems:
        lines = "".join(f"\n- {problem}" for problem in problems)
        raise RefusedError(f"this is not release {found} of pyproject.toml:{lines}")
    return found


def _first(pattern: str, file: str) -> Sequence[str]:
    match = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    return match.groups() if match else ("nothing", "nothing")


# Its files


def _packages(scratch: Path, into: Path) -> list[Path]:
    """Makes the source distribution and the wheel, twice each, and returns their paths."""
    made = [scratch / "one", scratch / "two"]
    sources = _checkout(scratch / "sources"), _checkout(scratch / "elsewhere" / "sources")
    _hatch(sources[0], made[0], "sdist", "wheel")
    # What differs here must not show: the place, the umask, the order of sets, the time zone.
    other = {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "C"}
    _hatch(sources[1], made[1], "sdist", umask=0o077, **other)
    # The wheel is made once from the repository, and once from the source distribution alone.
    (sdist,) = made[1].glob("*.tar.gz")
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    _run("tar", "-xf", sdist, "-C", unpacked)
    _hatch(unpacked / sdist.name.removesuffix(".tar.gz"), made[1], "wheel", umask=0o077, **other)
    names = sorted(path.name for path in made[0].iterdir())
    if names != sorted(path.name for path in made[1].iterdir()):
        raise RefusedError("the packages have other names when they are made again")
    for name in names:
        if not filecmp.cmp(made[0] / name, made[1] / name, shallow=False):
            raise RefusedError(f"{name} is another file when it is made again")
        shutil.copy(made[0] / name, into)
    return [into / name for name in names]


def _checkout(folder: Path) -> Path:
    """Writes the commit's files to a folder."""
    folder.mkdir(parents=True)
    archive = folder.with_name("commit.tar")
    _run("git", "archive", "--output", archive, "HEAD")
    _run("tar", "-xf", archive, "-C", folder)
    return folder


def _hatch(
    sources: Path, into: Path, *targets: str, umask: int = 0o022, **environment: str
) -> None:
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--directory", into]
    for target in targets:
        command += ["--target", target]
    _run(*command, folder=sources, umask=umask, **environment)


def _chart(scratch: Path, into: Path, epoch: int) -> None:
    """Packs the Helm chart, if helm is there."""
    script = ROOT / "scripts" / "kubernetes.sh"
    tools = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=False)
    if tools.returncode == _MISSING_TOOL:
        print("release: without helm, the chart is not among the files", file=sys.stderr)
        return
    if tools.returncode:
        raise RefusedError("helm cannot be had; see above")
    helm, chart = Path(tools.stdout.strip()) / "helm", scratch / "sources/deploy/helm/keyfold"
    _run(helm, "package", chart, "--destination", scratch)
    (packed,) = scratch.glob("keyfold-*.tgz")
    # helm writes the time of day into the archive.
    with tarfile.open(packed) as archive:
        files = {
            each.name: (content.read(), each.mode)
            for each in archive
            if each.isfile() and (content := archive.extractfile(each))
        }
    _pack(into / f"{packed.stem}-chart.tgz", files, epoch)


def _deploy(sources: Path, into: Path, name: str, epoch: int) -> None:
    """Packs the files to deploy with, and the locks to install from."""
    developed = {each[:2] for each in locks.read(sources / "requirements" / "dev.lock")}
    installed = (
        path
        for path in (sources / "requirements").glob("*.lock")
        if path.stem != "dev" and {each[:2] for each in locks.read(path)} <= developed
    )
    paths: Iterable[Path] = (sources / "LICENSE", *(sources / "deploy").rglob("*"), *installed)
    files = {
        f"{name}/{path.relative_to(sources)}": (path.read_bytes(), path.stat().st_mode)
        for path in paths
        if path.is_file()
    }
    _pack(into / f"{name}.tar.gz", files, epoch)


def _pack(path: Path, files: Mapping[str, tuple[bytes, int]], epoch: int) -> None:
    """Writes an archive that depends on the files and the time alone.

    Args:
        path: Where it comes to stand.
        files: Contents and modes by name. Of a mode only counts whether the owner may run the file.
        epoch: Seconds of Unix time that the files show as their time.
    """
    with (
        path.open("wb") as plain,
        gzip.GzipFile("", "wb", fileobj=plain, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            entry, (content, mode) = tarfile.TarInfo(name), files[name]
            entry.size, entry.mtime = len(content), epoch
            entry.mode = 0o755 if mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))


def _sums(folder: Path) -> None:
    """Writes the checksums, in the form of sha256sum."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    ]
    (folder / _SUMS).write_text("".join(lines), encoding="utf-8")


def _sign(sums: Path, key: str) -> None:
    """Signs the checksums, and verifies the signature as users will."""
    _run("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", _NAMESPACE, sums)
    verify = ("-Y", "verify", "-f", _SIGNERS, "-I", _SIGNER, "-n", _NAMESPACE)
    try:
        signature = sums.with_suffix(".sig")
        _run("ssh-keygen", *verify, "-s", signature, given=sums.read_text(encoding="utf-8"))
    except RefusedError as error:
        raise RefusedError(
            f"the key of SIGN_KEY is not in {_SIGNERS}, so nobody could verify the release; add "
            "its public part there, in a commit before the tag"
        ) from error


def main() -> None:
    """Makes dist/ anew."""
    name = version()
    epoch = int(_run("git", "log", "-1", "--format=%ct"))
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    with tempfile.TemporaryDirectory(prefix="keyfold-release-") as folder:
        scratch, made = Path(folder), Path(folder, "dist")
        made.mkdir()
        key = os.environ.get("SIGN_KEY", "")
        if key:
            # Nobody should wait for files that cannot be signed then.
            trial = scratch / "trial"
            trial.touch()
            _sign(trial, key)
        own = _packages(scratch, made)
        parts = _run(ROOT / "scripts" / "sbom.sh", name, sysconfig.get_path("purelib"), *own)
        (made / f"keyfold-{name}.cdx.json").write_text(parts, encoding="utf-8")
        _chart(scratch, made, epoch)
        _deploy(scratch / "sources", made, f"keyfold-{name}-deploy", epoch)
        _sums(made)
        if key:
            _sign(made / _SUMS, key)
        shutil.rmtree(_DIST, ignore_errors=True)
        shutil.copytree(made, _DIST)
    for path in sorted(_DIST.iterdir()):
        print(f"{path.stat().st_size:10}  dist/{path.name}")
    if not key:
        print("release: the checksums are not signed; name a key in SIGN_KEY", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except RefusedError as error:
        sys.exit(f"release: {error}")
