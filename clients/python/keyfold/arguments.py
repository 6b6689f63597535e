"""What a caller passes, held against the type hints of the function that takes it.

The hints are what the documentation says already, so nothing can be right by one and wrong by the
other. A value of the wrong type is named with its place, such as `region_specs[0].key_spec.uri`,
and never shown: it may be a key.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from keyfold.errors import ArgumentTypeError, ArgumentValueError, KeyfoldError

P = ParamSpec("P")
R = TypeVar("R")

Check: TypeAlias = Callable[[Any, str], Any]
"""Takes a value and the name of its place, and returns the value as the function gets it.

It raises ArgumentTypeError for a value of another type. An iterable comes back as a list, because
looking at it may have used it up.
"""

_LEAVES: Final = (str, bytes, int, float, bool, type(None))
"""The types that a look at the type alone is enough for."""

_NOT_LISTS: Final = (str, bytes, bytearray, memoryview, Mapping)
"""What can be iterated over and is no list of what it holds: each letter would count as a name."""

_CODE: Final = "INVALID_ARGUMENT"


class _Parameter(typing.NamedTuple):
    name: str
    exact: type | None
    check: Check


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function check its arguments, each by its hint.

    What the function itself, or protobuf below it, finds wrong with a value becomes an
    ArgumentValueError. The error knows the cluster, if the function takes one.

    Raises:
        ArgumentTypeError: An argument, or a part of it, has another type than its hint.
        ArgumentValueError: A value cannot be used.
    """
    order: tuple[_Parameter, ...] = ()
    by_name: dict[str, _Parameter] = {}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal order, by_name
        if not order:
            order = _parameters(function)
            by_name = {one.name: one for one in order}
        try:
            passed = [
                # Most arguments have exactly the type of their hint.
                value if type(value) is exact else check(value, name)
                for (name, exact, check), value in zip(order, args, strict=False)
            ]
            named = kwargs and {
                name: by_name[name].check(value, name) if name in by_name else value
                for name, value in kwargs.items()
            }
            # Python itself says that there are too many.
            return function(*passed, *args[len(order) :], **named)  # type: ignore[arg-type]
        except (KeyfoldError, ValueError, OverflowError) as error:
            given = dict(zip(by_name, args, strict=False)) | kwargs
            found = error if isinstance(error, KeyfoldError) else _unusable(given, error)
            cluster = given.get("cluster")
            if found.cluster is None and isinstance(cluster, str):
                found.cluster = cluster
            if found is error:
                raise
            raise found from error

    return call


def taken(hint: Any, value: Any, name: str) -> Any:
    """Returns a value as `checked` hands it over, for functions that it cannot surround.

    Raises:
        ArgumentTypeError: It has another type than the hint.
    """
    return check_of(hint)(value, name)


def expect(kind: type, **given: object) -> None:
    """Checks the types of arguments, by their names, where `checked` would take too long.

    Raises:
        ArgumentTypeError: One has another type.
    """
    for name, value in given.items():
        if type(value) is not kind and (not isinstance(value, kind) or isinstance(value, bool)):
            raise wrong_type(name, kind.__name__, value)


def wrong_type(name: str, wanted: str, came: object) -> ArgumentTypeError:
    """Returns the error about an argument of a wrong type, of which it shows the type only."""
    what = "None" if came is None else type(came).__name__
    if isinstance(came, _NOT_LISTS) and wanted.startswith("a list"):
        what = f"one {what}"
    return ArgumentTypeError(f"{name} must be {wanted}, not {what}", code=_CODE)


def wrong_value(message: str) -> ArgumentValueError:
    """Returns the error about an argument whose value cannot be used."""
    return ArgumentValueError(message, code=_CODE)


def _parameters(function: Callable[..., Any]) -> tuple[_Parameter, ...]:
    hints = typing.get_type_hints(function)
    return tuple(
        _Parameter(name, _exact(hints.get(name, Any)), check_of(hints.get(name, Any)))
        for name in inspect.signature(function).parameters
    )


