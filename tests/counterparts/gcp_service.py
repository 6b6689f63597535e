"""The gRPC side of the Google Cloud counterpart: `google.cloud.kms.v1.KeyManagementService`.

Every call goes the same way: the caller, faults, the name, the permission, the work. A method that
is not in the table of methods is UNIMPLEMENTED. Trailing metadata has no request id, because none
is documented.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import Any

import google_crc32c
import grpc
from google.cloud.kms_v1.types import service

from counterparts.gcp_errors import RecordedRefusal, Refusal
from counterparts.gcp_faults import BEFORE, Fault, Faults, Met
from counterparts.gcp_iam import CLOUD_PLATFORM, Api, Iam
from counterparts.gcp_keys import Keys
from counterparts.gcp_methods import METHODS, Method

SERVICE = "google.cloud.kms.v1.KeyManagementService"
KMS = Api(
    "cloudkms.googleapis.com",
    frozenset({CLOUD_PLATFORM, "https://www.googleapis.com/auth/cloudkms"}),
)

# Each call that hangs holds a thread.
_THREADS = 64


class KmsServer:
    """The server.

    Args:
        keys: The keys that it serves.
        iam: The service accounts, tokens and bindings.
        faults: The faults, under the methods' names.
        record: Takes each method's name, its caller ("" if not known), and the request.
    """

    def __init__(
        self, keys: Keys, iam: Iam, faults: Faults, *, record: Callable[[str, str, Any], None]
    ) -> None:
        self._keys = keys
        self._iam = iam
        self._faults = faults
        self._record = record

    def start(self, port: int, credentials: grpc.ServerCredentials) -> int:
        """Listens on a port of this machine, or with 0 on any free one, and returns the port."""
        self._executor = ThreadPoolExecutor(_THREADS)
        self._server = grpc.server(self._executor, options=[("grpc.so_reuseport", 0)])
        handlers = {name: self._handler(name, method) for name, method in METHODS.items()}
        generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        bound = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self._server.start()
        return bound

    def stop(self) -> None:
        """Ends all calls and stops listening."""
        self._server.stop(grace=None).wait()
        self._executor.shutdown()

    def _handler(self, name: str, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            resource = attrgetter(method.resource[0])(request)
            try:
                return self._call(name, resource, request, context)
            except Refusal as refusal:
                refusal.located(
                    service=KMS.name,
                    method=f"{SERVICE}.{name}",
                    permission=method.permission,
                    resource=resource,
                    version=resource,
                    location=resource.partition("/locations/")[2].partition("/")[0],
                ).abort(context)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=method.request.deserialize,
            response_serializer=method.response.serialize,
        )

    def _call(self, name: str, resource: str, request: Any, context: grpc.ServicerContext) -> Any:
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        unknown: Refusal | None = None
        caller = ""
        try:
            caller = self._iam.authenticate(metadata.get("authorization"), KMS)
        except Refusal as refusal:
            unknown = refusal
        self._record(name, caller, request)
        met = self._faults.take(name)
        if met and met.fault.kind in BEFORE:
            self._go_wrong(met, context)
        if unknown:
            raise unknown
        method = METHODS[name]
        field, pattern = method.resource
        if not pattern.fullmatch(resource):
            raise Refusal("invalid_field", field=field, why="it is not such a resource's name")
        if not self._iam.permitted(caller, resource, method.permission):
            raise Refusal("permission_denied")
        with self._keys.lock:
            answer = method.answer(self._keys, request)
        if met:
            _distort(answer, met.fault)
        return answer

    def _go_wrong(self, met: Met, context: grpc.ServicerContext) -> None:
        if met.fault.kind == "error":
            raise Refusal(met.fault.error, seconds=int(met.fault.seconds), state="DISABLED")
        if met.fault.answer is not None:
            raise RecordedRefusal(met.fault.answer)
        self._faults.hold(met, context.add_callback)
        if met.fault.kind == "hang":
            # The caller has gone or the faults were cleared; a lost connection is the closest.
            raise Refusal("unavailable")


def _distort(answer: Any, fault: Fault) -> None:
    payload = "ciphertext" if isinstance(answer, service.EncryptResponse) else "plaintext"
    match fault.kind:
        case "foreign" | "oversized":
            size = fault.size if fault.kind == "oversized" else len(getattr(answer, payload))
            data = os.urandom(size)
            setattr(answer, payload, data)
            setattr(answer, f"{payload}_crc32c", google_crc32c.value(data))
        case "wrong_crc":
            setattr(answer, f"{payload}_crc32c", getattr(answer, f"{payload}_crc32c") ^ 1)
        case "unverified":
            answer.verified_plaintext_crc32c = False
            answer.verified_additional_authenticated_data_crc32c = False
        case "wrong_name":
            answer.name = answer.name.replace("/cryptoKeys/", "/cryptoKeys/not-")
