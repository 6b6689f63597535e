"""pyarrow's own encryption of Parquet files, with a real Keyfold as its KMS."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

import keyfold
import pages
from e2e.server import clean_environment
from in_process import serving
from keyfold.integrations.pyarrow import CryptoFactory, KmsClient
from tenants import Place

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "pyarrow.md"
CRASHER = Path(__file__).parents[1] / "parquet_crasher.py"
TABLE = pa.table({"id": list(range(1_000)), "card": ["4111"] * 1_000, "iban": ["DE02"] * 1_000})
KMS = encryption.KmsConnectionConfig()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server with the clusters acme and globex."""
    with serving(tmp_path) as server, Place(server) as made:
        yield made


@pytest.fixture
def factory(place: Place) -> CryptoFactory:
    """A factory with a cache."""
    return CryptoFactory(place.client, cache=place.cache)


def write(factory: Any, path: Path, **options: Any) -> None:
    """Writes the table: its footer and `card` under acme's key, `iban` under globex'."""
    options.setdefault("double_wrapping", False)
    settings = encryption.EncryptionConfiguration(
        "acme/eu", column_keys={"acme/eu": ["card"], "globex/us": ["iban"]}, **options
    )
    sealing = factory.file_encryption_properties(KMS, settings, parquet_file_path=str(path))
    pq.write_table(TABLE, path, encryption_properties=sealing)


def read(factory: Any, path: Path, *columns: str) -> Any:
    """Reads some columns, or all."""
    opening = factory.file_decryption_properties(KMS, parquet_file_path=str(path))
    # A footer is read once for each file, and its data in this thread: the calls can be counted.
    file = pq.ParquetFile(path, decryption_properties=opening)
    return file.read(columns=list(columns) or None, use_threads=False)


def test_the_page_runs(place: Place, tmp_path: Path) -> None:
    """The lines of docs/integrations/pyarrow.md print what the page shows."""
    pages.assert_runs(
        PAGE.read_text(encoding="utf-8"),
        folder=tmp_path,
        environment=clean_environment(),
        here={"127.0.0.1:7443": place.server.target, "prod/eu": "acme/eu"},
    )


def test_a_file_comes_back_from_memory(
    place: Place, factory: CryptoFactory, tmp_path: Path
) -> None:
    """A reader asks for the key of each page; with a cache that comes to no call at all."""
    path = tmp_path / "table.parquet"
    write(factory, path)
    assert b"4111" not in path.read_bytes()
    place.client.calls.clear()
    assert read(CryptoFactory(place.client), path).equals(TABLE)
    without = place.client.calls.total()
    assert without > 3
    place.until_no_call(lambda: read(factory, path), most=without)
    assert read(factory, path).equals(TABLE)


def test_a_revocation_reaches_a_factory_in_use(
    place: Place, factory: CryptoFactory, tmp_path: Path
) -> None:
    """What read a second ago refuses to; columns of other customers still open."""
    path = tmp_path / "table.parquet"
    write(factory, path)
    place.warm()
    assert read(factory, path).equals(TABLE)
    place.revoke("globex")
    with pytest.raises(keyfold.RevokedError) as caught:
        read(factory, path)
    assert "cluster globex" in caught.value.message
    assert caught.value.cluster == "globex"
    assert read(factory, path, "id", "card").num_rows == 1_000
    with pytest.raises(keyfold.RevokedError, match="cluster globex"):
        write(factory, tmp_path / "new.parquet")


def test_a_deleted_customers_column_leaves_the_others(
    place: Place, factory: CryptoFactory, tmp_path: Path
) -> None:
    """Once a cluster is deleted, its columns say so, and the rest of the file opens."""
    path = tmp_path / "table.parquet"
    write(factory, path)
    place.delete("globex")
    with pytest.raises(keyfold.KeyfoldError, match="cluster globex") as caught:
        read(factory, path, "iban")
    assert not isinstance(caught.value, keyfold.UnavailableError)
    assert read(factory, path, "card")["card"][0].as_py() == "4111"


def test_without_a_server_nothing_is_written_or_read(tmp_path: Path) -> None:
    """An outage is told as one, by writing, reading and rotating, and spoils no file."""
    path = tmp_path / "table.parquet"
    (folder := tmp_path / "server").mkdir()
    with serving(folder) as server, Place(server) as place:
        factory = CryptoFactory(place.client)
        write(factory, path, internal_key_material=False)
        server.wait(server.stop())
        before = {file.name: file.read_bytes() for file in tmp_path.glob("*parquet*")}
        for use in (
            lambda: read(factory, path),
            lambda: write(factory, tmp_path / "other.parquet"),
            lambda: factory.rotate_master_keys(KMS, path),
        ):
            with pytest.raises(keyfold.UnavailableError, match="of cluster acme"):
                use()
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*parquet*")} == before


def test_double_wrapping_is_refused(factory: CryptoFactory, tmp_path: Path) -> None:
    """The default of pyarrow, under which a revocation goes unnoticed, does not pass silently."""
    path = tmp_path / "table.parquet"
    with pytest.raises(keyfold.InvalidInputError, match="double_wrapping=False"):
        write(factory, path, double_wrapping=True)
    with pytest.raises(keyfold.InvalidInputError, match="double_wrapping=False"):
        factory.rotate_master_keys(KMS, path, double_wrapping=True)
    assert not path.exists()


