"""What `make release` makes: the files, their signature, and what the installed package does."""

from __future__ import annotations

import email
import hashlib
import json
import re
import shutil
import stat
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

import pages
from released import ROOT, Release, git, installed, make_release, new_key, run, versions

PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: Final[dict[str, Any]] = PYPROJECT["project"]
VERSION: Final[str] = PROJECT["version"]
PACKAGES: Final[list[str]] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PAGE: Final = (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")

# A machine that has not built helm yet needs minutes for it, and a release contains the chart.
pytestmark = pytest.mark.timeout(900)


# The files


def test_the_files_are_those_of_the_page(release: Release) -> None:
    """A release has every file that docs/releases.md lists, and no other."""
    listed = re.findall(r"^\| (`.+?`) \|", PAGE, re.MULTILINE)
    names = {name for cell in listed for name in re.findall(r"`([^`]+)`", cell)}
    found = {path.name.replace(VERSION, "VERSION") for path in release.dist.iterdir()}
    chart = {"keyfold-VERSION-chart.tgz"}
    # Without helm the command says that the chart is missing.
    missing = chart if "without helm" in release.said else set()
    assert found == names - missing


def test_the_package_is_whole(release: Release) -> None:
    """The wheel has each file of the packages that git knows, templates and migrations too."""
    inside = {Path(package).name: Path(package).parent for package in PACKAGES}
    assert len(inside) == len(PACKAGES)
    tracked = git("ls-files", *PACKAGES, repository=release.repository).splitlines()
    with zipfile.ZipFile(release.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert {str(inside[name.split("/")[0]] / name) for name in names} == set(tracked)
        for package in inside:
            assert f"{package}/py.typed" in names
        for name in names:
            assert stat.S_IMODE(wheel.getinfo(name).external_attr >> 16) == 0o644


def test_the_source_distribution_has_nothing_else(release: Release) -> None:
    """It has the packages, the contract, the licence, and no test and no lock.

    `make release` makes the wheel from it a second time, so nothing is missing.
    """
    (sdist,) = release.dist.glob("keyfold-[0-9.]*[0-9].tar.gz")
    with tarfile.open(sdist) as archive:
        names = {Path(name).parts[1] for name in archive.getnames()}
    files = {"PKG-INFO", "pyproject.toml", ".gitignore", "LICENSE", "README.md"}
    assert names == files | {"clients", "protos", "server"}


def test_what_the_package_says_of_itself(release: Release) -> None:
    """Its name, version, licence, and what each extra brings are those of pyproject.toml."""
    with zipfile.ZipFile(release.wheel) as wheel:
        (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(wheel.read(name))
        assert name.replace("METADATA", "licenses/LICENSE") in wheel.namelist()
    assert said["Name"] == PROJECT["name"]
    assert said["Version"] == VERSION
    assert said["License-Expression"] == PROJECT["license"]
    assert said["Requires-Python"] == PROJECT["requires-python"]
    extras = PROJECT["optional-dependencies"]
    assert said.get_all("Provides-Extra") == sorted(extras)
    # hatchling writes out what an extra takes from others.
    said_of: dict[str, set[str]] = {"": set(), **{extra: set() for extra in extras}}
    for line in said.get_all("Requires-Dist", []):
        extra = re.search(r"extra == '(\w+)'", line)
        said_of[extra[1] if extra else ""].add(_named(line))
    asked = {"": PROJECT["dependencies"], **extras}
    for extra, packages in asked.items():
        if extra != "all":
            assert said_of[extra] == {_named(package) for package in packages}
    of_all = re.findall(r"[\w-]+", extras["all"][0])[1:]
    assert said_of["all"] == set().union(*(said_of[extra] for extra in of_all))


def _named(requirement: str) -> str:
    """Returns the name in a requirement."""
    return re.split(r"[\[<>=;! ]", requirement)[0].lower()


def test_the_archive_to_deploy_with(release: Release) -> None:
    """It has all of `deploy/`, the locks of the README, and no lock that only tests use."""
    name = f"keyfold-{VERSION}-deploy"
    with tarfile.open(release.dist / f"{name}.tar.gz") as archive:
        found = {str(Path(each).relative_to(name)) for each in archive.getnames()}
    tracked = set(git("ls-files", "deploy", repository=release.repository).splitlines())
    locks = {each for each in found if each.startswith("requirements/")}
    assert found == tracked | locks | {"LICENSE"}
    assert locks == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "requirements").glob("*.lock")
        if path.stem in {"build", "client", "cli", "relay", "server", "all", *OWN_EXTRAS}
    }


OWN_EXTRAS: Final = {
    program.removeprefix("keyfold-") for program in PROJECT["scripts"] if "-" in program
}
"""The extras that bring a program, and so have a lock."""


def test_the_list_of_parts(release: Release) -> None:
    """The SBOM has each locked package with the hashes that pip accepts, and a licence."""
    bom = json.loads((release.dist / f"keyfold-{VERSION}.cdx.json").read_text(encoding="utf-8"))
    parts = {each["name"]: each for each in bom["components"]}
    assert {name: each["version"] for name, each in parts.items()} == versions("all")
    lock = (ROOT / "requirements" / "all.lock").read_text(encoding="utf-8")
    hashes = [
        one["content"]
        for each in parts.values()
        for reference in each["externalReferences"]
        for one in reference["hashes"]
    ]
    assert sorted(hashes) == sorted(re.findall(r"--hash=sha256:(\w+)", lock))
    base = {name for name, each in parts.items() if each["scope"] == "required"}
    assert base == set(versions("client"))
    assert all(each["licenses"] for each in parts.values())
    # It is the list of exactly these packages.
    own = bom["metadata"]["component"]
    sums = {each["url"]: each["hashes"][0]["content"] for each in own["externalReferences"]}
    assert {
        name: hashlib.sha256((release.dist / name).read_bytes()).hexdigest() for name in sums
    } == sums
    assert release.wheel.name in sums
    # What needs what: the base needs nothing but the base.
    graph = {each["ref"]: each.get("dependsOn", []) for each in bom["dependencies"]}
    assert {ref.split("/")[1].split("@")[0] for ref in graph} == {"keyfold", *parts}
    names = {each["bom-ref"]: name for name, each in parts.items()}
    assert {names[ref] for name in base for ref in graph[parts[name]["bom-ref"]]} <= base
    assert {names[ref] for ref in graph[own["bom-ref"]]} >= {"grpcio", "protobuf", "alembic"}


# The signature


@pytest.fixture
def downloaded(release: Release, tmp_path: Path) -> Path:
    """What a user has: the files, and release-signers from the repository."""
    shutil.copytree(release.dist, tmp_path / "files")
    shutil.copy(release.repository / "deploy" / "release-signers", tmp_path / "files")
    return tmp_path / "files"


VERIFY, CHECK = pages.fenced(PAGE, "sh")[0].splitlines()


def test_a_release_verifies(release: Release, downloaded: Path) -> None:
    """The commands of the page accept a release, also if a user downloaded only a part of it."""
    pages.assert_runs(PAGE, folder=downloaded, environment={"PATH": "/usr/bin:/bin"})
    (downloaded / f"keyfold-{VERSION}.cdx.json").unlink()
    assert run(["bash", "-c", CHECK], folder=downloaded).count(": OK\n") > 0


def test_a_changed_file(downloaded: Path) -> None:
    """A byte more in any file is noticed."""
    for path in sorted(downloaded.glob("keyfold-*")):
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        assert f"{path.name}: FAILED" in run(["bash", "-c", CHECK], 1, folder=downloaded)
        path.write_bytes(before)
    run(["bash", "-c", CHECK], folder=downloaded)


def test_changed_checksums(downloaded: Path) -> None:
    """Checksums that somebody made for files of theirs do not verify."""
    sums = downloaded / "SHA256SUMS"
    sums.write_text(sums.read_text(encoding="utf-8").replace("a", "b", 1), encoding="utf-8")
    run(["bash", "-c", VERIFY], 255, folder=downloaded)


def test_another_key(downloaded: Path, tmp_path: Path) -> None:
    """A signature by a key that is not in release-signers, or for another purpose, is refused."""
    signature = downloaded / "SHA256SUMS.sig"
    new_key(tmp_path / "other")
    for name, purpose in (("other", "keyfold-release"), ("other", "file")):
        signature.unlink()
        key, sums = tmp_path / name, downloaded / "SHA256SUMS"
        run(["ssh-keygen", "-Y", "sign", "-f", key, "-n", purpose, sums])
        run(["bash", "-c", VERIFY], 255, folder=downloaded)


def test_the_key_stays_where_it_is(release: Release) -> None:
    """No file of a release and no line of the command has the private key, or its path."""
    secret = release.key.read_text(encoding="utf-8")
    words = [secret.splitlines()[1], str(release.key)]
    for text in (release.said.encode(), *(path.read_bytes() for path in release.dist.iterdir())):
        assert not any(word.encode() in text for word in words)


# What it refuses


@pytest.fixture(scope="module")
def any_clone(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the tagged commit, without a release."""
    folder = tmp_path_factory.mktemp("clone")
    git("clone", "--quiet", str(release.repository), str(folder), repository=folder)
    return folder


@pytest.fixture
def clone(any_clone: Path) -> Path:
    """That clone, as it was made."""
    git("reset", "--quiet", "--hard", "origin/HEAD", repository=any_clone)
    git("clean", "--quiet", "--force", repository=any_clone)
    git("tag", "--force", f"v{VERSION}", repository=any_clone)
    return any_clone


def test_a_work_tree_with_changes(clone: Path) -> None:
    """It names the files that nobody would find in the commit, and makes nothing."""
    (clone / "server" / "new.py").touch()
    said = make_release(clone, 1)
    assert f"this is not release {VERSION} of pyproject.toml:\n- the work tree has" in said
    assert "?? server/new.py" in said
    assert not (clone / "dist").exists()


def test_a_commit_of_another_version(clone: Path) -> None:
    """It names each place that does not have the version, and the tag that is missing."""
    for name in ("CHANGELOG.md", "Dockerfile", "deploy/helm/keyfold/Chart.yaml"):
        text = (clone / name).read_text(encoding="utf-8")
        (clone / name).write_text(text.replace(VERSION, "9.8.7", 3), encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", "Another one", repository=clone)
    said = make_release(clone, 1)
    assert f"does not have the tag v{VERSION}" in said
    assert "the newest release in CHANGELOG.md is 9.8.7" in said
    assert said.count(" says 9.8.7") == 3


def test_a_changelog_without_a_date(clone: Path) -> None:
    """What the changelog calls unreleased is not released."""
    path = clone / "CHANGELOG.md"
    text = path.read_text(encoding="utf-8").replace("- 2026-12-01", "- unreleased")
    path.write_text(text, encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", "Not yet", repository=clone)
    git("tag", "--force", f"v{VERSION}", repository=clone)
    said = make_release(clone, 1)
    assert said.splitlines()[1:] == [f"- CHANGELOG.md has no date of {VERSION}: unreleased"]


def test_a_key_that_users_do_not_have(clone: Path, tmp_path: Path) -> None:
    """A key that is not in release-signers signs nothing, and nobody waits for the files."""
    new_key(tmp_path / "unknown")
    said = make_release(clone, 1, SIGN_KEY=str(tmp_path / "unknown"))
    assert "not in deploy/release-signers" in said
    assert "sdist" not in said
    assert not (clone / "dist").exists()


# What is installed


@pytest.fixture(scope="module")
def python(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with everything that Keyfold's programs can use."""
    return installed(release, "all", tmp_path_factory.mktemp("all"), "[all]")


def test_everything_that_it_announces_is_there(python: Path) -> None:
    """Every program and provider that the package's metadata names can be loaded."""
    script = """
from importlib.metadata import distribution
for entry in distribution("keyfold").entry_points:
    entry.load()
    print(entry.group, entry.name)
"""
    loaded = {tuple(line.split()) for line in run([python, "-c", script]).splitlines()}
    announced = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    assert loaded == {(group, name) for group, names in announced.items() for name in names}


def test_the_programs_run(python: Path) -> None:
    """Each program of the package starts, and says what it is for."""
    for program in PROJECT["scripts"]:
        assert "Usage: " in run([python.with_name(program), "--help"])


def test_the_installed_server_makes_its_store(python: Path, tmp_path: Path) -> None:
    """The migrations are in the package: `keyfold-server migrate` makes a store of this release."""
    given = {"KEYFOLD_STORE": f"sqlite:///{tmp_path}/keyfold.db", "KEYFOLD_METRICS": "off"}
    server = python.with_name("keyfold-server")
    assert "has the schema of this release" in run([server, "migrate"], given=given)
