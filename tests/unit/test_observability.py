"""Log lines are JSON with a trace id if there is one, and without any exception's text."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator

import pytest

from keyfold_server import observability
from keyfold_server.rpc.call_log import CallLog, Ended, Facts

SECRET = "the caller's own key"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Restores the root logger after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def fail_with(secret: str) -> None:
    """Raises an exception with a secret in its text and in a variable."""
    local = f"{secret} in a variable"
    raise ValueError(f"{secret} in the text, {len(local)}")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.usefixtures("root_logger")
def test_an_exception_is_logged_without_its_text(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    """An incident's log line shows its type and stack, never what the caller sent."""
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    observability.logs()
    try:
        fail_with(SECRET)
    except ValueError:
        logging.getLogger("keyfold").exception("incident %s", "0123")
    text = written.getvalue()
    assert "incident 0123" in text
    assert "ValueError" in text
    assert "in fail_with" in text
    assert SECRET not in text


@pytest.mark.usefixtures("root_logger")
def test_lines_are_json_where_no_person_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is one JSON object with time, level, logger and event."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    observability.logs()
    logging.getLogger("keyfold").warning("two\nlines, %d", 2)
    [line] = written.getvalue().splitlines()
    event = json.loads(line)
    assert event["event"] == "two\nlines, 2"
    assert (event["level"], event["logger"]) == ("warning", "keyfold")
    assert event["time"].endswith("Z")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.usefixtures("root_logger")
def test_a_line_shows_what_it_was_given(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    """A line says which certificate, and what is wrong; a library's line says only its text."""
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    observability.logs()
    given = {"fault": "it has expired", "serial": "0a1b", "url": "https://issuer.example/keys"}
    logging.getLogger("keyfold_server.access.tls").warning("not taken", extra=given)
    logging.getLogger("somebodys.sdk").warning("sent", extra={"headers": SECRET})
    text = written.getvalue()
    for value in given.values():
        assert value in text
    assert SECRET not in text
    if stream is io.StringIO:
        line, library = map(json.loads, text.splitlines())
        assert {name: line[name] for name in given} == given
        assert list(line)[:4] == list(library) == ["time", "level", "logger", "event"]


class Loud:
    """A descriptor that keeps what is written to it."""

    def __init__(self) -> None:
        self._read, self.descriptor = os.pipe()

    def text(self) -> str:
        os.close(self.descriptor)
        with os.fdopen(self._read) as pipe:
            return pipe.read()


@pytest.mark.usefixtures("root_logger")
async def test_calls_and_other_lines_have_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line begins with the same fields in the same forms; a trace's id is there or not."""
    written, loud = io.StringIO(), Loud()
    monkeypatch.setattr(sys, "stderr", written)
    observability.logs()
    logging.getLogger("keyfold").warning("something")
    calls = CallLog(loud.descriptor)
    calls.start()
    calls.add(Ended(time.time(), "Wrap", Facts(), "OK", "", 0.001, ""))
    calls.add(Ended(time.time(), "Wrap", Facts(), "OK", "", 0.001, "ab" * 16))
    calls.stop()
    other, plain, traced = map(json.loads, (written.getvalue() + loud.text()).splitlines())
    common = ["time", "level", "logger", "event"]
    for line in (other, plain, traced):
        assert list(line)[:4] == common
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert (plain["logger"], plain["event"]) == ("keyfold_server.rpc.call_log", "call")
    assert "trace_id" not in other
    assert "trace_id" not in plain
    assert traced["trace_id"] == "ab" * 16


async def test_a_busy_servers_calls_are_logged_some_at_a_time() -> None:
    """W5: the lines of a tenth of a second of calls never hold the event loop in one piece."""
    loud = Loud()
    calls = CallLog(loud.descriptor)
    together: list[int] = []
    calls.also = lambda some: together.append(len(some))
    calls.start()
    for number in range(300):
        calls.add(Ended(time.time(), "Wrap", Facts(), "OK", "", 0.001, str(number)))
    assert together == [128, 128]
    calls.stop()
    assert together == [128, 128, 44]
    lines = map(json.loads, loud.text().splitlines())
    assert [line["trace_id"] for line in lines] == [str(number) for number in range(300)]
