"""The `gcloud` commands with which a customer makes keys and accounts, run on the counterpart.

They are strict: they refuse a command or an option that they do not know.
"""

from __future__ import annotations

from typing import Any, Final

from counterparts.desk import Typed, options
from counterparts.gcp_commands import GcloudCommands
from counterparts.gcp_control import Control
from counterparts.gcp_errors import Refusal
from counterparts.shell import CommandError

_KEY: Final = "projects/{--project}/locations/{--location}/keyRings/{--keyring}/cryptoKeys/"


class GcloudDesk:
    """Somebody who may do everything in a customer's project.

    Args:
        kms: The counterpart that the commands act on.
    """

    def __init__(self, kms: Control) -> None:
        self._kms = kms
        self._access = GcloudCommands(kms)

    def __call__(self, typed: Typed) -> str:
        """Runs a command; see `Command`."""
        try:
            return self._run(typed.words)
        except (Refusal, KeyError, ValueError) as error:
            raise CommandError(f"{' '.join(typed.words)}: {error!r}") from error

    def _run(self, words: list[str]) -> str:
        match words:
            case ["iam", "service-accounts", "create", name, "--project", project]:
                self._kms.service_account(f"{name}@{project}.iam.gserviceaccount.com")
            case ["kms", "keyrings", "create", _, *rest]:
                options(rest)  # A key makes its ring.
            case ["kms", "keys", "create", name, *rest]:
                given = options(rest)
                if given.pop("--purpose") != "encryption":
                    raise CommandError("--purpose is encryption")
                self._kms.create_key(_KEY.format_map(given) + name)
            case ["kms", "keys", "versions", "create", *rest]:
                given = options(rest, frozenset({"--primary"}))
                self._kms.new_version(_of(given), primary="--primary" in given)
            case ["kms", "keys", "versions", ("disable" | "enable") as how, version, *rest]:
                name = f"{_of(options(rest))}/cryptoKeyVersions/{version}"
                (self._kms.disable if how == "disable" else self._kms.enable)(name)
            case _:
                self._access.call(words)
        return ""


def _of(given: dict[str, Any]) -> str:
    """Returns the name of the key that `--key` and the options about its place name."""
    return _KEY.format_map(given) + str(given["--key"])
