"""Parquet modular encryption with customers' keys: pyarrow encrypts, and Keyfold wraps its keys.

    factory = CryptoFactory(client, cache=keyfold.KeyCache(client))
    settings = EncryptionConfiguration("acme/eu", double_wrapping=False)
    properties = factory.file_encryption_properties(KmsConnectionConfig(), settings)

The identifier of a master key is `CLUSTER/REGION`. The bytes of the files are pyarrow's own, so
every reader of Parquet that has a KMS client for Keyfold can read them.
docs/integrations/pyarrow.md shows the whole.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import keyfold
from keyfold.integrations.naming import named

try:
    from pyarrow import fs
    from pyarrow.parquet import encryption
except ImportError:
    raise ImportError(
        "keyfold.integrations.pyarrow needs pyarrow with Parquet's encryption: install "
        "keyfold[pyarrow]"
    ) from None

CONTEXT: Final[Mapping[str, str]] = {"format": "parquet"}
"""The context of all keys of Parquet files: a wrapped key of another use does not open as one."""


class KmsClient(encryption.KmsClient):
    """Wraps the keys of Parquet files. `CryptoFactory` makes one; other readers may, too.

    A master key's identifier is `CLUSTER/REGION`, or `CLUSTER` alone where `region` is given. Every
    method raises `KeyfoldError`, which pyarrow hands on as it is.

    Args:
        client: The client that wraps and unwraps.
        cache: What keeps keys that were unwrapped. Without it every key of every page that pyarrow
            reads is a call.
        region: The region that wraps for identifiers that name none.
        context: Pairs that all keys are bound to besides `CONTEXT`, such as `{"table": "orders"}`.
    """

    def __init__(
        self,
        client: keyfold.Client,
        *,
        cache: keyfold.KeyCache | None = None,
        region: str = "",
        context: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._cache = cache
        self._region = region
        self._context = {**CONTEXT, **(context or {})}

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """Wraps a key of a file under the newest generation of a region."""
        cluster, _, region = master_key_identifier.partition("/")
        try:
            wrapped = self._client.wrap(
                cluster, self._named_region(region, cluster), key_bytes, context=self._context
            )
        except keyfold.KeyfoldError as error:
            raise _of(error, cluster) from error
        return base64.b64encode(wrapped.wrapped_key).decode("ascii")

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        """Unwraps a key of a file."""
        cluster = master_key_identifier.partition("/")[0]
        try:
            return self._unwrapped(cluster, _decoded(wrapped_key))
        except keyfold.KeyfoldError as error:
            raise _of(error, cluster) from error

    def _unwrapped(self, cluster: str, wrapped_key: bytes) -> bytes:
        if self._cache is None:
            answer = self._client.unwrap(cluster, wrapped_key, context=self._context)
            return bytes(answer.plaintext)
        with self._cache.opening_key(cluster, wrapped_key, self._context) as key:
            return bytes(key.plaintext)

    def _named_region(self, region: str, cluster: str) -> str:
        if region or self._region:
            return region or self._region
        raise keyfold.InvalidNameError(
            f"the identifier of the master key names no region; write {cluster}/REGION",
            code="INVALID_ARGUMENT",
        )


class CryptoFactory(encryption.CryptoFactory):
    """pyarrow's factory for encrypted Parquet files, with Keyfold as its KMS.

    It differs from pyarrow's own in what follows from revocation. With double wrapping, pyarrow
    puts a key of its own between the file's keys and the customer's, and keeps it for as long as
    the factory lives, whatever `cache_lifetime` says: no revocation would reach it. So this factory
    refuses to write with double wrapping, and forgets such keys of other writers before it reads.

    Args:
        client: See `KmsClient`.
        cache: See `KmsClient`.
        region: See `KmsClient`.
        context: See `KmsClient`.
    """

    def __init__(
        self,
        client: keyfold.Client,
        *,
        cache: keyfold.KeyCache | None = None,
        region: str = "",
        context: Mapping[str, str] | None = None,
    ) -> None:
        kms = KmsClient(client, cache=cache, region=region, context=context)
        super().__init__(lambda _: kms)

    def file_encryption_properties(
        self,
        kms_connection_config: Any,
        encryption_config: Any,
        parquet_file_path: Any = None,
        filesystem: Any = None,
    ) -> Any:
        """Returns what a ParquetWriter takes; see pyarrow.

        Raises:
            InvalidInputError: The configuration asks for double wrapping, pyarrow's default.
            KeyfoldError: A key cannot be wrapped.
        """
        _refuse(double_wrapping=encryption_config.double_wrapping)
        return super().file_encryption_properties(
            kms_connection_config, encryption_config, parquet_file_path, filesystem
        )

    def file_decryption_properties(
        self,
        kms_connection_config: Any,
        decryption_config: Any = None,
        parquet_file_path: Any = None,
        filesystem: Any = None,
    ) -> Any:
        """Returns what a ParquetFile takes; see pyarrow. The reading raises `KeyfoldError`.

        Raises:
            NotFoundError: A rotation of the file's keys was cut off, or is at its last step.
        """
        self.remove_cache_entries_for_all_tokens()
        if parquet_file_path is not None and _Keys(parquet_file_path, filesystem).cut_off():
            raise keyfold.NotFoundError(
                f"the keys of {parquet_file_path} are not in their place: a rotation of them is "
                "under way, or was cut off; call rotate_master_keys again if it was",
                code="NOT_FOUND",
            )
        return super().file_decryption_properties(
            kms_connection_config, decryption_config, parquet_file_path, filesystem
        )

    def rotate_master_keys(
        self,
        kms_connection_config: Any,
        parquet_file_path: Any,
        filesystem: Any = None,
        double_wrapping: bool = False,  # noqa: FBT001, FBT002  pyarrow's signature
        **options: Any,
    ) -> None:
        """Moves the keys of a file to their regions' newest generations; see pyarrow.

        The file must have been written with `internal_key_material=False`: its wrapped keys are
        then in a file beside it, and the Parquet file itself is not touched. First this finishes a
        rotation that was cut off, so after a crash, call it again. Let one process at a time rotate
        a file.

        Raises:
            InvalidInputError: Double wrapping is asked for.
            KeyfoldError: A key cannot be unwrapped or wrapped. Nothing has changed.
        """
        _refuse(double_wrapping=double_wrapping)
        _Keys(parquet_file_path, filesystem).finish_rotation()
        self.remove_cache_entries_for_all_tokens()
        super().rotate_master_keys(
            kms_connection_config,
            parquet_file_path,
            filesystem,
            double_wrapping,
            **options,
        )


class _Keys:
    """The file of wrapped keys beside a Parquet file.

    To rotate, pyarrow writes the new keys under another name, deletes the old ones, and then
    renames the new ones. Between the last two steps a kill leaves the new ones under that name.
    """

    def __init__(self, path: Any, filesystem: Any) -> None:
        if filesystem is None:
            text = str(path)
            local = "://" not in text
            filesystem, path = (
                (fs.LocalFileSystem(), text) if local else fs.FileSystem.from_uri(text)
            )
        place = PurePath(path)
        self._files = filesystem
        self._here = str(place.with_name(f"_KEY_MATERIAL_FOR_{place.name}.json"))
        self._new = str(place.with_name(f"_TMP_KEY_MATERIAL_FOR_{place.name}.json"))

    def cut_off(self) -> bool:
        """Returns whether the new keys are there alone."""
        found = self._files.get_file_info([self._here, self._new])
        return [one.type != fs.FileType.NotFound for one in found] == [False, True]

    def finish_rotation(self) -> None:
        """Puts the new keys into their place. They are whole: pyarrow closes them before."""
        if self.cut_off():
            self._files.move(self._new, self._here)


def _refuse(*, double_wrapping: bool) -> None:
    if double_wrapping:
        raise keyfold.InvalidInputError(
            "pass double_wrapping=False: with double wrapping, pyarrow keeps a key that opens the "
            "files for as long as the factory lives, and a revocation would not reach it",
            code="INVALID_ARGUMENT",
        )


def _decoded(wrapped_key: str) -> bytes:
    try:
        return base64.b64decode(wrapped_key, validate=True)
    except (binascii.Error, ValueError):
        raise keyfold.NotAWrappedKeyError(
            "the file's wrapped key is not base64: another KMS client wrote it, or it was changed",
            code="INVALID_ARGUMENT",
        ) from None


def _of(error: keyfold.KeyfoldError, cluster: str) -> keyfold.KeyfoldError:
    return named(error, f"a key of a Parquet file, of cluster {cluster}", cluster=cluster)
