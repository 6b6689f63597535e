"""The relay's bucket, on LocalStack's S3 and on servers that misbehave."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from contract.counterparts import NotInstalledError, without
from counterparts import localstack
from keyfold_relay.config import BucketTarget
from keyfold_relay.targets import NotTakenError
from keyfold_relay.targets.bucket import Bucket
from relay_fakes import cloud_event


@pytest.fixture(scope="module")
def s3() -> Any:
    """A client of LocalStack's S3."""
    try:
        url = localstack.shared().url
    except NotInstalledError as error:
        without(error)
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(proxies={}),
    )


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A target's table, without its endpoint."""
    monkeypatch.setenv("S3_ID", "test")
    monkeypatch.setenv("S3_KEY", "hunter2hunter2")
    return {
        "kind": "s3",
        "bucket": "acme-audit",
        "prefix": "keyfold/",
        "region": "us-east-1",
        "path_style": True,
        "access_key_id": "env:S3_ID",
        "secret_access_key": "env:S3_KEY",
        "allow_addresses": ["127.0.0.1/32"],
    }


def bucket(table: dict[str, Any], timeout: float = 20.0, **more: Any) -> Bucket:
    """Returns the target of a table."""
    return Bucket(BucketTarget.model_validate(table | more), timeout)


async def test_each_batch_is_an_object_of_lines(s3: Any, table: dict[str, Any]) -> None:
    """Objects sort in the log's order, and a batch that is sent again replaces its own object."""
    s3.create_bucket(Bucket="acme-audit")
    target = bucket(table, endpoint=s3.meta.endpoint_url)
    first, second = [cloud_event(1), cloud_event(2)], [cloud_event(3)]
    for batch in (first, second, first):
        await target.send(batch)
    await target.close()
    found = s3.list_objects_v2(Bucket="acme-audit", Prefix="keyfold/")["Contents"]
    bodies = [
        s3.get_object(Bucket="acme-audit", Key=one["Key"])["Body"].read()
        for one in sorted(found, key=lambda one: one["Key"])
    ]
    numbers = [
        int(json.loads(line)["data"]["number"]) for one in bodies for line in one.splitlines()
    ]
    assert numbers == [1, 2, 3]


async def test_a_bucket_that_does_not_exist_is_named(s3: Any, table: dict[str, Any]) -> None:
    """The service's own code says what is wrong; its text is not repeated."""
    target = bucket(table, endpoint=s3.meta.endpoint_url, bucket="none-such")
    with pytest.raises(NotTakenError, match=r"404 \(NoSuchBucket\)"):
        await target.send([cloud_event(1)])
    await target.close()


async def test_a_missing_credential_is_named_and_not_shown(table: dict[str, Any]) -> None:
    """The place of the missing secret is in the message, and no secret."""
    target = bucket(table, endpoint="http://127.0.0.1:9", access_key_id="env:NONE")
    with pytest.raises(NotTakenError, match="env:NONE"):
        await target.send([cloud_event(1)])
    await target.close()


@pytest.mark.parametrize(
    "endpoint", ["https://169.254.169.254", "https://127.0.0.1:9", "http://10.0.0.1"]
)
async def test_a_bucket_passes_the_same_address_rules(table: dict[str, Any], endpoint: str) -> None:
    """Metadata, loopback and private addresses, and plain http elsewhere, are refused."""
    target = bucket(table, endpoint=endpoint, allow_addresses=[])
    with pytest.raises(NotTakenError, match="allow_addresses"):
        await target.send([cloud_event(1)])
    await target.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "no answer within"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\n<bad>", "500"),
        (
            b"HTTP/1.1 307 Go\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            "307",
        ),
    ],
)
async def test_a_service_that_misbehaves_is_left_in_time(
    tmp_path: Path, table: dict[str, Any], answer: bytes, expected: str
) -> None:
    """A hang, garbage or a redirect ends the attempt; nothing is followed or tried twice."""
    asked = 0
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = bucket(table, 0.5, endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(NotTakenError, match=expected) as found:
        await target.send([cloud_event(1)])
    assert "hunter2" not in str(found.value)
    assert asked == 1
    await target.close()
    for writer in writers:
        writer.close()
    server.close()
