"""Calls to KMSs are counted, with their provider and region and the number of attempts."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import REGISTRY

from keyfold_server import telemetry
from keyfold_server.domain import attempts
from keyfold_server.domain.errors import UnreachableError

_COUNT = "keyfold_kms_call_duration_seconds_count"


def _seen(**labels: str) -> float:
    return REGISTRY.get_sample_value(_COUNT, labels) or 0.0


def test_a_second_attempt_is_counted_from_the_calls_own_thread() -> None:
    """A call that the provider's thread tried twice counts as one call of two attempts."""
    labels = {"provider": "TRIED", "region": "eu-1", "operation": "wrap", "outcome": "OK"}
    with (
        ThreadPoolExecutor(1) as threads,
        telemetry.kms_call("TRIED", "wrap") as call,
    ):
        call.region = "eu-1"
        context = contextvars.copy_context()
        threads.submit(context.run, attempts.count_retry).result()
    assert _seen(attempts="2", **labels) == 1.0
    assert _seen(attempts="1", **labels) == 0.0


def test_a_failed_call_is_counted_with_its_reason() -> None:
    """A call that failed is counted under its reason, and the next one begins at one attempt."""

    def fail() -> None:
        with telemetry.kms_call("FAILED", "unwrap"):
            attempts.count_retry()
            raise UnreachableError("nobody is there")

    for _ in range(2):
        with pytest.raises(UnreachableError):
            fail()
    labels = {"provider": "FAILED", "region": "", "operation": "unwrap"}
    assert _seen(attempts="2", outcome="UNREACHABLE", **labels) == 2.0


def test_outside_of_a_call_nothing_is_counted() -> None:
    """An adapter works without a counter, as in its own tests."""
    attempts.count_retry()
