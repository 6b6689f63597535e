"""A vendor, and two customers whose administrators a grant knows by a claim of their tokens.

Ann administers both customers, acme and globex: under one subject, with a token for each. Acme and
globex have clusters, a key link, an operation and a cursor each, under names that tell whose they
are, and a root key that both use.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from google.longrunning import operations_pb2, operations_proto_pb2

from e2e.conftest import StartServer
from e2e.server import Server
from e2e.wire import Refusal, refusal
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import operations_pb2 as ops
from keyfold.v1 import organization_service_pb2 as org
from keyfold.v1 import resources_pb2 as res

ISSUER: Final = "https://issuer"
AUDIENCE: Final = "keyfold"

POLICY: Final = """
[[grant]]
callers = ["jwt:https://issuer#vendor"]
roles = ["admin"]
keys = [{ type = "LOCAL", uri = "local:*" }]

[[grant]]
callers = ["jwt:https://issuer#*"]
roles = ["operator", "auditor", "destroyer", "crypto"]
organization_claim = "org"
keys = [{ type = "LOCAL", uri = "local:*" }]
"""

SERVICES: Final = (
    pb.DESCRIPTOR.services_by_name["KeyManagementService"],
    events.DESCRIPTOR.services_by_name["EventService"],
    org.DESCRIPTOR.services_by_name["OrganizationService"],
    operations_proto_pb2.DESCRIPTOR.services_by_name["Operations"],
)

METHODS: Final = {method.name: method for service in SERVICES for method in service.methods}
"""Every method of the contract, by name."""

_MODULES: Final = (pb, events, org, operations_pb2)

NOBODY: Final = object()
"""The claim of a token that has none."""


def of_class(name: str) -> Callable[..., Any]:
    """Returns the class of a message of the contract, or Empty."""
    for module in _MODULES:
        found: Callable[..., Any] | None = getattr(module, name, None)
        if found is not None:
            return found
    raise AssertionError(name)


@dataclass
class Caller:
    """Somebody with a token."""

    channel: grpc.Channel
    token: str

    def method(self, name: str) -> Callable[..., Any]:
        """Returns a method of any of the services."""
        method = METHODS[name]
        answer = method.output_type
        decode = _decoder(answer.full_name)
        path = f"/{method.containing_service.full_name}/{name}"
        make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call: Any = make(
            path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=decode
        )

        def made(request: Any, timeout: float = 10) -> Any:
            headers = (("authorization", f"Bearer {self.token}"),)
            return call(request, timeout=timeout, metadata=headers)

        return made

    def call(self, name: str, /, **fields: Any) -> Any:
        """Makes a call, and returns the answer."""
        return self.method(name)(of_class(METHODS[name].input_type.name)(**fields))

    def refused(self, name: str, /, **fields: Any) -> Refusal:
        """Makes a call that must be refused."""
        try:
            answer = self.call(name, **fields)
        except grpc.RpcError as error:
            return refusal(error)
        raise AssertionError(f"{name} was answered: {answer}")

    def told(self, name: str, request: Any) -> str:
        """Returns all that a call tells: the answer, or how it was refused."""
        try:
            answer = self.method(name)(request)
            if METHODS[name].server_streaming:
                return self._streamed(answer)
        except grpc.RpcError as error:
            return repr(refusal(error))
        # When something was, how long it took, and the random id of a call differ by themselves.
        varying = r"(?:seconds|nanos): \d+|request_id: \S+"
        return re.sub(varying, "", f"{type(answer).__name__}: {answer}")

    @staticmethod
    def _streamed(stream: Any) -> str:
        """Returns what a stream tells until its first heartbeat after the states."""
        told = []
        try:
            for message in stream:
                if message.WhichOneof("message") == "heartbeat":
                    break
                message.resume_token = ""
                told.append(str(message))
        finally:
            stream.cancel()
        return "".join(told)


def _decoder(full_name: str) -> Callable[[bytes], Any]:
    if full_name == "google.protobuf.Empty":
        from google.protobuf.empty_pb2 import Empty

        return Empty.FromString
    made: Any = of_class(full_name.rpartition(".")[2])
    decode: Callable[[bytes], Any] = made.FromString
    return decode


@dataclass
class House:
    """A server with two customers.

    Attributes:
        server: The process.
        policy: Its policy file.
        issuer: The key that signs tokens.
        channel: A connection to it.
        blobs: A wrapped key of each customer's first cluster.
        token: A resume token of a stream of globex's events.
        operations: The full name of each customer's operation.
        revocations: The name under which each customer's revocation is followed.
    """

    server: Server
    policy: Path
    issuer: ec.EllipticCurvePrivateKey
    channel: grpc.Channel
    blobs: dict[str, bytes] = field(default_factory=dict)
    token: str = ""
    operations: dict[str, str] = field(default_factory=dict)
    revocations: dict[str, str] = field(default_factory=dict)

    def caller(self, subject: str = "ann", org: object = NOBODY, **claims: object) -> Caller:
        """Returns a caller whose token has a claim, or none."""
        now = int(time.time())
        body: dict[str, object] = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject}
        body |= {"iat": now, "exp": now + 600} | ({} if org is NOBODY else {"org": org})
        token = jwt.encode(body | claims, self.issuer, "ES256", headers={"kid": "k1"})
        return Caller(self.channel, token)

    @property
    def vendor(self) -> Caller:
        """The vendor."""
        return self.caller("vendor")

    def picture(self, name: str) -> Mapping[str, Any]:
        """Returns all that the vendor sees of a customer; observations are left out."""
        vendor = self.vendor
        clusters = vendor.call("ListClusters", organization=name).clusters
        return {
            "organization": vendor.call("GetOrganization", organization=name),
            "links": vendor.call("ListKeyLinks", organization=name),
            "clusters": [
                (c.cluster, [(r.region, r.state, r.key_spec) for r in c.regions]) for c in clusters
            ],
            "operations": vendor.call("GetOperation", name=self.operations[name]),
            "cursors": [
                (c.name, c.caller)
                for c in vendor.call("ListCursors").cursors
                if f"organization:{name} " in c.caller
            ],
            "events": [
                e.number for e in self.caller(org=name).call("ListEvents", page_size=1000).events
            ],
        }


def key(name: str) -> res.KeySpec:
    """Returns the spec of a dev key."""
    return res.KeySpec(type="LOCAL", uri=f"local:{name}")


def spec(name: str, region: str = "eu") -> res.RegionSpec:
    """Returns a region's spec, with a dev key."""
    return res.RegionSpec(region=region, key_spec=key(name))


