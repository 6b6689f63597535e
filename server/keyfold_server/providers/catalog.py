"""Key management services that hold root keys: the catalog, and a module per provider.

The catalog maps a type, such as `LOCAL`, to its provider, which it makes on first use. A
provider's module, and so its SDK, is imported no earlier: a missing or broken one takes its own
provider out and no other. It must not know settings, nor import a provider's module itself.

A third party adds a provider through an entry point of the group `keyfold.providers`: its name
is the type, its object is called without arguments and returns the provider.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from keyfold_server.domain.errors import SetupError, UnknownProviderError
from keyfold_server.domain.keyspec import PLATFORM
from keyfold_server.domain.provider import KeyProvider

ENTRY_POINTS: Final = "keyfold.providers"
"""The entry point group of third-party providers."""

Maker = Callable[[], KeyProvider]
"""Makes a provider; called once, on first use."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a provider of our own is found.

    Attributes:
        module: The module, below this package.
        name: The class in it.
        uri: How the uris of its keys look, as a regular expression from their beginning; the
            provider itself judges the rest.
        extra: The extra that brings its SDK, empty where it needs none.
        example: Such a uri, for people.
    """

    module: str
    name: str
    uri: str
    extra: str
    example: str


_TABLE: Final[Mapping[str, _Entry]] = {
    "AWS_KMS": _Entry(
        "aws.provider", "AwsKmsProvider", "arn:", "aws", "arn:aws:kms:REGION:ACCOUNT:key/ID"
    ),
    "AZURE_KEY_VAULT": _Entry(
        "azure.provider",
        "AzureKeyVaultProvider",
        r"https?://[^/]+/keys/",
        "azure",
        "https://VAULT.vault.azure.net/keys/KEY",
    ),
    "GCP_CLOUD_KMS": _Entry(
        "gcp.provider",
        "GcpKmsProvider",
        "projects/",
        "gcp",
        "projects/P/locations/L/keyRings/R/cryptoKeys/K",
    ),
    "LOCAL": _Entry("local.provider", "LocalProvider", "local:", "", "local:NAME"),
    "VAULT_TRANSIT": _Entry(
        "vault.provider",
        "VaultTransitProvider",
        r"https?://[^/]+/v1/",
        "vault",
        "https://HOST:8200/v1/transit/keys/KEY",
    ),
}


def type_of(uri: str) -> str:
    """Returns the provider type that a key uri tells.

    Raises:
        UnknownProviderError: No provider's uris look like that.
    """
    for type_, entry in _TABLE.items():
        if re.match(entry.uri, uri):
            return type_
    examples = ", ".join(entry.example for entry in _TABLE.values())
    raise UnknownProviderError(
        f"the key uri tells no provider; it must look like one of: {examples}",
        field="key_spec.uri",
    )


def maker(type_: str, *args: Any, **kwargs: Any) -> Maker:
    """Returns what makes a provider of our own, for the catalog; imports nothing yet.

    Args:
        type_: A type of the table.
        *args: What the provider's class takes.
        **kwargs: The same, by name.
    """
    entry = _TABLE[type_]

    def make() -> KeyProvider:
        module = importlib.import_module(f"keyfold_server.providers.{entry.module}")
        provider: KeyProvider = getattr(module, entry.name)(*args, **kwargs)
        return provider

    return make


def third_party() -> dict[str, Maker]:
    """Returns what makes each provider that installed packages add; imports none of them yet.

    Raises:
        SetupError: A package claims a type that is taken. Which one came first would decide who
            is handed key material, so nothing is chosen.
    """
    makers: dict[str, Maker] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in _TABLE or point.name == PLATFORM or point.name in makers:
            raise SetupError(
                f"an installed package adds a provider {point.name} ({point.value}), but that "
                "type is taken; remove the package"
            )
        makers[point.name] = _loader(point)
    return makers


def _loader(point: EntryPoint) -> Maker:
    def make() -> KeyProvider:
        provider: KeyProvider = point.load()()
        return provider

    return make


class Catalog:
    """The providers of one server, each made on first use. Safe for many threads."""

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        """Takes what makes each provider, by type."""
        self._makers = dict(makers)
        # A lock for each: importing one provider's SDK takes seconds, and must not hold up
        # calls to the others.
        self._locks = {type_: threading.Lock() for type_ in self._makers}
        self._made: dict[str, KeyProvider] = {}

    def types(self) -> tuple[str, ...]:
        """Returns the types that there are, sorted."""
        return tuple(sorted(self._makers))

    def provider(self, type_: str) -> KeyProvider:
        """Returns the provider of a type.

        Raises:
            UnknownProviderError: There is none of that type, or its package is not installed.
        """
        made = self._made.get(type_)
        if made is not None:
            return made
        if type_ not in self._makers:
            raise UnknownProviderError(
                f"there is no provider {type_}; the types are: {', '.join(self.types())}",
                field="key_spec.type",
            )
        with self._locks[type_]:
            if type_ not in self._made:
                self._made[type_] = self._make(type_)
            return self._made[type_]

    def _make(self, type_: str) -> KeyProvider:
        try:
            return self._makers[type_]()
        except ImportError as error:
            # Not remembered: the next call tries again, and names the package again.
            extra = _TABLE[type_].extra if type_ in _TABLE else ""
            remedy = f"install keyfold[{extra}]" if extra else "install what it needs"
            raise UnknownProviderError(
                f"provider {type_} needs the package {error.name or 'of its extra'}, which is "
                f"not installed or does not load; {remedy}",
                field="key_spec.type",
            ) from error
