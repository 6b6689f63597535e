"""Makes a store with very many clusters, a hundred in each transaction.

That takes half a minute, so this module keeps the store in the cache folder of the project's tools,
under a digest of the code that made it. When the code changes, it makes a new store.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Final

import keyfold_server
from bench import bulk
from bench.cases import REGION
from builders import a_cluster, an_event
from keyfold_server.domain.binding import KEY_SIZE, Binding
from keyfold_server.domain.changes import Change, created
from keyfold_server.domain.cluster import Generation, Region, Wrap
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.providers.local.key_file import KeyFile
from keyfold_server.providers.local.provider import LocalProvider
from keyfold_server.service.clock import SystemClock
from keyfold_server.store.opening import open_store

ROOT_KEYS: Final = 500
"""Number of root keys; each has about as many clusters as any other."""

_GROUP: Final = 100
"""Number of changes in one transaction."""

_ROOMS: Final = ("domain", "providers", "store")
"""Packages whose code decides what the store contains."""


def cluster(number: int) -> str:
    """Returns a cluster's name."""
    return f"tenant-{number:06}"


def stocked(folder: Path, count: int, root_keys: int = ROOT_KEYS, *, in_bulk: bool = False) -> None:
    """Puts a store of `count` clusters and its root keys into a server's folder.

    Args:
        folder: The server's folder.
        count: The number of clusters.
        root_keys: The number of root keys, each with about as many clusters as any other.
        in_bulk: Makes the store by `bulk`, and takes its clusters as swept and used.
    """
    under = "" if root_keys == ROOT_KEYS else f"-under-{root_keys}"
    kept = _cache() / f"bench-{count}{under}{'-bulk' if in_bulk else ''}-{_digest()}"
    if not kept.exists():
        being_made = kept.with_name(f"{kept.name}.{os.getpid()}")
        being_made.mkdir(parents=True)
        try:
            _make(being_made, count, root_keys, in_bulk=in_bulk)
            being_made.rename(kept)
        finally:
            shutil.rmtree(being_made, ignore_errors=True)
    shutil.copytree(kept, folder, dirs_exist_ok=True)


def _cache() -> Path:
    """Returns the cache folder, which `scripts/lib.sh` also uses."""
    if own := os.environ.get("KEYFOLD_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyfold"


def _digest() -> str:
    package = Path(keyfold_server.__file__).parent
    code = [path for room in _ROOMS for path in sorted((package / room).rglob("*.py"))]
    made_of = hashlib.sha256()
    for path in (Path(__file__), Path(bulk.__file__), *code):
        made_of.update(path.read_bytes())
    return made_of.hexdigest()[:16]


def _make(folder: Path, count: int, root_keys: int, *, in_bulk: bool) -> None:
    keys = KeyFile(folder / "root-keys.json")
    for number in range(root_keys):
        keys.create(f"root-{number}")
    if in_bulk:
        _quiet()
        bulk.fill(folder, count, partial(enabling, root_keys=root_keys))
    else:
        add(folder, count, root_keys)


def add(folder: Path, count: int, root_keys: int = ROOT_KEYS) -> None:
    """Adds clusters, each with an entry of the log, to a server's store while no server runs.

    Args:
        folder: The server's folder. It has the root keys `root-0` and so on.
        count: The number of clusters.
        root_keys: The number of root keys, each with about as many clusters as any other.
    """
    _quiet()
    provider = LocalProvider(folder / "root-keys.json")
    store = open_store(f"sqlite:///{folder / 'keyfold.db'}", None, clock=SystemClock())
    try:
        for first in range(0, count, _GROUP):
            numbers = range(first, min(first + _GROUP, count))
            group = [enabling(provider, number, root_keys) for number in numbers]
            for result in store.apply(group):
                if isinstance(result, Exception):
                    raise result
    finally:
        store.close()


def _quiet() -> None:
    # The servers warn in their own logs that these root keys are for development.
    logging.getLogger("keyfold_server.providers").setLevel(logging.ERROR)


def enabling(provider: LocalProvider, number: int, root_keys: int = ROOT_KEYS) -> Change:
    """Returns the change that makes the cluster of a number, as Enable does."""
    name, root = cluster(number), RootKey("LOCAL", f"local:root-{number % root_keys}")
    binding = Binding(name, REGION, os.urandom(16), None)
    payload = bytes(binding.payload(bytearray(os.urandom(KEY_SIZE))))
    wrapped = provider.wrap(root, payload, binding, budget=1.0)
    at = int(time.time() * 1000)
    groups = KeyGroups(root.uri, provider.account(root))
    wrap = Wrap(1, root, wrapped.key_version, None, wrapped.ciphertext, at, groups)
    region = Region(
        name=REGION,
        state=State.ENABLED,
        state_since=at,
        key_spec=KeySpec(root.type, root.uri),
        policy=RegionPolicy(),
        generations=(Generation(binding.kek_id, 1, at, wrap),),
    )
    return Change(name, created(a_cluster(name, [region])), an_event())
