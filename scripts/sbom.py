"""Writes a release's list of parts, a CycloneDX SBOM, to stdout.

    sbom.py VERSION SITE_PACKAGES FILE...

It runs in the environment of requirements/sbom.lock. The parts are the packages of
requirements/all.lock, with the hashes that pip checks when it installs from there, and what needs
what. Those of the base have the scope `required`, those of the extras `optional`. The licences are
in the metadata of the installed packages in SITE_PACKAGES, since a lock does not have them. FILE...
are the release's own packages. Equal arguments give equal bytes: the time is that of
`SOURCE_DATE_EPOCH`.

A part whose licence is not known, or is not among `ACCEPTED`, is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import Final

import locks
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ACCEPTED: Final = frozenset(
    {
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        # psycopg. It is installed as a package of its own, unchanged, and whoever runs Keyfold can
        # put another version in its place, which is what the LGPL asks for.
        "LGPL-3.0-only",
        "MIT",
        "MIT-0",
        # certifi: a list of certificates, unchanged.
        "MPL-2.0",
        "PSF-2.0",
    }
)
"""The licences, by their SPDX ids, under which parts may be. None asks anything of the code that
uses the part."""

_TOLD: Final = {
    # Only Windows has these, so their metadata is not here.
    "colorama": "BSD-3-Clause",
    "tzdata": "Apache-2.0",
    # Their metadata says less than the texts of their licences.
    "isodate": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "pyasn1-modules": "BSD-2-Clause",
    "python-dateutil": "(Apache-2.0 AND BSD-3-Clause) OR BSD-3-Clause",
    "uvloop": "Apache-2.0 OR MIT",
}
"""Licences of packages whose metadata does not tell them exactly."""

_WORDS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "ISC License": "ISC",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "MIT License": "MIT",
}
"""How metadata from before SPDX expressions names licences."""

_ROOT: Final = "keyfold"


def _licence(package: locks.Locked, metadata: PackageMetadata | None) -> License:
    """Returns a package's licence.

    Raises:
        SystemExit: It is not known, or is not among those that are accepted.
    """
    texts: list[str] = []
    if package.name in _TOLD:
        texts = [_TOLD[package.name]]
    elif metadata is not None:
        texts = metadata.get_all("License-Expression") or [
            *metadata.get_all("License", []),
            *metadata.get_all("Classifier", []),
        ]
    for text in texts:
        expression = _WORDS.get(text, text)
        if set(re.findall(r"[^\s()]+", expression)) - {"AND", "OR"} <= ACCEPTED:
            break
    else:
        told = (text for text in texts if "\n" not in text and ("::" not in text or "OSI" in text))
        said = "; ".join(told) or "nothing"
        sys.exit(f"sbom: is {package.name} under a licence of ACCEPTED? Its metadata says: {said}")
    declared = LicenseAcknowledgement.DECLARED
    made = LicenseFactory()
    if expression in ACCEPTED:
        return made.make_with_id(expression, acknowledgement=declared)
    return made.make_with_expression(expression, acknowledgement=declared)


def _hashes(hashes: tuple[str, ...]) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes]


def _component(
    package: locks.Locked, installed: dict[str, Distribution], base: set[str]
) -> Component:
    there = installed.get(package.name)
    if there is not None and there.version != package.version:
        sys.exit(f"sbom: {package.name} is {there.version} here; run make venv")
    purl = PackageURL("pypi", name=package.name, version=package.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        # The purl, because an address would name one of many mirrors.
        url=XsUri(str(purl)),
        comment="one of these files is installed, by platform and version of Python",
        hashes=_hashes(package.hashes),
    )
    marker = [Property(name="keyfold:installed-where", value=package.marker)]
    return Component(
        name=package.name,
        version=package.version,
        bom_ref=str(purl),
        purl=purl,
        scope=ComponentScope.REQUIRED if package.name in base else ComponentScope.OPTIONAL,
        licenses=[_licence(package, there.metadata if there else None)],
        external_references=[files],
        properties=marker if package.marker else [],
    )


def main(version: str, site_packages: str, *files: str) -> str:
    """Returns the list, checked against the schema of its form."""
    folder = locks.ROOT / "requirements"
    packages = locks.read(folder / "all.lock")
    base = {package.name for package in locks.read(folder / "client.lock")}
    installed = {
        each.name.lower().replace("_", "-").replace(".", "-"): each
        for each in distributions(path=[site_packages])
    }
    digests = {
        Path(each).name: hashlib.sha256(Path(each).read_bytes()).hexdigest() for each in files
    }
    own = PackageURL("pypi", name=_ROOT, version=version)
    root = Component(
        name=_ROOT,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=str(own),
        purl=own,
        licenses=[LicenseFactory().make_with_id("Apache-2.0")],
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION, url=XsUri(name), hashes=_hashes((digest,))
            )
            for name, digest in digests.items()
        ],
    )
    parts = {each.name: _component(each, installed, base) for each in packages}
    # Equal parts have an equal number.
    name = " ".join((version, *sorted(digests.values())))
    bom = Bom(components=parts.values(), serial_number=uuid.uuid5(uuid.NAMESPACE_OID, name))
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    needs: dict[str, list[Component]] = {each: [] for each in (_ROOT, *parts)}
    for package in packages:
        for user in package.needed_by:
            needs[user].append(parts[package.name])
    for user, needed in needs.items():
        bom.register_dependency(root if user == _ROOT else parts[user], needed)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"sbom: not what the schema asks for: {error}")
    return text


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
