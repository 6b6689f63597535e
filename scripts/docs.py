"""Generates the reference pages that come from the code, or checks that they are up to date.

docs.py write    writes docs/errors.md and docs/configuration.md
docs.py check    fails if a committed page differs from the generated one
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from keyfold.cli.app import app as client
from keyfold_server import settings
from keyfold_server.domain.errors import (
    CouldNotTellError,
    IssuerUnreachableError,
    KekMismatchError,
    KeyfoldError,
    OverloadedError,
    RateLimitedError,
    RefusedError,
    RequestInProgressError,
    SetupError,
    StoreStaleError,
)
from keyfold_server.rpc.messages.status import DOMAIN, INTERNAL, code_of

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"

Error = type[KeyfoldError]

# --- errors ----------------------------------------------------------------------------

RETRY: Final[dict[Error, str]] = {
    RefusedError: "data plane",
    CouldNotTellError: "data plane",
    KekMismatchError: "data plane",
    OverloadedError: "yes",
    RateLimitedError: "yes",
    IssuerUnreachableError: "yes",
    StoreStaleError: "yes",
    RequestInProgressError: "mostly",
}
"""Classes of errors, and whether they carry RetryInfo. The nearest class up the tree decides."""

ERRORS_HEAD: Final = f"""\
# Errors

`make docs` generates this page from the code: the error tree in
`server/keyfold_server/domain/errors.py`, and the gRPC codes in `rpc/messages/status.py`.

Every error that Keyfold sends has a gRPC code, a message for people, and a `google.rpc.ErrorInfo`
of the domain `{DOMAIN}` with a **reason**: a stable word that programs may branch on. Messages may
change with any release; reasons do not. In a batch each failed item has a `google.rpc.Status` of
the same kind, and the other items succeed.

