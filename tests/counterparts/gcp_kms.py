"""Google Cloud KMS on this machine, on the wire.

A gRPC server with TLS serves `google.cloud.kms.v1.KeyManagementService`, and an HTTPS server issues
tokens. Both follow the public API reference and the SDK's own types, and know no adapter.

What it enforces:

- Callers: a bearer token on each call, issued here and neither expired nor revoked, with a scope
  of Cloud KMS; or a service account's self-signed token for Cloud KMS (AIP-4111), which the SDK
  uses when it makes its own channel. The token endpoint verifies a signed assertion's key,
  audience and time (an hour at most). `generateAccessToken` verifies its caller, its scope and
  each link of the chain of delegates.
- Permissions: denied by default; granted by principal, permission and resource, and inherited from
  above (`projects/P`, a ring, a key). Without it, a missing key is PERMISSION_DENIED, too.
- Keys: rings, symmetric keys and their versions with the API's states and transitions; a new
  version is not the primary one until it is made so. Other purposes exist to be refused.
- Crypto: AES-256-GCM with the AAD bound; the ciphertext names its version; a key's name with a
  version in it encrypts with that version and is refused for decryption; 64 KiB, and 8 KiB
  together for HSM; it checks every CRC32C that a caller sends, and returns one.

It leaves out: quotas, lists, labels, rotation by time, imports, operations that are not in
`gcp_methods.METHODS`, IAM conditions and policies as resources, project numbers as aliases,
locations that do not exist, regional endpoints and the routing header, REST, audit logs, the time
that a change takes to spread, and the end of DESTROY_SCHEDULED by time (`expire_version` brings it
about). Neither a ciphertext's largest size nor the order of checks is documented. After the token
it checks names, permission, lengths, checksums, existence, purpose and state. Its answers' shapes
and their sources are in `data/gcp_errors.json`.

In a test, `with GcpKms() as kms:`. By itself, with `PYTHONPATH=tests`:

    python -m counterparts.gcp_kms --port 9443 --token-port 9444 --out /tmp/gcp [--seed FILE]

A seed is a JSON list of control calls, such as {"call": "create_key", "name": "projects/…"}. The
same objects can be posted one at a time to https://localhost:TOKEN_PORT/control.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from counterparts.gcp_control import Control
from counterparts.gcp_service import KmsServer
from counterparts.gcp_tokens import TokenServer
from counterparts.pki import Authority

# The principal that exists unless a seed says otherwise.
PRINCIPAL = "caller@example-project.iam.gserviceaccount.com"
KEY_NAME = "projects/example-project/locations/europe-west1/keyRings/example/cryptoKeys/example"
EXAMPLE: list[dict[str, Any]] = [
    {"call": "create_key", "name": KEY_NAME},
    {"call": "service_account_file", "principal": PRINCIPAL},
    {
        "call": "allow",
        "principal": PRINCIPAL,
        "resource": KEY_NAME,
        "permission": "roles/cloudkms.cryptoKeyEncrypterDecrypter",
    },
    {
        "call": "allow",
        "principal": PRINCIPAL,
        "resource": KEY_NAME,
        "permission": "roles/cloudkms.viewer",
    },
]
_KEPT_CALLS = 10_000
_EMAIL = re.compile(r"[a-z0-9][a-z0-9-]*@[a-z0-9.-]+")
_GENERATE = "/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken"


@dataclass(frozen=True)
class Call:
    """A request that the counterpart received.

    Attributes:
        operation: The RPC's name, "token" or "generateAccessToken".
        principal: The caller; "" if it is not known.
        request: The message, the assertion's claims, or the target and the body.
    """

    operation: str
    principal: str
    request: Any


class GcpKms(Control):
    """The counterpart with its control. Thread-safe once it is started.

    Args:
        port: Port of gRPC; 0 for any free one.
        token_port: Port of HTTPS; 0 for any free one.
        token_lifetime: Seconds for which an access token of the token endpoint is good.
        directory: Folder for ca.pem and service accounts' key files; None for a temporary one.
        control: Whether to serve `/control`.

    Attributes:
        target: The target of a gRPC channel.
        token_uri: The token endpoint.
        iam_uri: Origin of IAM Credentials, instead of https://iamcredentials.googleapis.com.
        ca_pem: Certificate of the authority that issued both servers' certificate.
        ca_file: File with `ca_pem`.
        calls: The last requests, oldest first.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        token_port: int = 0,
        token_lifetime: int = 3600,
        directory: Path | None = None,
        control: bool = False,
    ) -> None:
        super().__init__()
        authority = Authority("Google Cloud counterpart")
        self.ca_pem = authority.ca_pem
        self.calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self.target = self.token_uri = self.iam_uri = ""
        self._certificate, self._key = authority.issue(["localhost", "127.0.0.1"])
        self._ports = port, token_port
        self._temporary = None if directory else tempfile.TemporaryDirectory()
        folder = directory or Path(self._temporary.name if self._temporary else "")
        self._directory = folder.resolve()
        self.ca_file = self._directory / "ca.pem"
        self._kms = KmsServer(self._keys, self._iam, self._faults, record=self._record)
        self._tokens = TokenServer(
            self._iam,
            self._faults,
            lifetime=token_lifetime,
            control=self.control if control else None,
            record=self._record,
        )

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.ca_file.write_bytes(self.ca_pem)
        pair = [(self._key, self._certificate)]
        bound = self._kms.start(self._ports[0], grpc.ssl_server_credentials(pair))
        self.target = f"localhost:{bound}"
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, "certificate"), Path(folder, "key")
            certificate.write_bytes(self._certificate)
            key.write_bytes(self._key)
            self._tokens.start(self._ports[1], certificate, key)
        self.iam_uri = self._tokens.uri
        self.token_uri = f"{self.iam_uri}/token"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._faults.clear()
        self._kms.stop()
        self._tokens.stop()
        if self._temporary:
            self._temporary.cleanup()

    def service_account_file(self, principal: str) -> str:
        """Makes a key for a service account, new or not; returns the path of its key file.

        Raises:
            ValueError: The principal is not an account's email.
        """
        if not _EMAIL.fullmatch(principal):
            raise ValueError(f"{principal!r} is not the email of a service account")
        path = self._directory / f"{principal}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._iam.key_file(principal, self.token_uri), indent=2))
        return str(path)

    def _record(self, operation: str, principal: str, request: Any) -> None:
        self.calls.append(Call(operation, principal, request))