def test_double_wrapped_files_of_others_obey_a_revocation(
    place: Place, factory: CryptoFactory, tmp_path: Path
) -> None:
    """The factory of pyarrow goes on with the key that it keeps; this one asks again."""
    path = tmp_path / "table.parquet"
    kms = KmsClient(place.client, cache=place.cache)
    plain = encryption.CryptoFactory(lambda _: kms)
    write(plain, path, double_wrapping=True)
    place.warm()
    for one in (plain, factory):
        assert read(one, path).equals(TABLE)
    place.revoke("globex")
    # If pyarrow should mend this, the page and the factory have a trap less to explain.
    assert read(plain, path).equals(TABLE)
    with pytest.raises(keyfold.RevokedError):
        read(factory, path)


def test_keys_open_where_they_belong_alone(place: Place, tmp_path: Path) -> None:
    """A key of one table, cluster or use is none of another's, whatever a file says."""
    orders = KmsClient(place.client, context={"table": "orders"})
    wrapped = orders.wrap_key(bytes(16), "acme/eu")
    assert orders.unwrap_key(wrapped, "acme/eu") == bytes(16)
    with pytest.raises(keyfold.ContextMismatchError):
        KmsClient(place.client, context={"table": "users"}).unwrap_key(wrapped, "acme/eu")
    with pytest.raises(keyfold.ContextMismatchError):
        KmsClient(place.client).unwrap_key(wrapped, "acme/eu")
    with pytest.raises(keyfold.WrongClusterError, match="cluster globex"):
        orders.unwrap_key(wrapped, "globex/eu")
    with pytest.raises(keyfold.NotAWrappedKeyError, match="base64"):
        orders.unwrap_key("keine Ahnung", "acme/eu")


def test_an_identifier_names_the_region(place: Place) -> None:
    """A region is named in the identifier or once for the factory; none is guessed."""
    with pytest.raises(keyfold.InvalidNameError, match="write acme/REGION"):
        KmsClient(place.client).wrap_key(bytes(16), "acme")
    kms = KmsClient(place.client, region="us")
    wrapped = kms.wrap_key(bytes(16), "acme")
    assert kms.unwrap_key(wrapped, "acme") == bytes(16)


def test_threads_share_a_factory(place: Place, factory: CryptoFactory, tmp_path: Path) -> None:
    """Eight threads read and write with one factory, and a revocation reaches each."""
    path = tmp_path / "table.parquet"
    write(factory, path)
    place.warm()

    def use(number: int) -> bool:
        write(factory, tmp_path / f"{number}.parquet")
        return bool(read(factory, path).equals(TABLE))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(32)))
        place.revoke("acme")
        for refused in [pool.submit(use, number) for number in range(32)]:
            assert isinstance(refused.exception(), keyfold.RevokedError)


# Rotation


def test_rotation_leaves_the_file_and_moves_its_keys(
    place: Place, factory: CryptoFactory, tmp_path: Path
) -> None:
    """After a rotation the old generations can be retired, and the file's bytes are the same."""
    path = tmp_path / "table.parquet"
    write(factory, path, internal_key_material=False)
    before = path.read_bytes()
    for cluster in ("acme", "globex"):
        place.rotate(cluster)
    factory.rotate_master_keys(KMS, path)
    for cluster, region in (("acme", "eu"), ("globex", "us")):
        place.client.retire_generation(cluster, region, 1)
    assert path.read_bytes() == before
    assert read(factory, path).equals(TABLE)


def test_a_refused_rotation_changes_nothing(
    place: Place, factory: CryptoFactory, tmp_path: Path
) -> None:
    """If one of several customers refuses, all keys stay as they were, and serve on."""
    path = tmp_path / "table.parquet"
    write(factory, path, internal_key_material=False)
    keys = tmp_path / "_KEY_MATERIAL_FOR_table.parquet.json"
    before = keys.read_bytes()
    place.revoke("globex")
    with pytest.raises(keyfold.RevokedError, match="cluster globex"):
        factory.rotate_master_keys(KMS, path)
    assert keys.read_bytes() == before
    place.client.restore("globex")
    assert read(factory, path).equals(TABLE)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_rotation_that_is_killed_loses_nothing(
    place: Place, factory: CryptoFactory, tmp_path: Path, step: int
) -> None:
    """Killed before any of its steps on the files, it is simply made again."""
    path = tmp_path / "table.parquet"
    write(factory, path, internal_key_material=False)
    place.rotate("acme")
    killed = subprocess.run(
        [sys.executable, CRASHER, place.server.target, path, str(step)], check=False, timeout=50
    )
    assert killed.returncode == -signal.SIGKILL
    if step == 4:
        # The one moment at which the old keys are deleted and the new ones not yet in place.
        with pytest.raises(keyfold.NotFoundError, match="call rotate_master_keys again"):
            read(factory, path)
    else:
        assert read(factory, path).equals(TABLE)
    factory.rotate_master_keys(KMS, path)
    place.client.retire_generation("acme", "eu", 1)
    assert read(factory, path).equals(TABLE)
    assert len(list(tmp_path.glob("_*KEY_MATERIAL*"))) == 1


def test_without_the_extra_one_line_says_what_to_install() -> None:
    """A program without pyarrow ends with the name of the extra."""
    code = "import sys; sys.modules['pyarrow'] = None; import keyfold.integrations.pyarrow"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stderr.splitlines()[-1].endswith("install keyfold[pyarrow]")
    assert "During handling" not in done.stderr
