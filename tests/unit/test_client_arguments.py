"""Arguments of wrong types: every public method names what came, and what it wants."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keyfold
from keyfold.calls.call import Call
from keyfold.envelope.keys import Bounds
from keyfold.transport.line import Line

KEY: Final = keyfold.KeySpec("LOCAL", "local:acme")


class Kind(NamedTuple):
    """What an argument takes.

    Attributes:
        good: A value that it takes.
        wrong: Values of types that it does not take, each with what the error says of it.
    """

    good: Any
    wrong: Mapping[str, Any]


def _plain(wanted: str, wrong: Iterable[Any], *, good: Any) -> Kind:
    """Returns the kind of an argument that takes one type and nothing inside it."""
    names = {type(one).__name__ if one is not None else "None": one for one in wrong}
    return Kind(good, {f" must be {wanted}, not {name}": one for name, one in names.items()})


TEXT: Final = _plain("str", [None, 7, b"one", ["one"], {}], good="one")
MAYBE_TEXT: Final = _plain("str", [7, b"one", ["one"], {}], good="one")
TRUTH: Final = _plain("bool", [None, 1, "no", []], good=True)
NUMBER: Final = _plain("int", [None, "1", 1.0, True, []], good=1)
SECONDS: Final = _plain("float", ["1", [], True], good=1.0)
TIME: Final = _plain("timedelta", [1, "1s", datetime(2026, 1, 1)], good=timedelta(seconds=1))  # noqa: DTZ001
BYTES: Final = _plain("bytes", [None, "text", 32, [1]], good=b"1")
CONTEXT: Final = Kind(
    {"id": "1"},
    {
        "['id'] must be str, not int": {"id": 1},
        "['id'] must be str, not bytes": {"id": b"1"},
        "['id'] must be str, not None": {"id": None},
        " must be a mapping of str to str, not str": "id",
        " must be a mapping of str to str, not list": [("id", "1")],
        "a key of context must be str, not int": {1: "id"},
    },
)
TEXTS: Final = Kind(
    ["one"],
    {
        " must be a list of str, not one str": "one",
        " must be a list of str, not one bytes": b"one",
        " must be a list of str, not None": None,
        " must be a list of str, not int": 7,
        "[1] must be str, not int": ["one", 7],
        "[0] must be str, not bytes": (one for one in [b"one"]),
    },
)
MAYBE_TEXTS: Final = Kind(
    ["one"], {what: one for what, one in TEXTS.wrong.items() if one is not None}
)
KEY_SPEC: Final = Kind(
    KEY,
    {
        " must be KeySpec, not dict": {"type": "LOCAL", "uri": "local:acme"},
        " must be KeySpec, not None": None,
        ".uri must be str, not int": keyfold.KeySpec("LOCAL", 7),  # type: ignore[arg-type]
        ".options['a'] must be str, not int": keyfold.KeySpec(
            "LOCAL",
            options={"a": 7},  # type: ignore[dict-item]
        ),
    },
)
REGION_SPECS: Final = Kind(
    [keyfold.RegionSpec("eu", KEY)],
    {
        "[0] must be RegionSpec, not dict": [{"region": "eu"}],
        " must be a list of RegionSpec, not one dict": {"region": "eu"},
        " must be a list of RegionSpec, not RegionSpec": keyfold.RegionSpec("eu"),
        "[0].key_spec must be KeySpec, not dict": [keyfold.RegionSpec("eu", {})],  # type: ignore[arg-type]
        "[0].key_spec.type must be str, not None": [
            keyfold.RegionSpec("eu", keyfold.KeySpec(None))  # type: ignore[arg-type]
        ],
        "[0].policy.cache_ttl must be timedelta, not int": [
            keyfold.RegionSpec("eu", policy=keyfold.RegionPolicy(cache_ttl=60))  # type: ignore[arg-type]
        ],
    },
)


def _items(kind: type[Any], name: str, field: str) -> Kind:
    """Returns the kind of the items of a batch."""
    return Kind(
        [b"1", kind(b"1")],
        {
            f"[1] must be {name} or bytes, not str": [b"1", "1"],
            f" must be a list of {name} or bytes, not one bytes": b"1",
            f" must be a list of {name} or bytes, not None": None,
            f"[0].{field} must be bytes, not str": [kind("1")],
            "[0].context['id'] must be str, not int": [kind(b"1", context={"id": 1})],
        },
    )


def _value(good: Any, **wrong: Mapping[str, Any]) -> Kind:
    """Returns the kind of a dataclass: no dict is taken for it, and its fields are checked."""
    kind = type(good)
    return Kind(
        good,
        {
            f" must be {kind.__name__}, not dict": {},
            f" must be {kind.__name__}, not str": "one",
            **{
                f".{field}{what}": kind(**{**_required(kind), field: one})
                for field, cases in wrong.items()
                for what, one in cases.items()
            },
        },
    )


def _required(kind: type[Any]) -> dict[str, str]:
    given = inspect.signature(kind).parameters.values()
    return {one.name: "one" for one in given if one.default is one.empty}


KINDS: Final[Mapping[str, Kind]] = {
    "cluster": TEXT,
    "region": TEXT,
    "organization": TEXT,
    "name": TEXT,
    "key_uri": TEXT,
    "geo": TEXT,
    "reason": TEXT,
    "etag": TEXT,
    "resume_token": TEXT,
    "cursor": TEXT,
    "session": TEXT,
    "caller": TEXT,
    "request_id": MAYBE_TEXT,
    "plaintext": BYTES,
    "wrapped_key": BYTES,
    "data": BYTES,
    "message": BYTES,
    "context": CONTEXT,
    "clusters": TEXTS,
    "regions": TEXTS,
    "anchors": TEXTS,
    "fields": MAYBE_TEXTS,
    "region_specs": REGION_SPECS,
    "key_spec": KEY_SPEC,
    "selector": _value(keyfold.KeySelector("local:acme"), uri=TEXT.wrong),
    "what_if": _plain("WhatIf", ["DISABLE", 1], good=keyfold.WhatIf.DISABLE),
    "destination": _value(keyfold.Destination(), region=TEXT.wrong),
    "action": _value(keyfold.OperationAction.recheck()),
    "scope": _value(keyfold.OperationScope.organization("acme")),
    "bounds": _plain("Bounds", [None, {}, 1], good=Bounds(1, 1, 1.0)),
    **dict.fromkeys(("timeout", "control_timeout"), SECONDS),
    **dict.fromkeys(("most", "waiting_period"), TIME),
    **dict.fromkeys(
        ("size", "count", "page_size", "generation", "seats", "max_concurrency"), NUMBER
    ),
    **dict.fromkeys(
        (
            "wrapped_only",
            "validate_only",
            "into_revoked",
            "new_generation",
            "only_named_regions",
            "bring_back",
            "all_regions",
            "newest_first",
            "dry_run",
            "states",
            "events",
        ),
        TRUTH,
    ),
}
"""The kind of each argument, by its name."""

OWN: Final[Mapping[tuple[str, str], Kind]] = {
    ("batch_wrap", "items"): _items(keyfold.WrapItem, "WrapItem", "plaintext"),
    ("batch_unwrap", "items"): _items(keyfold.UnwrapItem, "UnwrapItem", "wrapped_key"),
    ("batch_rewrap", "items"): _items(keyfold.RewrapItem, "RewrapItem", "wrapped_key"),
    ("list_clusters", "narrow"): _value(
        keyfold.ClusterFilter(),
        state={" must be State, not str": "ENABLED"},
        can_wrap={" must be bool, not int": 1},
    ),
    ("list_events", "narrow"): _value(
        keyfold.EventFilter(),
        kinds={
            " must be a list of EventKind, not one EventKind": keyfold.EventKind.DECISION,
            "[0] must be EventKind, not str": ("DECISION",),
        },
        start={" must be datetime, not str": "2026-01-01"},
    ),
    ("list_usage", "narrow"): _value(
        keyfold.UsageFilter(), span={" must be timedelta, not int": 60}
    ),
    ("watch", "narrow"): _value(keyfold.EventFilter(), cluster=TEXT.wrong),
    **{
        (method, "organization"): _value(
            keyfold.Organization("acme"),
            display_name=TEXT.wrong,
            cluster_patterns={
                " must be a list of str, not one str": "a*",
                "[0] must be str, not int": (1,),
            },
            default_key={" must be DefaultKey, not str": "LINKED"},
        )
        for method in ("create_organization", "update_organization")
    },
    **{
        (method, "key_link"): _value(
            keyfold.KeyLink("acme", "main"),
            key_spec={what: one for what, one in KEY_SPEC.wrong.items() if one is not None},
        )
        for method in ("create_key_link", "update_key_link")
    },
    **{(method, "key_link"): TEXT for method in ("get_key_link", "delete_key_link")},
}
"""The kinds of arguments whose name means another thing in another method."""

NOT_CHECKED: Final = {("watch", "on_break")}
"""A callable of the program's own, which the watch calls."""

