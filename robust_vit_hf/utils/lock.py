"""One process at a time in a folder."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout


def lock_file(folder: Path, purpose: str) -> Path:
    """The file that [`folder_lock`] leaves in a folder that was written under it."""
    return folder / f".{purpose}.lock"


@contextmanager
def folder_lock(folder: Path, purpose: str) -> Iterator[bool]:
    """Context in which no other process enters this context for the same folder and purpose. The folder is made if it does
    not exist, and stays as it was if nothing is written in it.

    The operating system holds the lock, and releases it when the process ends, however it ends: the file that stays behind
    locks nothing. The same process may enter twice.

    Yields:
        Whether a process has written into the folder under this lock before.

    Raises:
        BlockingIOError: another process is in it; the message names the process, its host and its start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, before = lock_file(folder, purpose), {*folder.iterdir()}
    lock = FileLock(path, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"`{folder}` is in use by {_holder(path)}. Wait for it, stop it, or choose another --output_dir."
        ) from None
    outermost = lock.lock_counter == 1
    try:
        if outermost:
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield path in before
    finally:
        if outermost:
            path.write_text("")  # the name of a host must not stay in a folder that may be uploaded
        lock.release()
        if outermost and {*folder.iterdir()} - before == {path}:  # nothing was written
            path.unlink()
            if not before:
                folder.rmdir()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):  # it has just been taken, or is not ours to read
        return "another process"
    ended = ""
    if (
        holder["host"] == socket.gethostname()
        and not Path(f"/proc/{holder['pid']}").exists()
        and Path("/proc").is_dir()
    ):
        ended = ", which has ended, and whose data loader workers are about to"
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}{ended}"