| detail | when | content |
|---|---|---|
| `ErrorInfo` | always | `reason` and, in `metadata`, those that Keyfold knows of `source`, \
`cluster`, `region`, `provider_request_id` (the KMS's own id of the call), `missing_permission` \
and `served_at` (the address that serves the region) |
| `RetryInfo` | if the table says so | how long to wait before trying again |
| `BadRequest` | if one field is wrong | the field's path, such as `region_specs[1].key_spec.uri` |

**source** says where the error comes from: `keyfold`, or `kms` for the customer's KMS.

**RetryInfo** says which errors carry it. *yes* means always. *data plane* means on Wrap, Unwrap,
GenerateDataKey, Rewrap and their batches, because Keyfold remembers the KMS's answer for some
seconds; but not if the region's `cache_ttl` is 0, because then every call goes to the KMS.
THROTTLED carries the KMS's own hint on every call, if the KMS gave one. *mostly* means while the
same server still carries out the first request.
"""

ERRORS_TAIL: Final = f"""\
## {INTERNAL}

`{INTERNAL}` is the reason of an error that Keyfold did not foresee: a defect. Its gRPC code is
INTERNAL, its source `keyfold`. Keyfold does not send the exception's text, since that may contain
what a caller sent. The metadata has an `incident`; find it in the server's log, and report the
defect with the log's lines of that incident.

## {SetupError.reason}

`{SetupError.reason}` never reaches a caller. A server, or one of `keyfold-server`'s own
commands, stops with it because of a wrong setting, a store or service key that it cannot use, or
a key file that is missing or half-written. The message is one line on stderr, and the exit code
is 2. {SetupError.remedy}

## What gRPC itself answers

The gRPC library makes these errors before a call reaches Keyfold, or without any server, so they
have no `ErrorInfo`. A client must use their code.

| code | message | when | what to do |
|---|---|---|---|
| UNIMPLEMENTED | Method not found! | No such service or method | Compare the stubs with the \
server's release; `grpcurl list` shows what it has |
| RESOURCE_EXHAUSTED | Received message larger than max | A request of more than 5 MiB. A smaller \
one that is too large gets INVALID_BATCH or MALFORMED_REQUEST from Keyfold | Split the batch |
| RESOURCE_EXHAUSTED | Decompressed message larger than max | The same for a compressed request | \
Split the batch |
| RESOURCE_EXHAUSTED | received metadata size exceeds … limit | Headers of more than 20 KiB, and \
sometimes from 16 KiB on | Send less metadata |
| RESOURCE_EXHAUSTED | Concurrent RPC limit exceeded! | Far more calls under way than \
`KEYFOLD_MAX_CONCURRENT_CALLS`, including health and reflection. With fewer calls Keyfold answers \
OVERLOADED | Wait a second and try again; run more replicas |
| DEADLINE_EXCEEDED | Deadline Exceeded | The client's own clock ran out before the server's \
answer arrived | Allow more time |
| UNAVAILABLE | failed to connect to all addresses | No server listens there, or it is \
draining and takes no further connections | Try another address; check that the server runs |
| CANCELLED | | The caller gave up. A change that it began goes on | Read the status, or repeat \
the request with the same request_id |
| NOT_FOUND | | `grpc.health.v1.Health/Check` of a service that the server does not have | Ask for \
`keyfold.v1.KeyManagementService`, or for no name |
"""


def leaves(branch: Error = KeyfoldError) -> Iterator[Error]:
    """Returns every error that has a reason of its own, including SetupError."""
    for child in branch.__subclasses__():
        if "reason" in vars(child):
            yield child
        yield from leaves(child)


def branches(branch: Error = KeyfoldError) -> Iterator[tuple[Error, list[Error]]]:
    """Returns each branch of the tree with its own leaves."""
    here = [child for child in branch.__subclasses__() if "reason" in vars(child)]
    deeper = [child for child in branch.__subclasses__() if "reason" not in vars(child)]
    wired = [child for child in here if child is not SetupError]
    for child in deeper:
        yield from branches(child)
    if wired:
        yield branch, wired


def retry(error: Error) -> str:
    """Returns the page's word for whether an error carries RetryInfo."""
    return next((RETRY[one] for one in error.__mro__ if one in RETRY), "no")


def errors_page() -> str:
    """Returns docs/errors.md."""
    parts = [ERRORS_HEAD]
    for branch, hanging in branches():
        if branch is KeyfoldError:
            parts.append("## Others\n")
        else:
            parts.append(f"## {_title(branch)}\n\n{_text(branch)}\n")
        rows = [
            (
                f"`{error.reason}`",
                code_of(error).name,
                error.source,
                retry(error),
                _text(error),
                error.remedy,
            )
            for error in hanging
        ]
        parts.append(
            _table(("reason", "code", "source", "RetryInfo", "meaning", "what to do"), rows)
        )
    return "\n".join([*parts, ERRORS_TAIL])


def _title(branch: Error) -> str:
    words = re.findall(r"[A-Z][a-z]*", branch.__name__.removesuffix("Error"))
    title = " ".join(words).lower().replace("kms", "KMS")
    return title[0].upper() + title[1:]


def _text(error: Error) -> str:
    return " ".join(inspect.cleandoc(error.__doc__ or "").split())


# --- configuration ---------------------------------------------------------------------

SAMPLES: Final[dict[str, object]] = {
    "tls_cert": "/run/keyfold/tls.pem",
    "tls_key": "/run/keyfold/tls.key",
    "tls_client_ca": "/run/keyfold/clients.pem",
    "policy": "/etc/keyfold/policy.toml",
    "jwt_issuer": "https://issuer.example",
    "jwt_audience": "keyfold",
    "jwt_jwks": "https://issuer.example/jwks.json",
    "store_listen": "postgresql://keyfold@db.example/keyfold",
    "service_key": "/etc/keyfold/service-key",
    "store_password_file": "/etc/keyfold/store-password",
    "local_keys": "/var/lib/keyfold/dev-keys.json",
    "allowed_endpoints": ["https://vault.example:8200"],
    "metrics": "127.0.0.1:9464",
    "metrics_clusters": ["prod"],
    "regions": {"eu": {"AWS_KMS": "eu-west-1", "GCP_CLOUD_KMS": ["europe-west1", "europe"]}},
    "served_at": {"eu": "eu.keyfold.example:7443", "*": "control.keyfold.example:7443"},
    "seats": [
        {
            "name": "eu-0001",
            "provider": "AWS_KMS",
            "region": "eu",
            "auth_principal": "arn:aws:iam::999988887777:role/seat-eu-0001",
        }
    ],
    "providers": {
        "aws": {
            "session_name": "keyfold",
            "principal": "arn:aws:iam::999988887777:role/keyfold-server",
        },
        "azure": {"instance_discovery": True},
        "gcp": {"endpoint": "cloudkms.googleapis.com"},
    },
    "vault": {
        "https://vault.example:8200": {
            "auth": "approle",
            "role": "keyfold",
            "role_id": "5f0c…",
            "credential": "/etc/keyfold/vault-secret-id",
        }
    },
    "platform_key": {"eu-central-1": "local:platform-eu", "us-east-1": "local:platform-us"},
}
"""Values of the sample file for settings whose default shows nothing."""

CONFIGURATION_HEAD: Final = f"""\
# Configuration

`make docs` generates this page from the code: the settings in `server/keyfold_server/settings/`,
and the options of the command line `keyfold`.

## The server

Set each setting as an environment variable, or as a line of the TOML file that `KEYFOLD_CONFIG`
names. The environment overrides the file. Every setting has a default with which a single machine
can start. The server does not start with a value outside its bounds, or with an unknown setting in
the file. It warns about an unknown variable that begins with `{settings.PREFIX}`, except those that
Kubernetes sets for a Service named `keyfold`, such as `{settings.PREFIX}PORT_7443_TCP`.

    keyfold-server check               says what is wrong with the settings and what they name
    keyfold-server --print-settings    prints the settings as a TOML file, and ends

`check` tries what a start needs, the credentials of each provider, and the root keys
([check.md](check.md) has the list). It changes nothing. Run it as the server's
user; it may run beside the server.

Write a duration with its unit: `500ms`, `60s`, `15m`, `24h`. In TOML a number without a unit is in
seconds.
"""

CLIENT_HEAD: Final = """\
## The client

The command line `keyfold` reads these variables; its options override them. The Python client does
not read the environment: pass these values to it.
"""


def configuration_page() -> str:
    """Returns docs/configuration.md."""
    rows = [
        (
            f"`{settings.PREFIX}{name.upper()}`",
            f"`{name}`",
            _default(field),
            _bounds(field),
            field.description or "",
        )
        for name, field in settings.Settings.model_fields.items()
    ]
    return "\n".join(
        [
            CONFIGURATION_HEAD,
            _table(("environment", "TOML", "default", "bounds", "meaning"), rows),
            f"This file has every setting:\n\n```toml\n{sample()}```\n",
            CLIENT_HEAD,
            _table(("environment", "option", "default", "meaning"), _client_rows()),
        ]
    )


def sample() -> str:
    """Returns a settings file with every setting."""
    shown = settings.Settings().shown()
    values = {name: shown.get(name) for name in settings.Settings.model_fields}
    given = {name: SAMPLES.get(name, value) for name, value in values.items()}
    return settings.toml(given)


def _toml(field: FieldInfo, value: object) -> str:
    if isinstance(value, float) and _is_duration(field):
        value = settings.duration(value)
    if isinstance(value, int) and _is_mode(field):
        value = settings.as_octal(value)
    return settings.toml_value(value)


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "unset"
    if isinstance(default, BaseModel | dict | list):
        return "empty"
    if isinstance(default, tuple):
        default = ",".join(default)
    return f"`{_toml(field, default).strip(chr(34))}`"


def _bounds(field: FieldInfo) -> str:
    bounds: list[str] = []
    for bound in field.metadata:
        if isinstance(bound, annotated_types.Ge):
            bounds.insert(0, f"at least {_number(field, bound.ge)}")
        elif isinstance(bound, annotated_types.Le):
            bounds.append(f"at most {_number(field, bound.le)}")
    return ", ".join(bounds)


def _number(field: FieldInfo, value: object) -> str:
    assert isinstance(value, int | float)  # noqa: S101  all our bounds are numbers
    if isinstance(value, int) and _is_mode(field):
        return settings.as_octal(value)
    return settings.duration(value) if _is_duration(field) else f"{value:,}"


def _is_mode(field: FieldInfo) -> bool:
    return any(getattr(one, "func", None) is settings.as_octal for one in field.metadata)


def _is_duration(field: FieldInfo) -> bool:
    return any(getattr(one, "func", None) is settings.seconds for one in field.metadata)


def _client_rows() -> list[tuple[str, ...]]:
    group = typer.main.get_command(client)
    found: dict[str, tuple[str, ...]] = {}
    for command in getattr(group, "commands", {}).values():
        for option in command.params:
            for name in [option.envvar] if isinstance(option.envvar, str) else option.envvar or ():
                default = "unset" if option.default is None else f"`{option.default}`"
                found[name] = (f"`{name}`", f"`{option.opts[0]}`", default, option.help or "")
    return list(found.values())


# --- both ------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(head)]
    cells.append(["---"] * len(cells[0]))
    cells += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells).replace("|  |", "| |")


def pages() -> dict[Path, str]:
    """Returns every generated page."""
    return {
        DOCS / "errors.md": errors_page(),
        DOCS / "configuration.md": configuration_page(),
    }


def stale() -> str:
    """Returns how the committed pages differ from the generated ones; empty if they do not."""
    found: list[str] = []
    for path, page in pages().items():
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        found += difflib.unified_diff(
            there.splitlines(), page.splitlines(), f"docs/{path.name}", "generated", n=0
        )
    return "\n".join(found)


def main() -> int:
    """Runs the command line."""
    match sys.argv[1:]:
        case ["write"]:
            for path, page in pages().items():
                path.write_text(page, encoding="utf-8")
        case ["check"]:
            if difference := stale():
                print(difference)
                print("docs: not the generated pages: run `make docs` and commit the result")
                return 1
            print("docs: up to date")
        case _:
            print("usage: docs.py write|check", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