MACHINERY: Final = ("close", "explained", "failure", "line", "send", "stream")
"""Methods that take no argument, or what only `keyfold.calls` makes."""

MAKER: Final = "with_token"
"""A method that makes no call, but a client; what it refuses is tested with clients below."""


class Unsent(keyfold.Client):
    """A client that sends nothing: what would be sent has passed every check."""

    def send(self, call: Call[Any, Any], *, timeout: float | None = None, **_: Any) -> Any:
        self.timeouts.of(call.plane, timeout)
        raise keyfold.UnavailableError("sent")

    def stream(self, call: Call[Any, Any], line: Line) -> Any:
        raise keyfold.UnavailableError("sent")


class AsyncUnsent(keyfold.AsyncClient):
    """The same for asyncio."""

    async def send(
        self,
        call: Call[Any, Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  as its base
        **_: Any,
    ) -> Any:
        self.timeouts.of(call.plane, timeout)
        raise keyfold.UnavailableError("sent")

    def stream(self, call: Call[Any, Any], line: Line) -> Any:
        raise keyfold.UnavailableError("sent")


def ask(method: str, arguments: Mapping[str, Any]) -> object:
    """Calls a method of the synchronous client, and reads what it yields."""
    with Unsent() as client:
        found = getattr(client, method)(**arguments)
        return list(found) if hasattr(found, "__iter__") else found


def ask_async(method: str, arguments: Mapping[str, Any]) -> object:
    """Calls a method of the client for asyncio, and reads what it yields."""

    async def run() -> object:
        async with AsyncUnsent() as client:
            found = getattr(client, method)(**arguments)
            if hasattr(found, "__aiter__"):
                return [one async for one in found]
            return await found

    return asyncio.run(run())


def methods() -> list[str]:
    """Returns the names of the client's public methods that take arguments."""
    found = inspect.getmembers(keyfold.Client, inspect.isfunction)
    calls = (name for name, _ in found if not name.startswith("_") and name != MAKER)
    return [name for name in calls if name not in MACHINERY]


def parameters(method: str) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of a method."""
    found = dict(inspect.signature(getattr(keyfold.Client, method)).parameters)
    del found["self"]
    return found


def kind_of(method: str, name: str) -> Kind:
    """Returns the kind of an argument."""
    return OWN.get((method, name)) or KINDS[name]


def required(method: str) -> dict[str, Any]:
    """Returns good values of the arguments that have no default."""
    return {
        name: kind_of(method, name).good
        for name, one in parameters(method).items()
        if one.default is one.empty
    }


def cases(method: str) -> Iterator[tuple[str, Any, str]]:
    """Yields each argument of a method with each wrong value, and what the error has to say."""
    for name, one in parameters(method).items():
        if (method, name) in NOT_CHECKED:
            continue
        for what, wrong in kind_of(method, name).wrong.items():
            if wrong is None and one.default is None:
                continue
            yield name, wrong, what if what.startswith("a key") else f"{name}{what}"


@pytest.mark.parametrize("asking", [ask, ask_async])
@pytest.mark.parametrize("method", methods())
def test_a_wrong_type_is_named(asking: Callable[..., object], method: str) -> None:
    """Nothing is sent, and the error names the argument, what came and what is wanted."""
    for name, wrong, said in cases(method):
        given = [b"one"] if inspect.isgenerator(wrong) else wrong  # a generator serves once
        with pytest.raises(keyfold.ArgumentTypeError) as raised:
            asking(method, {**required(method), name: given})
        error = raised.value
        assert error.message == said
        assert isinstance(error, keyfold.InvalidInputError)
        assert isinstance(error, TypeError)
        assert (error.reason, error.code) == ("ARGUMENT_TYPE", "INVALID_ARGUMENT")


_ODD: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.characters(categories=["Cs"])
    | st.timedeltas()
    | st.datetimes()
    | st.just(KEY)
    | st.just(object()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.tuples(inner)
        | st.builds(keyfold.RegionSpec, inner, inner, inner)
        | st.builds(keyfold.KeySpec, inner, inner, options=inner)
        | st.builds(keyfold.RegionPolicy, inner, inner)
        | st.builds(keyfold.EventFilter, inner, start=inner, last=inner, kinds=inner)
        | st.builds(keyfold.UsageFilter, inner, end=inner, span=inner)
        | st.builds(keyfold.WrapItem, inner, inner, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(data=st.data())
def test_whatever_comes_ends_as_an_error_of_keyfold(data: st.DataObject) -> None:
    """No method raises anything but KeyfoldError, whatever its arguments are."""
    method = data.draw(st.sampled_from([name for name in methods() if required(name)]))
    names = [name for name in parameters(method) if (method, name) not in NOT_CHECKED]
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True))
    arguments = required(method) | {name: data.draw(_ODD) for name in chosen}
    if method.startswith("batch_") or method == "generate_data_keys":
        with suppress(keyfold.KeyfoldError):
            results = ask(method, arguments)
            assert isinstance(results, list)
            assert {type(one) for one in results} <= {keyfold.UnavailableError}
        return
    with pytest.raises(keyfold.KeyfoldError):
        ask(method, arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": 7}, "target must be str or a list of str, not int"),
        ({"target": b"127.0.0.1:1"}, "target must be a list of str, not one bytes"),
        ({"target": [7]}, "target[0] must be str, not int"),
        ({"tls": {}}, "tls must be Tls, not dict"),
        (
            {"tls": keyfold.Tls(ca=7)},  # type: ignore[arg-type]
            "tls.ca must be str or PathLike or bytes, not int",
        ),
        ({"token": "hunter2"}, "token must be a path, such as"),
        ({"on_behalf_of": 7}, "on_behalf_of must be str, or a callable that returns one, not int"),
        ({"timeout": "10"}, "timeout must be float, not str"),
        ({"control_timeout": []}, "control_timeout must be float, not list"),
    ],
)
@pytest.mark.parametrize("client", [keyfold.Client, keyfold.AsyncClient])
def test_a_client_names_a_wrong_type(
    client: type[Any], arguments: dict[str, Any], said: str
) -> None:
    """A client is not made of what it cannot use, and a token is not shown."""
    with pytest.raises(keyfold.ArgumentTypeError, match=f"^{re.escape(said)}") as raised:
        client(**arguments)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("client", [keyfold.Client, keyfold.AsyncClient])
def test_another_token_of_a_wrong_type(client: type[Any]) -> None:
    """A client for a visitor's token is not made of what is no token, which is not shown."""
    for token in ("hunter2", b"hunter2", 7):
        with pytest.raises(keyfold.ArgumentTypeError, match=r"^token must be a path") as raised:
            client("127.0.0.1:1").with_token(token)
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"target": []}, keyfold.ArgumentValueError),
        ({"target": "nowhere"}, keyfold.ArgumentValueError),
        ({"target": ["127.0.0.1:1", "nowhere.invalid:2"]}, keyfold.UnavailableError),
        ({"tls": keyfold.Tls(cert=b"x")}, keyfold.ArgumentValueError),
        ({"tls": keyfold.Tls(ca="/nowhere/ca.pem")}, keyfold.FileUnreadableError),
        ({"tls": keyfold.Tls(ca="a\0b")}, keyfold.ArgumentValueError),
        ({"token": Path("/nowhere/token")}, keyfold.FileUnreadableError),
        ({"token": Path("a\0b")}, keyfold.ArgumentValueError),
        ({"timeout": float("nan")}, keyfold.ArgumentValueError),
        ({"on_behalf_of": "a\nb"}, keyfold.ArgumentValueError),
    ],
)
def test_a_client_refuses_what_it_cannot_use(
    arguments: dict[str, Any], error: type[keyfold.KeyfoldError]
) -> None:
    """A client that could make no call is not made, and the error is one of Keyfold's."""
    with pytest.raises(error):
        keyfold.Client(**arguments)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("client", "prod", "client must be DataPlane, not str"),
        ("cluster", b"prod", "cluster must be str, not bytes"),
        ("region", None, "region must be str, not None"),
        ("context", {"id": 1}, "context['id'] must be str, not int"),
        ("cache", {}, "cache must be KeySource, not dict"),
        ("max_messages", "1", "max_messages must be int, not str"),
        ("max_bytes", 1.5, "max_bytes must be int, not float"),
        ("max_age", "1", "max_age must be float, not str"),
    ],
)
def test_an_envelope_names_a_wrong_type(name: str, wrong: Any, said: str) -> None:
    """An envelope is not made of what it cannot use; its methods have tests of their own."""
    given = {"client": Unsent(), "cluster": "prod", "region": "eu", name: wrong}
    with pytest.raises(keyfold.ArgumentTypeError) as raised:
        keyfold.Envelope(**given)
    assert raised.value.message == said


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("clusters", "prod", "clusters must be a list of str, not one str"),
        ("organization", None, "organization must be str, not None"),
        ("max_keys", "1", "max_keys must be int, not str"),
        ("max_age", "1", "max_age must be float, not str"),
        ("max_uses", None, "max_uses must be int, not None"),
        ("grace", [], "grace must be float, not list"),
    ],
)
def test_a_cache_names_a_wrong_type(name: str, wrong: Any, said: str) -> None:
    """A cache is not made of what it cannot use."""
    with pytest.raises(keyfold.ArgumentTypeError, match=f"^{re.escape(said)}$"):
        keyfold.KeyCache(Unsent(), **{name: wrong})


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("opening_key", {"cluster": "prod", "wrapped_key": b"1"}),
        ("sealing_key", {"cluster": "prod", "region": "eu", "size": 1, "bounds": Bounds(1, 1, 1)}),
    ],
)
def test_borrowing_names_a_wrong_type(method: str, arguments: dict[str, Any]) -> None:
    """A cache lends no key under what is not a name."""
    with keyfold.KeyCache(Unsent()) as cache:
        for name in (*arguments, "context"):
            for what, wrong in kind_of(method, name).wrong.items():
                if wrong is None and name == "context":
                    continue
                said = what if what.startswith("a key") else f"{name}{what}"
                with (
                    pytest.raises(keyfold.ArgumentTypeError, match=re.escape(said)),
                    getattr(cache, method)(**{**arguments, name: wrong}),
                ):
                    pass


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: keyfold.OperationScope.clusters("prod"), "clusters must be a list of str"),
        (lambda: keyfold.OperationScope.root_key(7), "uri must be str, not int"),  # type: ignore[arg-type]
        (lambda: keyfold.OperationAction.rotate({}), "key_spec must be KeySpec, not dict"),  # type: ignore[arg-type]
        (lambda: keyfold.OperationAction.set_policy(None), "policy must be RegionPolicy"),  # type: ignore[arg-type]
    ],
)
def test_the_work_of_an_operation_names_a_wrong_type(make: Callable[[], Any], said: str) -> None:
    """An action or a scope is not made of what it cannot use."""
    with pytest.raises(keyfold.ArgumentTypeError, match=f"^{re.escape(said)}"):
        make()


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("generate_data_key", {"size": 1 << 40}, "size cannot be used: Value out of range"),
        ("get_status", {"cluster": "\ud800"}, "cluster has one half of a surrogate pair"),
        ("wrap", {"context": {"id": "\ud800"}}, "context['id'] has one half of a surrogate pair"),
        (
            "enable",
            {"region_specs": [keyfold.RegionSpec("eu", keyfold.KeySpec("X", "\udfff"))]},
            "region_specs[0].key_spec.uri has one half of a surrogate pair",
        ),
        ("revoke", {"request_id": ""}, "request_id must not be empty"),
        (
            "list_events",
            {"narrow": keyfold.EventFilter(start=datetime.min)},  # noqa: DTZ901
            "narrow.start cannot be used",
        ),
        ("get_status", {"timeout": float("nan")}, "timeout is not a number of seconds"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named(
    method: str, arguments: dict[str, Any], said: str
) -> None:
    """A value that protobuf cannot hold is named, and is a ValueError as well."""
    with pytest.raises(keyfold.ArgumentValueError) as raised:
        ask(method, {**required(method), **arguments})
    assert raised.value.message.startswith(said)
    assert isinstance(raised.value, ValueError)


def test_an_error_about_an_argument_names_the_cluster() -> None:
    """The error knows the cluster that the call named, and its text says it."""
    with pytest.raises(keyfold.ArgumentTypeError) as raised:
        ask("wrap", {"cluster": "prod", "region": 7, "plaintext": b"1"})
    assert raised.value.cluster == "prod"
    assert str(raised.value) == "cluster prod: region must be str, not int"


def test_a_value_is_not_shown() -> None:
    """What came is named by its type: it may be a key."""
    secret = "hunter2" * 4
    with pytest.raises(keyfold.ArgumentTypeError) as raised:
        ask("wrap", {"cluster": "prod", "region": "eu", "plaintext": secret})
    assert secret not in repr(raised.value)
    assert secret not in str(raised.value)


@pytest.mark.parametrize(
    "kind",
    [
        keyfold.Client,
        keyfold.AsyncClient,
        keyfold.Envelope,
        keyfold.AsyncEnvelope,
        keyfold.KeyCache,
        keyfold.AsyncKeyCache,
    ],
)
def test_every_method_says_what_it_raises(kind: type[Any]) -> None:
    """A docstring lists the errors of its method, which are Keyfold's and are exported."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if name.startswith("_") or name in MACHINERY:
            continue
        _, _, told = (inspect.getdoc(method) or "").partition("Raises:\n")
        named = re.findall(r"^    (\w+): ", told, re.MULTILINE)
        assert named, f"{kind.__name__}.{name}"
        for one in named:
            assert issubclass(getattr(keyfold, one), keyfold.KeyfoldError), f"{name}: {one}"


def test_every_argument_has_a_kind() -> None:
    """A method or argument that comes later is tested, too."""
    for method in methods():
        for name in parameters(method):
            if (method, name) not in NOT_CHECKED:
                assert kind_of(method, name)
