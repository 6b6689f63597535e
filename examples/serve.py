"""Runs a server to try things on, until Ctrl-C: `make serve`.

The server keeps its store and its key file in a folder, `~/.local/share/keyfold-dev` or
KEYFOLD_DEV_DIR, so that your clusters are still there the next time. It listens on 127.0.0.1:7443
or KEYFOLD_LISTEN, and every other KEYFOLD_* setting works as usual. This program makes the root
keys `local:eu` and `local:us` if they are missing, prints commands to try, and becomes the server.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PROGRAMS: Final = Path(sys.executable).parent
REGIONS: Final = ("eu", "us")
COMMAND_TIMEOUT: Final = 30.0

LINES: Final = """\
# In another terminal, first:
export PATH={programs}:"$PATH" KEYFOLD_TARGET={target}

# List and describe the service
grpcurl -plaintext {target} list
grpcurl -plaintext {target} describe {service}

# Make a cluster in two regions, each under its own root key
grpcurl -plaintext -d '{request}' {target} {service}/Enable
keyfold enable try --file {specs}

# Get a data key
grpcurl -plaintext -d '{{"cluster": "try", "region": "eu"}}' {target} {service}/GenerateDataKey
WRAPPED=$(keyfold generate-data-key try --region eu --wrapped-only --base64)

# Unwrap it
OPEN='{{"cluster": "try", "wrapped_key": "'"$WRAPPED"'"}}'
grpcurl -plaintext -d "$OPEN" {target} {service}/Unwrap
echo "$WRAPPED" | keyfold unwrap try --base64

# Look at the cluster
grpcurl -plaintext -d '{{"cluster": "try"}}' {target} {service}/GetStatus
keyfold status try

# Revoke the cluster, and restore it
grpcurl -plaintext -d '{{"cluster": "try"}}' {target} {service}/Revoke
grpcurl -plaintext -d '{{"cluster": "try"}}' {target} {service}/Restore
keyfold revoke try --yes
keyfold restore try
"""


def settings(folder: Path) -> dict[str, str]:
    """Returns the server's environment: this process's, with defaults for what it lacks."""
    return {
        "KEYFOLD_LISTEN": "127.0.0.1:7443",
        "KEYFOLD_STORE": f"sqlite:///{folder / 'keyfold.db'}",
        "KEYFOLD_LOCAL_KEYS": str(folder / "keys.json"),
    } | os.environ


def chosen_port(listen: str) -> str:
    """Returns the address with a free port in place of port 0, for the commands to try."""
    host, _, port = listen.rpartition(":")
    if listen.startswith("unix:") or port != "0":
        return listen
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host.strip("[]"), 0))
        return f"{host}:{probe.getsockname()[1]}"


def make_keys(environment: dict[str, str]) -> None:
    """Makes the root keys that are missing.

    Raises:
        subprocess.SubprocessError: keyfold-server failed, and has printed why.
    """
    if Path(environment["KEYFOLD_LOCAL_KEYS"]).exists():
        listed = dev_keys(environment, "list", "--json")
        there = {key["name"] for key in json.loads(listed)}
    else:
        there = set()
    for name in REGIONS:
        if name not in there:
            print(dev_keys(environment, "create", name), end="")


def dev_keys(environment: dict[str, str], *words: str) -> str:
    """Runs `keyfold-server dev-keys` and returns its output."""
    return subprocess.run(
        [PROGRAMS / "keyfold-server", "dev-keys", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=COMMAND_TIMEOUT,
        check=True,
    ).stdout


def lines(target: str) -> str:
    """Returns the commands to paste into another terminal; they work in any folder."""
    specs = ROOT / "examples" / "cmek_config.json"
    request = {"cluster": "try"} | json.loads(specs.read_text())
    return LINES.format(
        programs=shlex.quote(str(PROGRAMS)),
        target=shlex.quote(target),
        service="keyfold.v1.KeyManagementService",
        specs=shlex.quote(str(specs)),
        request=json.dumps(request),
    )


def main() -> int:
    """Prepares, prints the commands, and becomes the server. It returns only if that fails."""
    try:
        given = os.environ.get("KEYFOLD_DEV_DIR")
        folder = Path(given or "~/.local/share/keyfold-dev").expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = settings(folder)
        listen = chosen_port(environment["KEYFOLD_LISTEN"])
        if listen != environment["KEYFOLD_LISTEN"]:
            environment.setdefault("KEYFOLD_METRICS", "127.0.0.1:0")
        environment["KEYFOLD_LISTEN"] = listen
        # The server does not know this setting.
        environment.pop("KEYFOLD_DEV_DIR", None)
        make_keys(environment)
        print(f"The server keeps its keys and its store in {folder}. Ctrl-C ends it.\n")
        print(lines(listen), flush=True)
        program = PROGRAMS / "keyfold-server"
        os.execve(program, [str(program)], environment)  # noqa: S606  one process, one Ctrl-C
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"serve: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
