"""The entry of LOCAL: its key uris, and the setting of its key file."""

from __future__ import annotations

from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.shared.entry import Entry, Setup


def _make(setup: Setup) -> KeyProvider:
    from keyfold_server.providers.local.provider import LocalProvider

    return LocalProvider(setup.settings["local_keys"])


ENTRY = Entry(
    make=_make,
    uris=("local:**",),
    example="local:NAME",
    settings=("local_keys",),
    is_set_up=lambda setup: setup.settings.get("local_keys") is not None,
    only_if_set_up=True,
)
