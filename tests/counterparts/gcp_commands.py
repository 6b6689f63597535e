"""The `gcloud` commands with which a customer grants access to keys, run on the counterpart.

They are strict: they refuse an option or a permission that they do not know, a role that was not
made, and a role of another project.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from counterparts.gcp_control import Control
from counterparts.gcp_iam import GET_ACCESS_TOKEN, IMPLICIT_DELEGATION, ROLES
from counterparts.gcp_methods import METHODS
from counterparts.shell import CommandError, options, recorded

_PERMISSIONS: Final = {
    GET_ACCESS_TOKEN,
    IMPLICIT_DELEGATION,
    *(method.permission for method in METHODS.values()),
}


class GcloudCommands:
    """Somebody who may do everything in Google Cloud.

    Args:
        kms: The counterpart that the commands act on.
    """

    def __init__(self, kms: Control) -> None:
        self._kms = kms

    def run(self, text: str) -> None:
        """Runs a shell text.

        Raises:
            CommandError: The shell or a command refused the text.
        """
        for words in recorded("gcloud", text, {}):
            self.call(words)

    def call(self, words: list[str]) -> None:
        """Runs one command, given its arguments.

        Raises:
            CommandError: The command refused them.
        """
        commands: dict[tuple[str, ...], Callable[[str, dict[str, str]], None]] = {
            ("iam", "roles", "create"): self._create_role,
            ("kms", "keys", "add-iam-policy-binding"): self._bind_key,
            ("iam", "service-accounts", "add-iam-policy-binding"): self._bind_account,
        }
        command = commands.get(tuple(words[:3]))
        if command is None:
            raise CommandError(f"gcloud has no command {' '.join(words)}")
        given = options(words[4:])
        if any(len(values) != 1 for values in given.values()):
            raise CommandError(f"an option has one value: {given}")
        command(words[3], {name: values[0] for name, values in given.items()})

    def _create_role(self, name: str, given: dict[str, str]) -> None:
        _check(given, "--project", "--title", "--stage", "--permissions")
        permissions = [each for each in given["--permissions"].split(",") if each]
        if not _PERMISSIONS.issuperset(permissions) or given["--stage"] != "GA":
            raise CommandError(f"no such role can be made: {given}")
        try:
            self._kms.create_role(f"projects/{given['--project']}/roles/{name}", permissions)
        except ValueError as error:
            raise CommandError(str(error)) from error

    def _bind_key(self, name: str, given: dict[str, str]) -> None:
        _check(given, "--project", "--location", "--keyring", "--member", "--role")
        project, location, ring = (given[each] for each in ("--project", "--location", "--keyring"))
        resource = f"projects/{project}/locations/{location}/keyRings/{ring}/cryptoKeys/{name}"
        self._bind(resource, given)

    def _bind_account(self, email: str, given: dict[str, str]) -> None:
        _check(given, "--project", "--member", "--role")
        if not email.endswith(f"@{given['--project']}.iam.gserviceaccount.com"):
            raise CommandError(f"{email} is not of the project {given['--project']}")
        self._bind(email, given)

    def _bind(self, resource: str, given: dict[str, str]) -> None:
        kind, _, email = given["--member"].partition(":")
        ours = given["--role"].startswith(f"projects/{given['--project']}/roles/")
        if kind != "serviceAccount" or not (ours or given["--role"] in ROLES):
            raise CommandError(f"no such binding can be made: {given}")
        try:
            self._kms.allow(email, resource, given["--role"])
        except ValueError as error:
            raise CommandError(str(error)) from error


def _check(given: dict[str, str], *wanted: str) -> None:
    if given.keys() != set(wanted):
        raise CommandError(f"the options are {sorted(wanted)}, not {sorted(given)}")