def main(arguments: list[str] | None = None) -> None:
    """Runs the counterpart until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="counterparts.gcp_kms", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="port of gRPC; 0 for a free one")
    parser.add_argument("--token-port", type=int, default=0, help="port of HTTPS; 0 for a free one")
    parser.add_argument("--seed", type=Path, help="a JSON list of control calls")
    parser.add_argument("--out", type=Path, required=True, help="folder for certificates and keys")
    options = parser.parse_args(arguments)
    seed = json.loads(options.seed.read_text()) if options.seed else EXAMPLE
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    ports: dict[str, Any] = {"port": options.port, "token_port": options.token_port}
    with GcpKms(**ports, directory=options.out, control=True) as kms:
        files = [kms.control(order)["result"] for order in seed]
        sys.stdout.write(_directions(kms, [f for f in files if str(f).endswith(".json")]))
        sys.stdout.flush()
        stopped.wait()


def _directions(kms: GcpKms, key_files: list[str]) -> str:
    return "\n".join(
        [
            f"export GRPC_DEFAULT_SSL_ROOTS_FILE_PATH={kms.ca_file}",
            f"export REQUESTS_CA_BUNDLE={kms.ca_file}",
            *(f"export GOOGLE_APPLICATION_CREDENTIALS={path}" for path in key_files),
            f'# KeyManagementServiceClient(client_options={{"api_endpoint": "{kms.target}"}})',
            f"# tokens: {kms.token_uri}",
            f"# iam_endpoint_override: {kms.iam_uri}{_GENERATE}",
            f"# control: POST {kms.iam_uri}/control",
            "ready",
            "",
        ]
    )


if __name__ == "__main__":
    main()
