"""The catalog: which providers there are, which key uris are whose, and each provider on first use.

One table, made of the entry points of the group `keyfold.providers`: by type an `Entry`, which says
how the provider's uris look, what brings its SDK, how the server makes it from the settings, and
whether the settings set it up. Keyfold's own entries stand in `pyproject.toml` and in each
provider's package; another package's come in by the same way. Nothing else lists providers.

Invariant: a type and a key uri belong to one provider at most, and no package takes over those of
another: the server refuses to start. The SDK of a provider is imported on the provider's first use,
so one that is missing or broken takes its own provider out and no other. This module must not know
the settings, nor import a provider.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NoReturn

from keyfold_server.domain.errors import KeyfoldError, SetupError, UnknownProviderError
from keyfold_server.domain.keyspec import PLATFORM
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.providers.shared.entry import Entry, Setup
from keyfold_server.providers.shared.origins import allowed_origins, canonical_origin
from keyfold_server.providers.shared.patterns import UriPattern

_log = logging.getLogger(__name__)

ENTRY_POINTS: Final = "keyfold.providers"
"""The entry point group of providers."""

_OWN: Final = "keyfold"
"""The package whose entries come first, so that another package's is the one that is refused."""

_TYPE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def installed() -> dict[str, Entry]:
    """Returns the entry of every provider whose package is installed, by type.

    A package whose entry cannot be imported takes out its own provider: its entry is there, and
    making the provider says why it does not load.

    Raises:
        SetupError: A package adds something that is not a provider, or claims a type or key uris
            of another. The order of installation would decide who gets key material, so the
            server chooses neither.
    """
    entries: dict[str, Entry] = {}
    owners: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=_own_first):
        if _TYPE.fullmatch(point.name) is None:
            raise SetupError(
                f"{_package(point)} adds a provider {point.name!r}, which is not a type; a type "
                "has capitals, digits and underscores, such as ACME_KMS"
            )
        if point.name == PLATFORM or point.name in entries:
            raise SetupError(
                f"{_package(point)} adds a provider {point.name} ({point.value}), but that type is "
                f"taken{_by(owners.get(point.name))}"
            )
        entry = _loaded(point)
        for type_, other in entries.items():
            _refuse_overlap(point, entry, type_, other)
        entries[point.name] = entry
        owners[point.name] = point
    return entries


def _own_first(point: EntryPoint) -> tuple[bool, str]:
    return (not _is_own(point), point.name)


