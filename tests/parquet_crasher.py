"""Rotates the keys of a Parquet file, and is killed before one of its steps on the files.

parquet_crasher.py TARGET FILE STEP: the steps are reading the keys, writing new ones under another
name, deleting the old ones, and renaming the new ones. It ends by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from pyarrow import fs
from pyarrow.parquet import encryption

import keyfold
from keyfold.integrations.pyarrow import CryptoFactory


class Crashing(fs.FileSystemHandler):  # type: ignore[misc]
    """This machine's files, until a step."""

    def __init__(self, steps: int) -> None:
        self._files = fs.LocalFileSystem()
        self._left = steps

    def _step(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    __hash__ = object.__hash__

    def get_type_name(self) -> str:
        return "crashing"

    def normalize_path(self, path: str) -> Any:
        return self._files.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> Any:
        return self._files.get_file_info(paths)

    def open_input_file(self, path: str) -> Any:
        self._step()
        return self._files.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self._step()
        return self._files.open_output_stream(path)

    def get_file_info_selector(self, selector: Any) -> Any:
        return self._files.get_file_info(selector)

    def open_input_stream(self, path: str) -> Any:
        return self._files.open_input_stream(path)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError

    def copy_file(self, src: str, dest: str) -> None:
        raise NotImplementedError

    def create_dir(self, path: str, *options: Any) -> None:
        raise NotImplementedError

    def delete_dir(self, path: str) -> None:
        raise NotImplementedError

    def delete_dir_contents(self, path: str, *options: Any) -> None:
        raise NotImplementedError

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self._step()
        self._files.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._step()
        self._files.move(src, dest)


def main(target: str, path: str, step: str) -> None:
    """Rotates until the step."""
    files = fs.PyFileSystem(Crashing(int(step)))
    with keyfold.Client(target) as client:
        CryptoFactory(client).rotate_master_keys(
            encryption.KmsConnectionConfig(), path, filesystem=files
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
