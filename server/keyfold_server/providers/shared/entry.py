"""A provider's entry: what a package tells the server about the provider that it adds.

The entry point group `keyfold.providers` of an installed package maps a type, such as `ACME_KMS`,
to an `Entry`. Keyfold's own providers come in the same way. The server imports every entry when it
starts, so the module of an entry must not import an SDK: `Entry.make` does, on first use. This
module must not know any provider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keyfold_server.domain.provider import KeyProvider


@dataclass(frozen=True, slots=True)
class Setup:
    """The part of the server's settings that one provider reads.

    Attributes:
        table: The table `[providers.NAME]` of the settings file, as TOML gives it; empty where
            the file does not have one. `Entry.table` says which NAME.
        allowed_endpoints: The origins of KEYFOLD_ALLOWED_ENDPOINTS, as the operator wrote them.
        settings: Values of the settings that `Entry.settings` names.
    """

    table: Mapping[str, Any] = field(default_factory=dict)
    allowed_endpoints: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def _always(_: Setup) -> bool:
    return True


def _nothing(_: Setup) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Describes a provider to the server.

    Attributes:
        make: Makes the provider. The server calls it at most once, when the provider is first
            used, and this is where the SDK is imported. It raises SetupError where the settings
            cannot work.
        example: A key uri with capitals for what varies, for error messages.
        uris: Patterns of the key uris that belong to this provider, whatever the settings say; see
            `patterns.UriPattern`. No two providers may claim the same uri, so a server with two
            such packages does not start. A provider may leave them empty: operators then write the
            type before the uri of a PLATFORM key.
        endpoint_paths: Patterns of the part of a key uri that follows an origin of
            KEYFOLD_ALLOWED_ENDPOINTS. Other providers may have the same ones.
        install: The package that brings the SDK, for the message if an import fails, such as
            `keyfold[aws]`.
        table: NAME of the table `[providers.NAME]` that the provider reads; empty if it does not
            read one.
        other_table: The table of the settings file that the provider reads in place of
            `[providers.NAME]`, as an operator writes it, for messages. It is for Keyfold's own
            providers, like `settings`.
        settings: Names of further settings that the provider reads. These are for Keyfold's own
            providers; a package of your own has its table.
        check: Raises SetupError where the provider cannot be made from these settings. The server
            calls it when it starts, for each type that exists, so it must not import the SDK.
        is_set_up: Says whether the settings set the provider up. `keyfold-server check` makes
            those that are.
        environment: Variables of the environment, one of which is set where the environment holds
            the credential of the provider. `keyfold-server check` then tries it, too.
        only_if_set_up: Whether the type exists only where the settings set the provider up. The
            server makes such a provider when it starts.
        loads: False where the package's entry could not be imported; `make` then raises the
            reason. A package leaves it out.
    """

    make: Callable[[Setup], KeyProvider]
    example: str
    uris: tuple[str, ...] = ()
    endpoint_paths: tuple[str, ...] = ()
    install: str = ""
    table: str = ""
    other_table: str = ""
    settings: tuple[str, ...] = ()
    check: Callable[[Setup], object] = _nothing
    is_set_up: Callable[[Setup], bool] = _always
    environment: tuple[str, ...] = ()
    only_if_set_up: bool = False
    loads: bool = True
