"""The Azure counterpart as a program of its own, for clients in any language.

It runs until SIGTERM or SIGINT. A seed describes its first state: a JSON list of calls to the
control object, `[{"call": "create_key", "name": "app"}, ...]`. While it runs, it takes the same
calls as `POST http://localhost:PORT/create_key` with the arguments as a JSON object, on a loopback
port without any authentication. It is a tool for tests and must not hold anything real.
"""

from __future__ import annotations

import argparse
import inspect
import json
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from counterparts.azure_errors import AzureError
from counterparts.azure_faults import Faults
from counterparts.azure_http import Listener
from counterparts.azure_key_vault import AzureKeyVault
from counterparts.azure_material import bad_parameter
from counterparts.azure_site import Answer, Request, RequestLog

CLIENT: Final = "11111111-2222-3333-4444-555555555555"
SECRET: Final = "counterpart-secret"  # of an application that exists in this program only
_CALLS: Final = frozenset(
    name
    for name, _ in inspect.getmembers(AzureKeyVault, inspect.isfunction)
    if not name.startswith("_") and name not in {"stop", "await_request"}
)


def call(azure: AzureKeyVault, name: str, given: Mapping[str, Any]) -> Any:
    """Makes one control call.

    Args:
        azure: The counterpart to control.
        name: Name of a public method of it.
        given: The method's arguments by name; `actions` is a list.

    Raises:
        AzureError: The call does not exist, or its arguments do not fit.
    """
    if name not in _CALLS:
        raise bad_parameter(f"there is no call '{name}'; there are {sorted(_CALLS)}")
    named = dict(given)
    actions = named.pop("actions", ())
    try:
        method = getattr(azure, name)
        if actions:
            return method(named.pop("principal"), named.pop("key"), *actions)
        return method(**named)
    except (KeyError, TypeError, ValueError) as error:
        raise bad_parameter(f"{name}: {error}") from None


class ControlSite:
    """The control calls over HTTP.

    Args:
        azure: The counterpart to control.
    """

    def __init__(self, azure: AzureKeyVault) -> None:
        self._azure = azure

    def operation(self, request: Request) -> str:
        """Names what a request asks for: always `control`."""
        return "control"

    def answer(self, request: Request) -> Answer:
        """Makes a call and answers with its result."""
        try:
            given = json.loads(request.body or b"{}")
        except ValueError:
            given = None
        if request.method != "POST" or len(request.path) != 1 or not isinstance(given, dict):
            raise bad_parameter("POST /CALL with the arguments as a JSON object")
        return Answer({"result": call(self._azure, request.path[0], given)})

    def values(self, request: Request) -> Mapping[str, str]:
        """Returns the values of the names in its errors: an empty mapping."""
        return {}

    def headers(self, request: Request) -> Mapping[str, str]:
        """Returns the headers of each answer: an empty mapping."""
        return {}


def seed(azure: AzureKeyVault, calls: list[dict[str, Any]]) -> list[Any]:
    """Makes the calls of a seed and returns their results.

    The words `$tenant`, `$vault` and `$hsm` in arguments stand for this counterpart's own.

    Raises:
        AzureError: A call does not fit.
    """
    words = {"$tenant": azure.tenant, "$vault": azure.vault_url, "$hsm": azure.hsm_url}
    results = []
    for given in calls:
        text = json.dumps(given)
        for word, value in words.items():
            text = text.replace(word, value)
        arguments = json.loads(text)
        results.append(call(azure, arguments.pop("call", ""), arguments))
    return results


def _default() -> list[dict[str, Any]]:
    who = f"$tenant/{CLIENT}"
    return [
        {"call": "register_application", "tenant": "$tenant", "client": CLIENT, "secret": SECRET},
        {"call": "create_key", "name": "app", "vault": "$vault"},
        {"call": "create_key", "name": "app", "vault": "$hsm"},
        {"call": "allow", "principal": who, "key": "$vault"},
        {"call": "allow", "principal": who, "key": "$hsm"},
    ]


_USAGE: Final = """
Azure counterpart is running. Trust {ca} and use, in Python:

    credential = ClientSecretCredential(TENANT, CLIENT, SECRET, authority="{authority}",
        disable_instance_discovery=True, connection_verify="{ca}")
    keys = KeyClient("{vault}", credential, verify_challenge_resource=False,
        connection_verify="{ca}")

    tenant           {tenant}
    vault            {vault}
    Managed HSM      {hsm}
    IMDS             AZURE_POD_IDENTITY_AUTHORITY_HOST={identity}
    App Service      IDENTITY_ENDPOINT={identity}/msi/token IDENTITY_HEADER={header}
    control          POST {control}/CALL
    all of this      {out}
"""


def main() -> None:
    """Runs the counterpart until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="counterparts.azure_key_vault", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="first of five ports; 0 for free ones")
    parser.add_argument("--seed", type=Path, help="JSON list of control calls")
    parser.add_argument("--out", type=Path, required=True, help="folder for ca.pem and azure.json")
    given = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    given.out.mkdir(parents=True, exist_ok=True)
    calls = json.loads(given.seed.read_text("utf-8")) if given.seed else _default()
    with AzureKeyVault(given.port) as azure:
        try:
            results = seed(azure, calls)
        except AzureError as error:
            parser.error(f"the seed: {error.values.get('message', error.name)}")
        control = Listener(
            ControlSite(azure), given.port and given.port + 4, None, Faults(), RequestLog()
        )
        control.start()
        try:
            _tell(azure, control.url, given.out, results, default=given.seed is None)
            ended.wait()
        finally:
            control.stop()


def _tell(
    azure: AzureKeyVault, control: str, out: Path, results: list[Any], *, default: bool
) -> None:
    ca = out.absolute() / "ca.pem"
    ca.write_bytes(azure.ca_pem)
    known = {
        "ca": str(ca),
        "tenant": azure.tenant,
        "authority": azure.authority,
        "vault": azure.vault_url,
        "hsm": azure.hsm_url,
        "identity": azure.identity_url,
        "header": azure.identity_header,
        "control": control,
        **({"client": CLIENT, "secret": SECRET} if default else {}),
        "seeded": results,
    }
    path = out.absolute() / "azure.json"
    path.write_text(json.dumps(known, indent=2) + "\n", "utf-8")
    shown = {**known, "out": str(path)}
    print(_USAGE.format_map(shown), flush=True)  # noqa: T201 (it says how to use it)
