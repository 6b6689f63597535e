"""`drip`: what a KMS that answers one byte a second does to the latency of other customers.

This works like `isolation`, but with a real adapter. All keys are VAULT_TRANSIT keys, so that all
customers share its threads. The sick customer has fifty keys, and its KMS answers through the
tests' fault layer, which drips. The other customers have a KMS of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from bench import calls, isolation, servers
from bench.goals import Figure, Plan
from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from keyfold.v1 import resources_pb2 as res

KEYS: Final = 50
"""Number of the sick customer's keys."""

INTERVAL: Final = 1.0
"""Seconds between two bytes."""

_PREFIX: Final = "vault:v1:"


def measure(plan: Plan) -> list[Figure]:
    """Measures the case."""
    return isolation.figures("drip", asyncio.run(_measured(plan)))


async def _measured(plan: Plan) -> dict[str, isolation.Windows]:
    with ExitStack() as stack:
        sick = stack.enter_context(FaultLayer(_answer))
        well = stack.enter_context(FaultLayer(_answer))
        layers = (sick, well)
        token = plan.folder / "token"
        token.write_text("bench\n")
        config = plan.folder / "keyfold.toml"
        tables = [
            f'[vault."{layer.url}"]\nauth = "token"\ncredential = {json.dumps(str(token))}\n'
            for layer in layers
        ]
        config.write_text("\n".join(tables))
        endpoints = ",".join(layer.url for layer in layers)
        settings = {"config": str(config), "allowed_endpoints": endpoints}
        server = stack.enter_context(servers.one(plan.folder, None, **settings))

        def key(kind: str, name: str, number: int) -> res.KeySpec:
            layer = sick if kind == isolation.SICK else well
            uri = f"{layer.url}/v1/transit/keys/{name.replace(' ', '-')}-{number}"
            return res.KeySpec(type="VAULT_TRANSIT", uri=uri)

        async with calls.client(server.address, 4) as client:
            traffic = isolation.Traffic(client, key, KEYS)
            await traffic.prepare()
            # The end of the drip cuts off its answers. Those calls fail, and the server remembers
            # that for a little while.
            return await isolation.windows(plan, _moods(sick), traffic, heals=False)


def _moods(layer: FaultLayer) -> dict[str, Callable[[], None]]:
    """Returns one function that makes a layer pass answers on, and one that makes it drip."""
    dripping = ExitStack()
    return {
        isolation.HEALTHY: dripping.close,
        "drips": lambda: dripping.enter_context(layer.dripping(INTERVAL)),
    }


def _answer(request: Request) -> Reply:
    """Answers like a transit engine that does not encrypt; the case only measures the calls."""
    asked = json.loads(request.body or b"{}")
    data: dict[str, object] = {"ttl": 0}
    if "/encrypt/" in request.path:
        data = {"ciphertext": _PREFIX + asked["plaintext"]}
    elif "/decrypt/" in request.path:
        data = {"plaintext": asked["ciphertext"].removeprefix(_PREFIX)}
    body = json.dumps({"data": data}).encode()
    return Reply(200, {"Content-Type": "application/json"}, body)