@contextmanager
def two_customers(start: StartServer, folder: Path, *, counted: bool) -> Iterator[House]:
    """Serves a vendor and its customers; `counted`: the store has the counts of uses, too."""
    issuer = ec.generate_private_key(ec.SECP256R1())
    public: dict[str, object] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(issuer.public_key()))
    known = {"keys": [public | {"kid": "k1", "use": "sig", "alg": "ES256"}]}
    policy, jwks = folder / "policy.toml", folder / "jwks.json"
    policy.write_text(POLICY)
    jwks.write_text(json.dumps(known))
    for file in (policy, jwks):
        file.chmod(0o600)
    server = start(
        keys=("acme", "globex", "shared"),
        KEYFOLD_POLICY=str(policy),
        KEYFOLD_JWT_ISSUER=ISSUER,
        KEYFOLD_JWT_AUDIENCE=AUDIENCE,
        KEYFOLD_JWT_JWKS=str(jwks),
    )
    with grpc.insecure_channel(server.target) as channel:
        house = House(server, policy, issuer, channel)
        for name in ("acme", "globex"):
            _settle(house, name)
    if counted:
        # A server that stops writes them.
        server.restart()
    with grpc.insecure_channel(server.target) as house.channel:
        yield house


def _settle(house: House, name: str) -> None:
    """Makes a customer known, whose administrator then does the rest."""
    made = org.Organization(organization=name, cluster_patterns=[f"{name}-*"])
    house.vendor.call("CreateOrganization", organization=made)
    own = house.caller(org=name)
    link = org.KeyLink(organization=name, key_link=f"{name}-link", region="eu", key_spec=key(name))
    own.call("CreateKeyLink", key_link=link)
    linked = res.RegionSpec(region="eu", key_link=f"{name}-link")
    for number, given in enumerate((linked, spec("shared")), 1):
        own.call(
            "Enable",
            cluster=f"{name}-{number}",
            organization=name,
            region_specs=[given, spec(name, f"{name}-region")],
        )
    wrapped = own.call("Wrap", cluster=f"{name}-1", region="eu", plaintext=b"k" * 32)
    house.blobs[name] = wrapped.wrapped_key
    started = own.call(
        "StartOperation",
        operation=f"{name}-op",
        action=ops.OperationAction(recheck=ops.RecheckAction()),
        scope=ops.OperationScope(organization=name),
    )
    house.operations[name] = started.name
    own.call("WaitOperation", name=started.name)
    house.revocations[name] = own.call("Revoke", cluster=f"{name}-2").operation
    own.call("Restore", cluster=f"{name}-2")
    for cursor in (f"{name}-spare", f"{name}-cursor"):
        request = events.WatchEventsRequest(events=True, cursor=cursor)
        stream = own.method("WatchEvents")(request)
        house.token = next(iter(stream)).resume_token
        stream.cancel()


def anonymous(text: str, name: str) -> str:
    """Returns a text in which a customer's name, and a decision's number, is written otherwise."""
    return re.sub(rf"{name}|(?<=decision/)\d+", "CUSTOMER", text)