def _is_own(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == _OWN


def _package(point: EntryPoint) -> str:
    return "an installed package" if point.dist is None else f"the package {point.dist.name}"


def _by(owner: EntryPoint | None) -> str:
    """Says who has a type, and what to remove; None: the type is Keyfold's without a package."""
    if owner is None or _is_own(owner):
        return "; remove the package"
    return f" by {_package(owner)} ({owner.value}); remove one of them"


def _loaded(point: EntryPoint) -> Entry:
    """Imports an entry."""
    try:
        entry = point.load()
    except Exception as error:  # noqa: BLE001  any error of a package's code is that package's
        _log.warning("provider %s does not load: %s", point.name, type(error).__name__)
        # Kept as it is now: each time that it is raised, Python would add to its traceback.
        why, trace = error, error.__traceback__

        def fail(_: Setup) -> NoReturn:
            raise why.with_traceback(trace)

        return Entry(make=fail, example="", loads=False)
    if not isinstance(entry, Entry):
        raise SetupError(
            f"{_package(point)} adds a provider {point.name}, but {point.value} is not an Entry of "
            "keyfold_server.providers.shared.entry; remove the package"
        )
    return entry


def _refuse_overlap(point: EntryPoint, entry: Entry, type_: str, other: Entry) -> None:
    """Raises SetupError where two providers claim the same table or the same key uris."""
    if entry.table and entry.table == other.table:
        raise SetupError(
            f"{_package(point)} adds a provider {point.name} that reads the settings "
            f"[providers.{entry.table}], but they are those of {type_}; remove the package"
        )
    for mine, others in itertools.product(entry.uris, other.uris):
        if UriPattern(mine).overlaps(UriPattern(others)):
            raise SetupError(
                f"{_package(point)} adds a provider {point.name} that claims key uris such as "
                f"{mine}, but some of them belong to {type_} ({others}); remove the package"
            )


class Catalog:
    """The providers of one server, each made on first use. Safe for many threads."""

    def __init__(
        self,
        entries: Mapping[str, Entry],
        setup: Callable[[Entry], Setup] = lambda _: Setup(),
        *,
        platform: bool = False,
    ) -> None:
        """Takes the entries, and checks the settings of each; makes no provider yet.

        Args:
            entries: By type, as `installed` returns them.
            setup: Returns what the settings hold for an entry.
            platform: Whether the settings name the vendor's own keys, so that key specs may name
                PLATFORM.

        Raises:
            SetupError: A provider's settings cannot work.
        """
        self._entries = dict(entries)
        self._further = (PLATFORM,) if platform else ()
        self._setups = {type_: setup(entry) for type_, entry in self._entries.items()}
        self._set_up = {
            type_ for type_, entry in self._entries.items() if entry.is_set_up(self._setups[type_])
        }
        # A lock for each: importing one provider's SDK takes seconds, and must not hold up
        # calls to the others.
        self._locks = {
            type_: threading.Lock()
            for type_, entry in self._entries.items()
            if type_ in self._set_up or not entry.only_if_set_up
        }
        for type_ in self._locks:
            self._check(type_)
        self._made: dict[str, KeyProvider] = {}

    def _check(self, type_: str) -> None:
        """Raises SetupError where a provider's settings cannot work."""
        try:
            self._entries[type_].check(self._setups[type_])
        except SetupError:
            raise
        except Exception as error:
            raise SetupError(
                f"provider {type_} cannot read its settings ({type(error).__name__}); have its "
                "package mended, or remove it"
            ) from error

    def types(self) -> tuple[str, ...]:
        """Returns the types of the providers that the server offers, sorted."""
        return tuple(sorted(self._locks))

    def set_up(self) -> tuple[str, ...]:
        """Returns the types that the settings set up, sorted."""
        return tuple(sorted(self._set_up))

    def in_environment(self) -> tuple[str, ...]:
        """Returns the types whose credential the environment holds, sorted."""
        return tuple(
            type_
            for type_ in self.types()
            if any(os.environ.get(name) for name in self._entries[type_].environment)
        )

    def start(self) -> None:
        """Makes the providers that exist only because the settings set them up.

        What they have to say to the operator then stands at the beginning of the log.

        Raises:
            SetupError: The settings of one cannot work.
        """
        for type_ in self.types():
            if self._entries[type_].only_if_set_up:
                try:
                    self.provider(type_)
                except UnknownProviderError as error:
                    # Its own calls will say so, too; the other providers serve.
                    _log.error("%s", error.message)

    def type_of(self, uri: str) -> str:
        """Returns the type of the provider that a key uri belongs to.

        Raises:
            UnknownProviderError: It belongs to no provider, or several could have it.
        """
        origin, path = _split(uri)
        for type_, entry in self._entries.items():
            if any(UriPattern(pattern).matches(origin + path) for pattern in entry.uris):
                return type_
        found = [
            type_
            for type_, entry in self._entries.items()
            if origin in allowed_origins(self._setups[type_].allowed_endpoints)
            and any(UriPattern(pattern).matches(path) for pattern in entry.endpoint_paths)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownProviderError(
                f"the key uri could be one of {' or '.join(found)}; give the type, too",
                field="key_spec.uri",
            )
        examples = ", ".join(entry.example for entry in self._entries.values() if entry.uris)
        raise UnknownProviderError(
            "no provider is known by such a key uri; give the type, too, or a uri that looks like "
            f"one of: {examples}",
            field="key_spec.uri",
        )

    def provider(self, type_: str) -> KeyProvider:
        """Returns the provider of a type.

        Raises:
            UnknownProviderError: No such type exists, or its provider does not load.
            SetupError: The settings of the provider cannot work.
        """
        made = self._made.get(type_)
        if made is not None:
            return made
        if type_ not in self._locks:
            known = sorted((*self._locks, *self._further))
            raise UnknownProviderError(
                f"there is no provider {type_}; the types are: {', '.join(known)}",
                field="key_spec.type",
            )
        with self._locks[type_]:
            if type_ not in self._made:
                self._made[type_] = self._make(type_)
            return self._made[type_]

    def _make(self, type_: str) -> KeyProvider:
        """Makes a provider. A failure is not remembered: the next call tries again."""
        entry = self._entries[type_]
        remedy = f"install {entry.install}" if entry.install else "install what it needs"
        try:
            return entry.make(self._setups[type_])
        except KeyfoldError:
            raise
        except ImportError as error:
            why = (
                f"needs the package {error.name or 'of its extra'}, which is not installed or does "
                f"not load; {remedy}"
            )
            raise UnknownProviderError(f"provider {type_} {why}", field="key_spec.type") from error
        except Exception as error:
            # An SDK that breaks when it is imported raises what it likes. Its text may hold a
            # credential, so the log gets the place instead.
            at = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{at.filename}:{at.lineno}"
            _log.error(
                "provider %s could not be made: %s at %s", type_, type(error).__name__, place
            )
            raise UnknownProviderError(
                f"provider {type_} could not be made ({type(error).__name__}); {remedy}, and see "
                "the server's log",
                field="key_spec.type",
            ) from error


def _split(uri: str) -> tuple[str, str]:
    """Returns a uri's origin in its one form, and the rest; other uris have no origin."""
    scheme, mark, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    origin = canonical_origin(scheme + mark + host)
    return ("", uri) if origin is None else (origin, slash + path)