def _unusable(given: Mapping[str, Any], error: Exception) -> ArgumentValueError:
    """Returns the error about a value that protobuf does not take."""
    leaves = list(_leaves(given))
    for text, name in leaves:
        if isinstance(text, str) and not _is_text(text):
            return wrong_value(
                f"{name} has one half of a surrogate pair, which is no character; look at how the "
                "text was decoded"
            )
    kinds = (int, float, timedelta, datetime)
    names = [name for value, name in leaves if value and isinstance(value, kinds)]
    return wrong_value(f"{' or '.join(names) or 'an argument'} cannot be used: {error}")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _leaves(value: Any, name: str = "") -> Iterator[tuple[Any, str]]:
    """Yields what a value holds, each with the name of its place."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield key, f"a key of {name}"
            yield from _leaves(part, f"{name}[{key!r}]" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            yield from _leaves(part, f"{name}[{place}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), f"{name}.{field.name}")
    elif not isinstance(value, bool):
        yield value, name


# --- the check of each kind of hint -----------------------------------------------------


@functools.cache
def check_of(hint: Any) -> Check:
    """Returns the check of a type hint."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return _union(hint)
    if origin is tuple and ... not in parts:
        return _places(hint)
    if origin in (Iterable, Sequence, tuple):
        # A field keeps what it is; an argument may be anything that can be read once.
        return _items(hint, keeps=origin is tuple)
    if origin in (Mapping, dict):
        return _pairs(hint, *parts)
    if isinstance(hint, type) and is_dataclass(hint):
        return _fields(hint)
    kind = origin or hint
    return _plain(kind) if isinstance(kind, type) and kind is not Any else _anything


def _exact(hint: Any) -> type | None:
    """Returns a type whose own instances need no look inside; None: there is none."""
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    return next((one for one in parts if one in _LEAVES), None)


def _anything(value: Any, _: str) -> Any:
    return value


def _plain(kind: type) -> Check:
    if getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False):
        return _anything
    takes = (int, float) if kind is float else kind
    number = kind in (int, float)

    def check(value: Any, name: str) -> Any:
        # Python counts True as 1, and whoever passes it has mistaken one argument for another.
        if not isinstance(value, takes) or (number and isinstance(value, bool)):
            raise wrong_type(name, _in_words(kind), value)
        return value

    return check


def _union(hint: Any) -> Check:
    kinds = {
        (int, float) if part is float else typing.get_origin(part) or part: check_of(part)
        for part in typing.get_args(hint)
    }
    # To ask an abstract class takes longer than everything else here.
    at_once = {dict if kind is Mapping else kind: one for kind, one in kinds.items()}

    def check(value: Any, name: str) -> Any:
        if one := at_once.get(type(value)):
            return one(value, name)
        for kind, one in kinds.items():
            if isinstance(value, kind):
                return one(value, name)
        raise wrong_type(name, _in_words(hint), value)

    return check


def _items(hint: Any, *, keeps: bool) -> Check:
    part = typing.get_args(hint)[0]
    takes, exact, one = (tuple, list) if keeps else Iterable, _exact(part), check_of(part)

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, takes) or isinstance(value, _NOT_LISTS):
            raise wrong_type(name, _in_words(hint), value)
        found = [
            item if type(item) is exact else one(item, f"{name}[{place}]")
            for place, item in enumerate(value)
        ]
        return value if keeps else found

    return check


def _places(hint: Any) -> Check:
    places = [(_exact(part), check_of(part)) for part in typing.get_args(hint)]

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, (tuple, list)) or len(value) != len(places):
            raise wrong_type(name, _in_words(hint), value)
        for place, ((exact, one), part) in enumerate(zip(places, value, strict=True)):
            if type(part) is not exact:
                one(part, f"{name}[{place}]")
        return value

    return check


def _pairs(hint: Any, key: Any, part: Any) -> Check:
    exact_key, exact, keys, values = _exact(key), _exact(part), check_of(key), check_of(part)

    def check(value: Any, name: str) -> Any:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise wrong_type(name, _in_words(hint), value)
        for left, right in value.items():
            if type(left) is not exact_key:
                keys(left, f"a key of {name}")
            if type(right) is not exact:
                values(right, f"{name}[{left!r}]")
        return value

    return check


def _fields(kind: type) -> Check:
    hints = typing.get_type_hints(kind)
    checks = [
        (one.name, _exact(hints[one.name]), check_of(hints[one.name])) for one in fields(kind)
    ]

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, kind):
            raise wrong_type(name, _in_words(kind), value)
        for field, exact, one in checks:
            part = getattr(value, field)
            if type(part) is not exact:
                one(part, f"{name}.{field}")
        return value

    return check


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _in_words(hint: Any) -> str:
    """Returns a hint in the words of an error."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        # Whoever has a bytearray knows that it is as good as bytes.
        left = [part for part in parts if part not in (type(None), bytearray, memoryview)]
        return " or ".join(map(_in_words, left))
    if origin is tuple and ... not in parts:
        return f"a tuple of {', '.join(map(_in_words, parts))}"
    if origin in (Iterable, Sequence, tuple):
        return f"a list of {_in_words(parts[0])}"
    if origin in (Mapping, dict):
        return f"a mapping of {_in_words(parts[0])} to {_in_words(parts[1])}"
    kind = origin or hint
    return "a callable" if kind is Callable else str(getattr(kind, "__name__", kind))
