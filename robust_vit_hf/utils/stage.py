"""Stages: a folder that is complete or not, and the inputs that it was made from."""

import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from .files import read_json, write_json


STAGE_FILE = "stage.json"


class OtherInputs(ValueError):
    """A folder was made from other inputs. `differing` has their names, with dots for those within mappings."""

    def __init__(self, folder: Path, differing: list[str]):
        super().__init__(
            f"`{folder}` was made from other inputs, which differ in: {', '.join(differing)}. Choose another --output_dir, or "
            "delete the folder."
        )
        self.differing = differing


@dataclass(frozen=True)
class Stage:
    """A step of a command that owns a folder. `stage.json` in it records the inputs, and at the end the result.

        stage = Stage(folder, {"model": model_digest, "images": images_digest})
        if stage.result() is None:
            with stage.lock():
                stage.begin()
                ...  # write files
                stage.finish({"top1": 0.5}, files=["rows.parquet"])

    A stage that was killed has no result. With the same inputs, it begins again or goes on.

    Args:
        folder: folder that the stage owns, which may not exist yet. Stages may be nested.
        inputs: all that its files depend on, as JSON values: digests of models and images, and settings.
    """

    folder: Path
    inputs: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Stage with the inputs that are recorded in its folder; without inputs if there are none."""
        return cls(folder, (read_json(folder / STAGE_FILE) or {}).get("inputs", {}))

    def check(self, ignoring: Iterable[str] = ()) -> dict:
        """Return the record in the folder; empty if the folder is free. Raises [`OtherInputs`] if inputs not in `ignoring` differ."""
        record = read_json(self.folder / STAGE_FILE)
        if record is None:
            if held := self._held():
                raise ValueError(
                    f"`{self.folder}` holds files without a `{STAGE_FILE}`, such as `{held[0]}`, from another program or an earlier "
                    "version. Choose another --output_dir, or delete the folder."
                )
            return {}
        differing = _differing(record.get("inputs", {}), json.loads(json.dumps(self.inputs)))
        if differing := [name for name in differing if name.partition(".")[0] not in {*ignoring}]:
            raise OtherInputs(self.folder, differing)
        return record

    def result(self, ignoring: Iterable[str] = ()) -> dict | None:
        """Return the result of [`finish`], after [`check`]; `None` if the stage is not complete, or one of its files is missing."""
        record = self.check(ignoring)
        if "result" not in record or not all((self.folder / name).is_file() for name in record["files"]):
            return None
        return record["result"]

    def begin(self) -> None:
        """Record the inputs after [`check`], unless they are recorded already."""
        if not self.check():
            write_json(self.folder / STAGE_FILE, {"inputs": self.inputs})

    def reopen(self) -> None:
        """Mark the stage as incomplete."""
        write_json(self.folder / STAGE_FILE, {"inputs": self.inputs})

    def finish(self, result: dict, files: Iterable[str] = ()) -> None:
        """Mark the stage as complete, atomically. It is not complete without `files`, named relative to the folder."""
        write_json(self.folder / STAGE_FILE, {"inputs": self.inputs, "files": [*files], "result": result})

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[bool]:
        """Context manager that locks the folder, see [`folder_lock`]. It leaves no record if nothing else was written."""
        with folder_lock(self.folder, "stage", wait) as begun:
            try:
                yield begun
            finally:
                if not self._held() and Stage.of(self.folder).result() is None:
                    (self.folder / STAGE_FILE).unlink(missing_ok=True)

    @contextmanager
    def work(self, is_writer: bool = True) -> Iterator[None]:
        """Context manager that checks, locks and begins the stage, and finishes it. Of several processes, one is the writer."""
        self.check()
        with self.lock() if is_writer else nullcontext():
            if is_writer:
                self.begin()
            yield
            if is_writer:
                self.finish({})

    def _held(self) -> list[str]:
        """Names of the files in the folder, without the record, locks, hidden files and partial files."""
        names = sorted(path.name for path in self.folder.glob("*") if not path.name.startswith("."))
        return [name for name in names if not name.endswith((STAGE_FILE, ".lock", ".partial"))]


def _differing(known: dict, given: dict) -> list[str]:
    """Names of values that differ, with dots for those within mappings."""
    names = []
    for name in dict.fromkeys((*known, *given)):
        first, second = known.get(name), given.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            names += [f"{name}.{inner}" for inner in _differing(first, second)]
        elif first != second:
            names.append(name)
    return names


def lock_file(folder: Path, purpose: str) -> Path:
    """Lock file, which stays in the folder if anything was written."""
    return folder / f".{purpose}.lock"


@contextmanager
def folder_lock(folder: Path, purpose: str, wait: bool = False) -> Iterator[bool]:
    """Context manager that locks a folder for one purpose against other processes, and yields whether any process has written to it
    under this lock before. A new folder is removed if nothing is written. If another process holds the lock, a `BlockingIOError` is
    raised, unless `wait`. The process that holds it may enter again, and frees it when it ends, even if it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    path, before = lock_file(folder, purpose), {*folder.iterdir()}
    lock = FileLock(path, is_singleton=True)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)
    except Timeout:
        holder = path.read_text() if path.exists() else ""  # the other process may just begin or end
        raise BlockingIOError(
            f"`{folder}` is in use by {holder or 'another process'}. Wait for it, stop it, or choose another --output_dir."
        ) from None
    outermost = lock.lock_counter == 1
    try:
        if outermost:
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since}")
        yield path in before
    finally:
        unused = outermost and {*folder.iterdir()} - before == {path}
        if unused:
            path.unlink()  # before another process can hold it
        elif outermost:
            path.write_text("")  # do not leave the host name in a folder that may be uploaded
        lock.release()
        if unused and not before:
            with suppress(OSError):  # another process may own it by now
                folder.rmdir()
