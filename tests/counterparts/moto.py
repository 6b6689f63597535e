"""moto's STS and IAM, which check trust policies and signatures.

Since moto's authors did not write `counterparts.aws`, it checks the adapter's AssumeRole a second
time. Its KMS knows no key states and its sessions do not end, so it serves only for credentials.
"""

from __future__ import annotations

import contextlib
import functools
import json
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

from botocore.config import Config
from botocore.session import Session

from counterparts.processes import Process, free_port, installed

_UNCHECKED: Final = 1_000_000
"""Number of requests that pass unchecked; the server counts down."""


class Moto:
    """One server on loopback, which checks nothing within `unchecked` and everything outside.

    Attributes:
        url: Its URL.
    """

    def __init__(self) -> None:
        """Installs moto if it is missing, starts it and waits until it answers.

        Raises:
            NotInstalledError: It is not available on this machine.
        """
        python, port = installed("moto.sh"), free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        unchecked = {"INITIAL_NO_AUTH_ACTION_COUNT": str(_UNCHECKED)}
        self._process = Process("moto", command, unchecked, self.url + "/moto-api/")

    @contextlib.contextmanager
    def unchecked(self) -> Iterator[None]:
        """Lets every request pass, so that a test can set up users and roles."""
        self._count(_UNCHECKED)
        try:
            yield
        finally:
            self._count(0)

    def _count(self, requests: int) -> None:
        asked = urllib.request.Request(
            self.url + "/moto-api/reset-auth",
            data=str(requests).encode(),
            headers={"Content-Type": "application/octet-stream"},
        )
        urllib.request.urlopen(asked, timeout=5).close()

    def client(self, service: str) -> Any:
        """Returns a client of the account's administrator, for use within `unchecked`."""
        session: Any = Session()
        return session.create_client(
            service,
            region_name="eu-west-1",
            endpoint_url=self.url,
            aws_access_key_id="setup",
            aws_secret_access_key="setup",
            config=Config(proxies={}),
        )

    def add_user(self, name: str) -> tuple[str, str, str]:
        """Makes a user who may assume any role; returns its ARN, access key and secret."""
        with self.unchecked():
            iam = self.client("iam")
            arn = iam.create_user(UserName=name)["User"]["Arn"]
            allow = {"Effect": "Allow", "Action": "sts:*", "Resource": "*"}
            iam.put_user_policy(UserName=name, PolicyName="sts", PolicyDocument=_policy(allow))
            key = iam.create_access_key(UserName=name)["AccessKey"]
            return arn, key["AccessKeyId"], key["SecretAccessKey"]

    def add_role(self, name: str, trusted: str, external_id: str) -> str:
        """Makes a role that an identity may assume with an external id; returns its ARN."""
        trust = {
            "Effect": "Allow",
            "Principal": {"AWS": trusted},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
        }
        allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        with self.unchecked():
            iam = self.client("iam")
            made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))
            iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=_policy(allow))
            arn: str = made["Role"]["Arn"]
            return arn


@functools.cache
def shared() -> Moto:
    """Returns the server that all tests share; each test has users and roles of its own."""
    return Moto()


def _policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
