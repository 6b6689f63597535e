"""grpcurl on what happened, on cursors, counts of use and Recheck: with right input and wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.conftest import StartServer
from e2e.grpcurl import EVENTS, Grpcurl
from e2e.server import Server

LOCAL: Final = {"type": "LOCAL", "uri": "local:eu"}
GARBAGE: Final = ("AAAA", "not base64 ü", "=" * 40, "QUJD" * 300)


@pytest.fixture(scope="module")
def server(start_module_server: StartServer) -> Server:
    """A server with the clusters prod and other, whose uses of before a restart are counted."""
    server = start_module_server()
    for name in ("prod", "other"):
        server.enable(name)
    with server.client() as client:
        for region in ("eu", "eu", "us"):
            client.wrap("prod", region, b"k" * 32)
        client.wrap("other", "eu", b"k" * 32)
    # A server that stops writes its counts.
    server.restart()
    return server


@pytest.fixture
def curl(grpcurl: str, server: Server) -> Grpcurl:
    """Grpcurl on that server."""
    return Grpcurl(grpcurl, server)


@pytest.fixture
def events(curl: Grpcurl) -> Grpcurl:
    """Grpcurl on its event service."""
    return curl.of(EVENTS)


def events_of(events: Grpcurl, **narrow: Any) -> list[dict[str, Any]]:
    """Returns the events that a filter selects."""
    found: list[dict[str, Any]] = events.ask("ListEvents", filter=narrow).get("events", [])
    return found


def test_an_anchor(events: Grpcurl) -> None:
    """An anchor names the newest entry; what stands in it by mistake is refused before the call."""
    made = events.ask("GetAnchor")
    number = int(made["number"])
    assert number == int(events_of(events)[-1]["number"])
    assert "\n" not in made["anchor"]
    verified = events.ask("VerifyEvents", anchors=[made["anchor"]])
    assert verified["anchors"][0]["outcome"] == "ANCHOR_OUTCOME_MATCHES"
    # Reflection lets grpcurl itself say that there is no such field.
    assert "cluster" in events.refused("GetAnchor", cluster="prod")


def test_a_watch_is_read_ended_and_resumed(curl: Grpcurl, events: Grpcurl) -> None:
    """A snapshot, a change as it happens, an end by the reader, and what came in between."""
    asked: dict[str, Any] = {"clusters": ["prod"], "states": True, "events": True}
    with events.stream("WatchEvents", **asked) as stream:
        first = stream.until("state")
        assert first["state"]["exists"]
        assert len(first["store"]) == 32
        regions = first["state"]["regions"]
        assert [one["state"] for one in regions] == ["STATE_ENABLED", "STATE_ENABLED"]
        stream.until("snapshot_end")
        curl.ask("Revoke", cluster="prod", regions=["us"], reason="contract ended")
        told = stream.until("event")
        assert told["event"]["reason"] == "contract ended"
        token = told["resume_token"]
    curl.ask("Restore", cluster="prod")
    with events.stream("WatchEvents", **asked, resume_token=token) as stream:
        again = stream.until("event")
        assert again["event"]["action"] == "rpc:cluster:restore"
        assert int(again["event"]["number"]) == int(told["event"]["number"]) + 1
        assert stream.until("heartbeat")["heartbeat"]["max_store_age"] == "120s"


def test_a_watch_of_what_does_not_exist(events: Grpcurl) -> None:
    """C8: an unknown cluster is told as one that does not exist, and is no error."""
    with events.stream("WatchEvents", clusters=["ghost"], states=True) as stream:
        state = stream.until("state")["state"]
        assert state["cluster"] == "ghost"
        assert not state.get("exists", False)
        stream.until("snapshot_end")


@pytest.mark.parametrize(
    ("asked", "reason", "field"),
    [
        ({}, "MALFORMED_REQUEST", "states"),
        ({"states": True, "clusters": ["no name"]}, "INVALID_NAME", "clusters"),
        ({"states": True, "cursor": "siem"}, "MALFORMED_REQUEST", "cursor"),
        ({"events": True, "cursor": "../siem"}, "INVALID_NAME", "cursor"),
        *(
            ({"states": True, "resume_token": token}, "RESUME_TOKEN_INVALID", "resume_token")
            for token in GARBAGE
        ),
    ],
)
def test_a_wrong_watch_is_refused(
    events: Grpcurl, asked: dict[str, Any], reason: str, field: str
) -> None:
    """What is malformed, and a token that is none, ends the stream with a reason and the field."""
    with events.stream("WatchEvents", **asked) as stream:
        assert list(stream) == []
        assert f'"reason": "{reason}"' in stream.error
        assert f'"field": "{field}"' in stream.error


def test_a_token_is_for_its_own_scope(events: Grpcurl) -> None:
    """A token is worth nothing for a wider watch, a narrower one, or a cursor of another."""
    with events.stream("WatchEvents", clusters=["prod"], states=True) as stream:
        token = stream.until("snapshot_end")["resume_token"]
    for asked in (
        {"states": True},
        {"states": True, "clusters": ["prod", "other"]},
        {"states": True, "events": True, "clusters": ["prod"]},
        {"states": True, "clusters": ["prod"], "organization": "acme"},
    ):
        with events.stream("WatchEvents", **asked, resume_token=token) as stream:
            assert list(stream) == []
            assert "RESUME_TOKEN_INVALID" in stream.error


def test_a_cursor_from_its_making_to_its_end(events: Grpcurl) -> None:
    """A watch makes it, its session advances it, another reader takes it, and it is deleted."""
    with events.stream("WatchEvents", events=True, cursor="siem") as one:
        began = next(iter(one))
        session = began["cursor_session"]
        beat = began if "heartbeat" in began else one.until("heartbeat")
        token = beat["resume_token"]
        moved = events.ask("AdvanceCursor", cursor="siem", session=session, resume_token=token)[
            "cursor"
        ]
        assert (moved["name"], moved["caller"]) == ("siem", "local")
        assert moved["number"] == beat["heartbeat"]["number"]
        assert moved["expire_time"] > moved["advance_time"]
        [listed] = events.ask("ListCursors")["cursors"]
        assert listed["number"] == moved["number"]
        with events.stream("WatchEvents", events=True, cursor="siem") as two:
            assert next(iter(two))["cursor_session"] != session
            for _ in one:
                pass
            assert '"reason": "CURSOR_TAKEN"' in one.error
    advance: dict[str, Any] = {"cursor": "siem", "session": session, "resume_token": token}
    assert "CURSOR_TAKEN" in events.refused("AdvanceCursor", **advance)
    assert "CURSOR_TAKEN" in events.refused("AdvanceCursor", **advance | {"session": "zz"})
    for bad in ("", *GARBAGE):
        said = events.refused("AdvanceCursor", **advance | {"resume_token": bad})
        assert "RESUME_TOKEN_INVALID" in said
    assert "CURSOR_NOT_FOUND" in events.refused("AdvanceCursor", **advance | {"cursor": "no"})
    assert "INVALID_NAME" in events.refused("AdvanceCursor", **advance | {"cursor": ""})
    assert "CURSOR_NOT_FOUND" in events.refused("DeleteCursor", cursor="siem", caller="other")
    assert events.ask("DeleteCursor", cursor="siem") == {}
    assert "CURSOR_NOT_FOUND" in events.refused("DeleteCursor", cursor="siem")
    assert events.ask("ListCursors") == {}
    actions = [event["action"] for event in events_of(events, kinds=["EVENT_KIND_ATTEMPT"])]
    assert actions[-2:] == ["rpc:cursor:make", "rpc:cursor:delete"]


def test_usage(events: Grpcurl) -> None:
    """Uses are counted by region, caller, method and outcome; an unknown cluster has none."""
    day = "86400s"
    whole = events.ask("ListUsage", cluster="prod", span=day)
    assert whole["read_time"] > whole["counts"][0]["start_time"]
    counts = whole["counts"]
    assert [(one["region"], one["count"]) for one in counts] == [("eu", "2"), ("us", "1")]
    assert {(o["caller"], o["method"], o["outcome"]) for o in counts} == {("local", "Wrap", "OK")}
    page = events.ask("ListUsage", span=day, page_size=2)
    rest = events.ask("ListUsage", span=day, page_token=page["next_page_token"])
    found = [one["cluster"] for one in page["counts"] + rest["counts"]]
    assert found == ["other", "prod", "prod"]
    for none in ({"cluster": "ghost"}, {"cluster": "no name"}, {"organization": "ghost"}):
        assert "counts" not in events.ask("ListUsage", **none)
    for wrong in (
        *({"page_token": token} for token in GARBAGE),
        # A token of a wider list.
        {"cluster": "prod", "span": day, "page_token": page["next_page_token"]},
        {"page_size": 1_001},
        {"page_size": -1},
        *({"span": span} for span in ("0.5s", "90s", "-60s", "2764800s")),
    ):
        said = events.refused("ListUsage", **wrong)
        assert '"reason": "INVALID_PAGE"' in said
        assert f'"field": "{"span" if wrong.keys() == {"span"} else list(wrong)[-1]}"' in said


def test_recheck(curl: Grpcurl, server: Server) -> None:
    """A recheck tells what the KMS answers, by cluster and by key, and proves nothing else."""
    results = curl.ask("Recheck", cluster="prod")["results"]
    assert [(one["region"], one["health"]) for one in results] == [
        ("eu", "HEALTH_HEALTHY"),
        ("us", "HEALTH_HEALTHY"),
    ]
    [found] = curl.ask("Recheck", cluster="prod", regions=["us"])["results"]
    assert (found["uri"], found["can_wrap"], found["can_unwrap"]) == ("local:us", True, True)
    server.dev_keys("disable", "us")
    try:
        [refused] = (answer := curl.ask("Recheck", key_uri="local:us"))["results"]
        assert refused["health"] == "HEALTH_KEY_DISABLED"
        assert not refused["can_unwrap"]
        [detail, *_] = refused["error"]["details"]
        assert (detail["reason"], detail["metadata"]["source"]) == ("KEY_DISABLED", "kms")
        assert answer["confirmed"]
    finally:
        server.dev_keys("enable", "us")
    assert curl.ask("Recheck", key_uri="local:us")["results"][0]["health"] == "HEALTH_HEALTHY"
    for asked, reason in (
        ({}, "INVALID_RECHECK"),
        ({"cluster": "prod", "key_uri": "local:eu"}, "INVALID_RECHECK"),
        ({"key_uri": "local:eu", "regions": ["eu"]}, "INVALID_RECHECK"),
        ({"cluster": "ghost"}, "CLUSTER_NOT_FOUND"),
        ({"cluster": "prod", "regions": ["asia"]}, "REGION_NOT_FOUND"),
        ({"cluster": "no name"}, "INVALID_NAME"),
        ({"key_uri": "local:none"}, "KEY_NOT_USED"),
        ({"key_uri": "\u0000"}, "MALFORMED_REQUEST"),
    ):
        assert reason in curl.refused("Recheck", **asked)


def test_a_caller_with_one_right(grpcurl: str, start_server: StartServer, tmp_path: Path) -> None:
    """Who may only use one cluster's keys may watch its state, and gets nothing of the rest."""
    path = Path(os.path.realpath(tmp_path)) / "k.sock"
    policy = tmp_path / "policy.toml"
    grants = '[[grant]]\ncallers = ["socket:{}"]\nroles = ["{}"]\nclusters = ["{}"]\n'
    keys = 'keys = [{ type = "LOCAL", uri = "local:*" }]\n'
    operators = f"{grants.format(path, 'operator', '*')}{keys}"
    policy.write_text(operators)
    listen = f"unix:{path}"
    server = start_server(KEYFOLD_LISTEN=listen, KEYFOLD_POLICY=str(policy))
    curl = Grpcurl(grpcurl, server)
    events = curl.of(EVENTS)
    for name in ("mine", "theirs"):
        specs = [{"region": "eu", "key_spec": LOCAL}]
        curl.ask("Enable", cluster=name, region_specs=specs)
    policy.write_text(grants.format(path, "crypto", "mine"))
    server.restart()
    with events.stream("WatchEvents", clusters=["mine", "theirs"], states=True) as stream:
        states = {m["state"]["cluster"]: m["state"] for m in (stream.until("state") for _ in "12")}
        assert states["mine"]["exists"]
        assert states["theirs"] == {"cluster": "theirs"}
    with events.stream("WatchEvents", clusters=["mine"], events=True) as stream:
        assert list(stream) == []
        assert "NOT_ALLOWED" in stream.error
    for method in ("GetAnchor", "ListUsage", "ListCursors", "ListEvents", "VerifyEvents"):
        assert "NOT_ALLOWED" in events.refused(method)
    for method in ("AdvanceCursor", "DeleteCursor"):
        assert "NOT_ALLOWED" in events.refused(method, cursor="siem")
    for name in ("mine", "theirs", "ghost"):
        assert "NOT_ALLOWED" in curl.refused("Recheck", cluster=name)
