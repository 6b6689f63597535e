"""What the images of deploy/compose bring, for tests that run their programs without Docker."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import postgres
import prometheus
from counterparts.processes import installed

ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Image:
    """What an image brings.

    Attributes:
        programs: The folders of its programs.
        user: The user of the image; empty: root, until the entrypoint changes it.
        owner: The user who owns the image's own folder at a volume's place.
        entrypoint: The program, where the file names none.
        environment: The variables that it sets.
        stop: The signal that ends it.
    """

    programs: Callable[[], list[Path]]
    user: str = ""
    owner: str = "root"
    entrypoint: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    stop: signal.Signals = signal.SIGTERM


def _keyfold() -> Image:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stage = re.sub(r"\\\n\s*", " ", text.rpartition("\nFROM ")[2])
    (variables,) = re.findall(r"(?m)^ENV (.*)$", stage)
    (entrypoint,) = re.findall(r"(?m)^ENTRYPOINT (.*)$", stage)
    environment = dict(word.split("=", 1) for word in shlex.split(variables))
    environment.pop("PATH")
    return Image(
        lambda: [Path(sys.executable).parent],
        user=re.findall(r"(?m)^USER (.*)$", stage)[0],
        entrypoint=tuple(Path(word).name for word in json.loads(entrypoint)),
        environment=tuple(environment.items()),
    )


IMAGES: Final = {
    "keyfold": _keyfold(),
    "postgres": Image(
        lambda: [postgres.programs("18")],
        owner="postgres",
        environment=(("PGDATA", "/var/lib/postgresql/18/docker"),),
        stop=signal.SIGINT,
    ),
    "openbao/openbao": Image(lambda: [Path(installed("openbao.sh")).parent]),
    "prom/prometheus": Image(
        lambda: [prometheus.folder()], user="65534:65534", owner="65534", entrypoint=("prometheus",)
    ),
}

POSTGRES: Final = """
if ! [ -s "$PGDATA/PG_VERSION" ]; then
    initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \
        --auth-host=scram-sha-256 --auth-local=trust --no-sync --locale=C --encoding=UTF8
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c "listen_addresses=*" -c unix_socket_directories=/tmp -c fsync=off
"""
"""What the entrypoint of PostgreSQL's image does, as far as this file's settings go."""
