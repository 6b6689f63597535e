"""The AWS Encryption SDK's cache of data keys, beside which `clientcache` measures the client's.

It runs in an environment of its own (`scripts/awsencryption.sh`), with a raw master key, so that it
calls nobody. It reads a number of lookups a line from standard input, makes so many of each kind
from its cache, and answers with the microseconds of CPU that one took, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from aws_encryption_sdk.caches.local import LocalCryptoMaterialsCache
from aws_encryption_sdk.identifiers import CommitmentPolicy, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider
from aws_encryption_sdk.materials_managers import (
    DecryptionMaterialsRequest,
    EncryptionMaterialsRequest,
)
from aws_encryption_sdk.materials_managers.caching import CachingCryptoMaterialsManager

POLICY: Final = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT


class MasterKey(RawMasterKeyProvider):  # type: ignore[misc]  # it has no types
    """A master key of 32 bytes in this process; it counts how often it is asked for."""

    provider_id = "bench"
    asked = 0
    key = os.urandom(32)

    def _get_raw_key(self, _: object) -> Any:
        MasterKey.asked += 1
        return WrappingKey(
            wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            wrapping_key=self.key,
            wrapping_key_type=EncryptionKeyType.SYMMETRIC,
        )


def lookups() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns what looks up materials to encrypt, and to decrypt what those encrypted."""
    provider = MasterKey()
    provider.add_master_key("bench")
    manager = CachingCryptoMaterialsManager(
        cache=LocalCryptoMaterialsCache(capacity=1_000),
        master_key_provider=provider,
        max_age=3_600.0,
        max_messages_encrypted=1 << 32,
        max_bytes_encrypted=1 << 60,
    )
    encrypt = EncryptionMaterialsRequest(
        encryption_context={"table": "orders", "column": "card_number"},
        frame_length=4096,
        algorithm=None,
        plaintext_length=100,
        commitment_policy=POLICY,
    )
    made = manager.get_encryption_materials(encrypt)
    decrypt = DecryptionMaterialsRequest(
        algorithm=made.algorithm,
        encrypted_data_keys=made.encrypted_data_keys,
        encryption_context=made.encryption_context,
        commitment_policy=POLICY,
    )
    manager.decrypt_materials(decrypt)
    return (
        lambda: manager.get_encryption_materials(encrypt),
        lambda: manager.decrypt_materials(decrypt),
    )


def main() -> None:
    """Measures until standard input ends."""
    both = lookups()
    for line in sys.stdin:
        count, asked, costs = int(line), MasterKey.asked, []
        for look in both:
            began = time.process_time()
            for _ in range(count):
                look()
            costs.append((time.process_time() - began) / count * 1e6)
        if MasterKey.asked != asked:
            raise RuntimeError("a lookup was not served from the cache")
        print(json.dumps(costs), flush=True)


if __name__ == "__main__":
    main()
