"""The cache of a command: tables, arrays and folders by a digest of what they were made from."""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from pyarrow import parquet as pq

import robust_vit_hf

from .files import atomic_file


@dataclass(frozen=True)
class Cache:
    """Results in a folder, usually `<output_dir>/cache`. Inputs are JSON values that identify all that a result depends
    on. Other inputs, another version of this package, or other source files of it are another entry.

        cache = Cache(options.output_dir / "cache")
        with cache.lock():
            table = cache.table("accuracy", compute, model=side.digest, images=rows.digest)

    An entry is complete or absent, even if a process is killed. Processes that compute together make the same calls.
    """

    root: Path

    def entry(self, kind: str, **inputs: Any) -> Path:
        """Path of a result, without a suffix; it may not exist yet."""
        key = json.dumps([robust_vit_hf.__version__, _source_digest(), inputs], sort_keys=True)
        return self.root / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def table(self, kind: str, compute: Callable[[], pd.DataFrame], **inputs: Any) -> pd.DataFrame:
        """Read a table, or compute it and write it as parquet. Both return the same types: lists become arrays."""
        path, table = Path(f"{self.entry(kind, **inputs)}.parquet"), None
        with suppress(FileNotFoundError, pa.ArrowInvalid):  # a damaged file is written anew
            table = pq.read_table(path)
        if _of_main_process(table is None):
            table = pa.Table.from_pandas(compute(), preserve_index=False)
            if _is_main_process():
                with atomic_file(path) as partial:
                    pq.write_table(table, partial)
        return (pq.read_table(path) if table is None else table).to_pandas()

    def arrays(
        self, kind: str, shape: tuple[int, ...], batches: Callable[[int], Iterator[np.ndarray]], **inputs: Any
    ) -> np.ndarray:
        """Read float32 values `shape`, or compute them by batches, which are kept if the process is killed. `batches`
        yields values `(B, *shape[1:])` of all rows from a given one on, in order. Changes to the array stay in memory.
        """
        row = 4 * int(np.prod(shape[1:]))

        def make(partial: Path) -> None:
            # Only complete rows count: a killed process may have written a part of the next one.
            first = _of_main_process(partial.stat().st_size // row if partial.is_file() else 0)
            with open(partial if _is_main_process() else os.devnull, "ab", buffering=0) as file:
                if _is_main_process():
                    file.truncate(first * row)
                for batch in batches(first) if first < shape[0] else ():
                    file.write(batch.astype(np.float32).tobytes())

        path = self._complete(Path(f"{self.entry(kind, **inputs)}.float32"), make)
        return np.memmap(path, np.float32, "c", shape=shape)

    def folder(self, kind: str, make: Callable[[Path], Any], **inputs: Any) -> Path:
        """Return a folder, which `make` fills unless it is complete. `make` finds what an interrupted call left."""
        return self._complete(self.entry(kind, **inputs), make, is_folder=True)

    def _complete(self, path: Path, make: Callable[[Path], Any], is_folder: bool = False) -> Path:
        """Make a file or folder elsewhere and rename it to `path`, unless it exists. Other runs wait for it."""
        self.root.mkdir(parents=True, exist_ok=True)
        partial = Path(f"{path}.partial")
        with FileLock(f"{path}.lock") if _is_main_process() else nullcontext():
            if not _of_main_process(path.exists()):
                if is_folder:
                    partial.mkdir(exist_ok=True)
                make(partial)
                _wait()
                if _is_main_process():
                    partial.rename(path)
                _wait()
        return path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out: they get a `BlockingIOError`. If nothing was written, no folder is left."""
        if not _is_main_process():
            yield
            return
        created = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(parents=True, exist_ok=True)
        holder = self.root / ".lock"
        try:
            lock = FileLock(holder, timeout=0, is_singleton=True).acquire().lock
        except Timeout:
            text = f"`{self.root.parent}` is in use by {holder.read_text() or 'another process'}. "
            raise BlockingIOError(f"{text}Wait for it, stop it, or choose another --output_dir.") from None
        try:
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:
            if lock.lock_counter == 1:
                holder.write_text("")  # the folder may be uploaded, and must not name the machine
                with suppress(OSError):  # folders that hold files stay
                    if [*self.root.iterdir()] == [holder]:
                        holder.unlink()
                    for folder in created:
                        folder.rmdir()
            lock.release()


def code_digest(module: ModuleType) -> str:
    """Digest of the functions and numbers of a module in memory, which may not be those of its file any more."""
    from datasets.fingerprint import Hasher  # here, since it takes a second

    return Hasher.hash({name: of for name, of in vars(module).items() if isinstance(of, (FunctionType, int, float))})


@cache
def _source_digest() -> str:
    """Digest of the files of this package's code, when it was first asked for."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _is_main_process() -> bool:
    return not PartialState._shared_state or PartialState().is_main_process


def _of_main_process(value: Any) -> Any:
    return broadcast_object_list([value])[0] if PartialState._shared_state else value


def _wait() -> None:
    if PartialState._shared_state:
        PartialState().wait_for_everyone()
