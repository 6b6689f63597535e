"""Plaintext keys, which Python does not print."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
import traceback

import pytest

import keyfold
from keyfold import calls
from keyfold.models.plaintext import Plaintext

secret = b"correct horse battery staple 42!"
key = Plaintext(secret)
SHOWN = "Plaintext(<32 bytes>)"


@pytest.mark.parametrize(
    "text",
    [
        repr(key),
        str(key),
        f"{key}",
        f"{key!r:>40}",
        f"{key:>40}",
        "%s" % key,  # type: ignore[str-bytes-safe]  # noqa: UP031
        "%r" % key,  # noqa: UP031
        ascii(key),
        str([key]),
        str({"key": key}),
        str(keyfold.Unwrapped(key, "eu", 1)),
        str(keyfold.DataKey(key, b"wrapped", 1)),
        str(keyfold.WrapItem(secret)),
        str(calls.wrap("prod", "eu", secret, None)),
        str(dataclasses.asdict(keyfold.Unwrapped(key, "eu", 1))),
    ],
)
def test_nothing_writes_it_out(text: str) -> None:
    """No way of turning a key, or what holds it, into text shows any of it."""
    assert "horse" not in text


def test_repr_tells_the_length() -> None:
    """The text that stands for a key shows only its length."""
    assert repr(key) == str(key) == f"{key}" == SHOWN


def test_slices_are_redacted() -> None:
    """A part of a key is a key: tools that shorten what they print take slices."""
    assert repr(key[:10]) == "Plaintext(<10 bytes>)"
    assert key[0] == secret[0]


def test_log_lines_do_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    """A logger does not print a key."""
    logging.getLogger("test").warning("key %s %r", key, {"key": key})
    assert "horse" not in caplog.text
    assert SHOWN in caplog.text


def test_tracebacks_do_not_show_it() -> None:
    """A traceback does not print a key of an exception or of its frames."""
    try:
        raise ValueError(key)  # noqa: TRY301
    except ValueError as error:
        text = "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )
    assert "ValueError: Plaintext(<32 bytes>)" in text
    assert "horse" not in text.replace(f"secret = {secret!r}", "")


def test_it_is_bytes() -> None:
    """A key works wherever bytes do, and its `bytes` property returns plain bytes."""
    assert memoryview(key) == secret
    assert b"".join([key]) == secret
    for plain in (key.bytes, bytes(key)):
        assert type(plain) is bytes
        assert plain == secret


def test_equality() -> None:
    """A key equals any value with the same bytes, either way round, and no other."""
    assert key == Plaintext(secret)
    assert key == secret
    assert secret == key
    assert key == bytearray(secret)
    assert key != secret[:-1]
    assert key != Plaintext(bytes(32))
    assert key != "correct horse"
    assert hash(key) == hash(secret)


def test_equality_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing uses the function that does not stop at the first difference."""
    compared: list[object] = []

    def compare(left: object, right: object) -> bool:
        compared.append((left, right))
        return True

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert key == bytes(32)
    assert bytes(32) == key
    assert len(compared) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused(protocol: int) -> None:
    """A key cannot be pickled, so it does not reach a file or another process by accident."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(key, protocol)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(keyfold.Unwrapped(key, "eu", 1), protocol)


def test_copies_are_the_key() -> None:
    """Copying a result does not need pickling."""
    assert copy.copy(key) is key
    assert copy.deepcopy([key])[0] is key
