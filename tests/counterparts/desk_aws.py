"""The `aws` commands with which somebody makes keys and roles, run on the counterpart.

`aws kms` takes every operation of KMS, by the service's own model, as the account's root. `aws iam`
knows roles alone: they are in the counterpart's STS. `--profile` chooses the account.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from counterparts.aws_sts import Role, Sts
from counterparts.desk import Typed, options
from counterparts.shell import CommandError

_HOW: Final = ("--region", "--query", "--output")


class AwsCommands:
    """The administrators of some accounts.

    Args:
        sts: The counterpart's roles and identities.
        url: The counterpart's KMS.
        ca: The file with the authority of its certificate.
        accounts: The accounts by profile; the profile `default` needs no option.
    """

    def __init__(self, sts: Sts, url: str, ca: str, accounts: Mapping[str, str]) -> None:
        self._profiles = {
            profile: _Account(sts, url, ca, account) for profile, account in accounts.items()
        }

    def __call__(self, typed: Typed) -> str:
        """Runs a command; see `Command`."""
        words, profile = list(typed.words), "default"
        if "--profile" in words:
            place = words.index("--profile")
            _, profile = words[place : place + 2]
            del words[place : place + 2]
        return self._profiles[profile].run(words, typed.folder)


class _Account:
    """An account's administrator."""

    def __init__(self, sts: Sts, url: str, ca: str, account: str) -> None:
        self._sts = sts
        self._url = url
        self._ca = ca
        self._account = account
        self._key, self._secret = sts.add_user(f"arn:aws:iam::{account}:root")
        self._clients: dict[str, Any] = {}

    def run(self, words: list[str], folder: Path) -> str:
        """Runs a command."""
        service, operation, *rest = words
        if service == "iam":
            return self._iam(operation, _read(options(rest), folder))
        if service != "kms":
            raise CommandError(f"there is no service {service}")
        return self._kms(operation, rest, folder)

    def _kms(self, operation: str, rest: list[str], folder: Path) -> str:
        region = rest[rest.index("--region") + 1] if "--region" in rest else ""
        if not region:
            raise CommandError("You must specify a region.")
        client = self._client(region)
        method = operation.replace("-", "_")
        names = {xform_name(name): name for name in client.meta.service_model.operation_names}
        if method not in names:
            raise CommandError(f"kms has no command {operation}")
        shape = client.meta.service_model.operation_model(names[method]).input_shape
        members = {f"--{xform_name(name, '-')}": name for name in shape.members}
        kinds = {option: shape.members[name].type_name for option, name in members.items()}
        flags = frozenset(option for option, kind in kinds.items() if kind == "boolean")
        given = _read(options(rest, flags), folder)
        unknown = given.keys() - members.keys() - {*_HOW}
        if unknown:
            raise CommandError(f"{operation} has no option {sorted(unknown)}")
        asked = {
            members[option]: int(value) if kinds[option] == "integer" else value
            for option, value in given.items()
            if option in members
        }
        try:
            answer = getattr(client, method)(**asked)
        except (ClientError, BotoCoreError) as error:
            raise CommandError(str(error)) from error
        answer.pop("ResponseMetadata", None)
        steps = given["--query"].split(".") if "--query" in given else []
        found = functools.reduce(lambda part, name: part[name], steps, answer)
        if given.get("--output") == "text":
            return str(found)
        return json.dumps(found, indent=4, default=str) if found else ""

    def _iam(self, operation: str, given: dict[str, Any]) -> str:
        arn = f"arn:aws:iam::{self._account}:role/{given['--role-name']}"
        if operation == "create-role":
            if arn in self._sts.roles:
                raise CommandError(f"EntityAlreadyExists: Role {arn} already exists.")
            self._sts.roles[arn] = Role(json.loads(given["--assume-role-policy-document"]))
        elif operation == "put-role-policy":
            self._sts.policies.setdefault(arn, []).append(json.loads(given["--policy-document"]))
        elif operation == "update-assume-role-policy":
            self._sts.roles[arn].trust = json.loads(given["--policy-document"])
            self._sts.expire_sessions(arn)
        else:
            raise CommandError(f"iam has no command {operation}")
        return ""

    def _client(self, region: str) -> Any:
        if region not in self._clients:
            session: Any = Session()
            self._clients[region] = session.create_client(
                "kms",
                region_name=region,
                endpoint_url=self._url,
                aws_access_key_id=self._key,
                aws_secret_access_key=self._secret,
                verify=self._ca,
                config=Config(proxies={}, retries={"total_max_attempts": 1}),
            )
        return self._clients[region]


def _read(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns options with what the files have that they name as `file://`."""
    prefix = "file://"
    return {
        name: (folder / value.removeprefix(prefix)).read_text(encoding="utf-8")
        if isinstance(value, str) and value.startswith(prefix)
        else value
        for name, value in given.items()
    }
