"""Log lines are JSON with a trace id if there is one, and without any exception's text."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from keyfold_server import observability

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
