"""Whoever types what docs/recipes/ shows gets what it shows, on the compared product's own clouds.

Each page runs on a server of its own, with the settings that the page shows. What the customer
types, `aws`, `gcloud` and `az`, the counterparts of these clouds obey.
"""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

import nursery
import pages
from certificates import authority
from contract.aws_kms import CUSTOMER, VENDOR, AwsCounterpart
from contract.azure_key_vault import AzureCounterpart
from contract.counterparts import NotInstalledError, without
from contract.gcp_kms import GcpCounterpart
from counterparts.azure_key_vault import TENANT
from counterparts.desk import Command, Desk, Typed
from counterparts.desk_aws import AwsCommands
from counterparts.desk_azure import AzDesk
from counterparts.desk_gcp import GcloudDesk
from e2e.conftest import StartServer
from e2e.provider_sites import Site, opened, settings
from e2e.server import BIN, ROOT

RECIPES: Final = ROOT / "docs" / "recipes"
NAMES: Final = sorted(path.stem for path in RECIPES.glob("*.md") if path.stem != "README")
CLOUDS: Final = {
    "arx": ("aws", "azure", "gcp"),
    "astra": ("aws", "gcp"),
    "cockroachdb": ("aws", "gcp"),
    "konnect": ("aws",),
    "rockset": ("aws",),
}
"""The clouds that each page needs; the first one has the vendor's own key."""

VENDORS: Final = VENDOR.split(":")[4]
"""The vendor's account at AWS."""

PLATFORM_KEY: Final = f"arn:aws:kms:eu-west-1:{VENDORS}:key/0a1b2c3d-0000-4000-8000-000000000001"
APPLICATION: Final = "8d4d9a02-7f00-4c0e-9d6c-3a8a5f7b2f10/11111111-2222-4333-8444-555555555555"
ACCOUNT: Final = "keyfold@vendor-project.iam.gserviceaccount.com"
"""Names on the pages in whose place the counterparts have names of their own."""

_NEW_KEY: Final = (
    "kms create-key --profile vendor --region eu-west-1 --query KeyMetadata.Arn --output text"
)

SECONDS: Final = 900.0
"""The time that a page may take on a very busy machine: it starts some fifty programs."""

pytestmark = pytest.mark.timeout(SECONDS + 60)


def command(site: Site, folder: Path) -> tuple[str, Command]:
    """Returns the name of a cloud's program for its customers, and what the program does."""
    there = site.there
    if isinstance(there, AwsCounterpart):
        ca = folder / "aws-authority.pem"
        ca.write_bytes(authority("trusted").pem)
        accounts = {"default": CUSTOMER, "vendor": VENDORS}
        return "aws", AwsCommands(there.aws.sts, there.layer.url, str(ca), accounts)
    if isinstance(there, GcpCounterpart):
        return "gcloud", GcloudDesk(there.kms)
    assert isinstance(there, AzureCounterpart)
    return "az", AzDesk(there.azure, TENANT, there.vault, there.layer.url)


def ours(program: str, environment: dict[str, str]) -> Command:
    """Returns one of this environment's own programs, without the time that its start takes."""

    def run(typed: Typed) -> int:
        started = nursery.shared().start(
            BIN / program,
            typed.words,
            folder=typed.folder,
            environment=environment,
            out=typed.out,
            err=typed.err,
        )
        return started.wait()

    return run


def localized(page: str, sites: list[Site], commands: dict[str, Command]) -> str:
    """Returns a page with the names in it that only a real cloud can give."""
    for site in sites:
        there = site.there
        if isinstance(there, AwsCounterpart):
            if PLATFORM_KEY in page:
                nowhere = Path()
                typed = Typed(shlex.split(_NEW_KEY), nowhere, nowhere, nowhere)
                page = page.replace(PLATFORM_KEY, str(commands["aws"](typed)))
        elif isinstance(there, AzureCounterpart):
            page = page.replace(APPLICATION, there.principal)
        elif isinstance(there, GcpCounterpart):
            page = page.replace(ACCOUNT, there.own)
    return page


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_as_it_stands(name: str, start_server: StartServer, tmp_path: Path) -> None:
    """A vendor who follows a recipe gets what it shows, from the settings to the last command."""
    page = (RECIPES / f"{name}.md").read_text(encoding="utf-8")
    with ExitStack() as stack:
        sites = []
        for site in stack.enter_context(opened(CLOUDS[name], tmp_path)).values():
            if isinstance(site, NotInstalledError):
                without(site)
            sites.append(site)
        commands = dict(command(site, tmp_path) for site in sites)
        page = localized(page, sites, commands)
        shown = "".join(pages.fenced(page, "toml"))
        sites[0].tables = f"{shown}\n{sites[0].tables}"
        server = start_server(keys=(), ready=True, **settings(sites, tmp_path / "keyfold.toml"))
        environment = server.environment
        desk = Desk(tmp_path, {**commands, "keyfold": ours("keyfold", environment)})
        stack.enter_context(desk)
        typed = tmp_path / "typed"
        typed.mkdir()
        environment["PATH"] = f"{desk.bin}:{environment['PATH']}"
        pages.assert_runs(page, folder=typed, environment=environment, timeout=SECONDS)
