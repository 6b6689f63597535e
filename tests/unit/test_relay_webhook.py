"""The relay's webhook: what it sends, and how it takes what receivers do on bad days."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from keyfold_relay.config.model import WebhookTarget
from keyfold_relay.targets import NotTakenError
from keyfold_relay.targets.webhook import Webhook
from relay_fakes import cloud_event
from relay_receiver import OTHER, SECRET, Receiver

TIMEOUT = 20.0


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """A receiver that takes everything."""
    async with Receiver(tmp_path) as made:
        yield made


def webhook(
    receiver: Receiver,
    *,
    timeout: float = TIMEOUT,
    secrets: tuple[str, ...] = (SECRET,),
    **more: Any,
) -> Webhook:
    """Returns a target that sends to the receiver."""
    places = []
    for index, secret in enumerate(secrets):
        path = receiver.folder / f"secret{index}"
        path.write_text(secret + "\n")
        places.append(f"file:{path}")
    table: dict[str, Any] = {
        "kind": "webhook",
        "url": receiver.url,
        "secrets": places,
        "ca": str(receiver.ca),
        "allow_addresses": ["127.0.0.0/8"],
    }
    return Webhook(WebhookTarget.model_validate(table | more), timeout)


async def fails(target: Webhook, *numbers: int) -> NotTakenError:
    """Sends events that the target does not take; returns the error."""
    with pytest.raises(NotTakenError) as found:
        await target.send([cloud_event(number) for number in numbers or (1,)])
    await target.close()
    return found.value


async def test_a_batch_is_a_signed_batch_of_cloud_events(receiver: Receiver) -> None:
    """The body is CloudEvents' batch in JSON, and `standardwebhooks` accepts the signature."""
    target = webhook(receiver)
    await target.send([cloud_event(1), cloud_event(2)])
    await target.close()
    assert receiver.numbers == [1, 2]
    [request] = receiver.requests
    assert request["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
    assert receiver.refused == 0


async def test_a_batch_of_one_is_a_single_event(receiver: Receiver) -> None:
    """`batch = 1` sends the structured mode of single events."""
    target = webhook(receiver, batch=1)
    await target.send([cloud_event(1)])
    await target.close()
    [request] = receiver.requests
    assert request["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert receiver.numbers == [1]


async def test_the_same_batch_has_the_same_id_each_time(receiver: Receiver) -> None:
    """A receiver can drop a repeated request by `webhook-id`, and no other has that id."""
    target, batch = webhook(receiver), [cloud_event(1), cloud_event(2)]
    await target.send(batch)
    await target.send(batch)
    await target.send(batch[:1])
    await target.close()
    first, second, third = (one["webhook-id"] for one in receiver.requests)
    assert first == second != third


@pytest.mark.parametrize("known", [SECRET, OTHER])
async def test_two_secrets_sign_while_one_is_rotated(receiver: Receiver, known: str) -> None:
    """With two secrets a receiver that knows either of them accepts every request."""
    receiver.secrets = [known]
    target = webhook(receiver, secrets=(SECRET, OTHER))
    await target.send([cloud_event(1)])
    await target.close()
    assert receiver.numbers == [1]


async def test_a_secret_that_changes_is_used_without_a_restart(receiver: Receiver) -> None:
    """The next request is signed with what the file holds by then."""
    target = webhook(receiver)
    await target.send([cloud_event(1)])
    (receiver.folder / "secret0").write_text(OTHER)
    receiver.secrets = [OTHER]
    await target.send([cloud_event(2)])
    await target.close()
    assert receiver.numbers == [1, 2]


async def test_further_headers_carry_secrets(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header's value comes from the environment or a file."""
    monkeypatch.setenv("SIEM_TOKEN", "Splunk 1234")
    target = webhook(receiver, headers={"Authorization": "env:SIEM_TOKEN"})
    await target.send([cloud_event(1)])
    await target.close()
    assert receiver.requests[0]["authorization"] == "Splunk 1234"


@pytest.mark.parametrize("content", ["", "hunter2", "whsec_c2hvcnQ="])
async def test_a_bad_secret_is_named_and_not_shown(receiver: Receiver, content: str) -> None:
    """The error names the file and never repeats what is in it."""
    target = webhook(receiver, secrets=(content,))
    error = await fails(target)
    assert "secret0" in str(error)
    assert not content or content not in str(error)
    assert receiver.requests == []


async def test_500_is_not_taken(receiver: Receiver) -> None:
    """A status beyond 299 means that the receiver does not have the events."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=500, text="a stack trace", headers={"Retry-After": "17"})

    receiver.answer = answer
    error = await fails(webhook(receiver))
    assert str(error) == "it answered 500"
    assert error.retry_after == 17


@pytest.mark.parametrize(("status", "trait"), [(413, "too_large"), (410, "gone")])
async def test_some_answers_say_more(receiver: Receiver, status: int, trait: str) -> None:
    """413 asks for fewer events, and 410 for none."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    receiver.answer = answer
    assert getattr(await fails(webhook(receiver)), trait)


async def test_a_redirect_to_a_metadata_address_is_not_followed(receiver: Receiver) -> None:
    """A redirect is an answer and no more: nothing is sent where it points."""

    async def answer(_: web.Request) -> web.Response:
        where = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
        return web.Response(status=307, headers={"Location": where})

    receiver.answer = answer
    error = await fails(webhook(receiver))
    assert "redirects are not followed" in str(error)
    assert len(receiver.requests) == 1


async def test_a_receiver_that_hangs_is_left_in_time(receiver: Receiver) -> None:
    """The whole request has a time limit, whatever the receiver does."""

    async def answer(_: web.Request) -> None:
        await asyncio.Event().wait()

    receiver.answer = answer
    assert "no answer within 0.3 s" in str(await fails(webhook(receiver, timeout=0.3)))


async def test_a_receiver_that_drips_its_headers_is_left_in_time(tmp_path: Path) -> None:
    """A byte now and then does not make the time limit longer."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x-pad: 1\r\n" * 1_000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            writer.close()
            over.set()

    over = asyncio.Event()
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    receiver = Receiver(tmp_path)
    receiver.url = f"http://127.0.0.1:{port}/"
    target = webhook(receiver, timeout=0.4, ca=None)
    began = time.monotonic()
    assert "no answer within" in str(await fails(target))
    assert time.monotonic() - began < 10
    await over.wait()
    server.close()


async def test_100_mb_are_cut_off(receiver: Receiver) -> None:
    """Of a huge answer the relay reads 64 KiB; the status has said that the events arrived."""
    sent = 0
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=200)
        await response.prepare(request)
        try:
            for _ in range(1_600):
                await response.write(b"x" * 65_536)
                sent += 65_536
        finally:
            over.set()
        return response

    receiver.answer = answer
    target = webhook(receiver)
    await target.send([cloud_event(1)])
    await target.close()
    await over.wait()
    assert sent < 16 * 1024 * 1024


async def test_a_receiver_that_closes_early_has_not_taken(tmp_path: Path) -> None:
    """Without a status it is unknown whether the events arrived, so they are sent again."""

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    receiver = Receiver(tmp_path)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    error = await fails(webhook(receiver, ca=None))
    assert str(error) == "it broke the connection off"
    server.close()


async def test_an_untrusted_certificate_is_refused(receiver: Receiver) -> None:
    """TLS is verified: without the receiver's authority nothing is sent."""
    error = await fails(webhook(receiver, ca=None))
    assert "not trusted" in str(error)
    assert receiver.requests == []


async def test_a_certificate_for_another_name_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate must be for the url's own host, although the address is looked up."""
    resolve_to(monkeypatch, "127.0.0.1")
    target = webhook(receiver, url=receiver.url.replace("127.0.0.1", "other.example"))
    assert "not trusted" in str(await fails(target))


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Has every name resolve to these addresses in turn; returns the names that were asked."""
    asked: list[str] = []
    turns = list(addresses)

    async def getaddrinfo(_: object, host: str, port: int, **options: object) -> list[object]:
        asked.append(host)
        address = turns.pop(0) if len(turns) > 1 else turns[0]
        return [(2, 1, 6, "", (address, port))]

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(type(loop), "getaddrinfo", getaddrinfo)
    return asked


async def test_a_name_that_resolves_to_loopback_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule holds for what a name resolves to, not for how the url looks."""
    resolve_to(monkeypatch, "127.0.0.1")
    url = receiver.url.replace("127.0.0.1", "siem.example")
    target = webhook(receiver, url=url, allow_addresses=[])
    assert "allow_addresses" in str(await fails(target))
    assert receiver.requests == []


async def test_dns_rebinding_does_not_get_by(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once for each connection, and the address that was checked is used."""
    asked = resolve_to(monkeypatch, "127.0.0.1", "169.254.169.254")
    url = receiver.url.replace("127.0.0.1", "siem.example")
    target = webhook(receiver, url=url)
    await target.send([cloud_event(1)])
    assert asked == ["siem.example"]
    # The connection is kept, so the next request needs no look-up.
    await target.send([cloud_event(2)])
    await target.close()
    assert asked == ["siem.example"]
    later = webhook(receiver, url=url)
    assert "allow_addresses" in str(await fails(later))


async def test_plain_http_goes_nowhere_but_to_listed_loopback(receiver: Receiver) -> None:
    """Plain http to another machine is refused, also where its network is listed."""
    target = webhook(receiver, url="http://10.1.2.3/", ca=None, allow_addresses=["10.0.0.0/8"])
    assert "use https" in str(await fails(target))


async def test_events_are_what_the_contract_says(receiver: Receiver) -> None:
    """The receiver gets CloudEvents 1.0 with the attributes that docs/events.md names."""
    target = webhook(receiver)
    await target.send([cloud_event(7)])
    await target.close()
    [event] = receiver.events
    assert event["specversion"] == "1.0"
    assert event["id"] == f"{'5f' * 16}/7/{7:032x}"
    assert event["type"] == "com.keyfold.rpc.cluster.revoke"
    assert event["subject"] == "prod"
    assert event["sequence"] == "00000000000000000007"
    assert json.loads(cloud_event(7).body).keys() == event.keys()
