"""Folder locks between processes."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout


def lock_file(folder: Path, purpose: str) -> Path:
    """Lock file, which stays in the folder if anything was written."""
    return folder / f".{purpose}.lock"


@contextmanager
def folder_lock(folder: Path, purpose: str, wait: bool = False) -> Iterator[bool]:
    """Context manager that locks a folder for one purpose against other processes; its value is whether a process has already written
    to the folder under this lock. Unless `wait`, a `BlockingIOError` is raised if another process holds it. The folder is created if it
    does not exist, and left unchanged if nothing is written.

    The operating system holds the lock and always releases it when the process ends: a leftover file locks nothing.
    The same process may enter twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, before = lock_file(folder, purpose), {*folder.iterdir()}
    lock = FileLock(path, is_singleton=True)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)
    except Timeout:
        holder = path.read_text() if path.exists() else ""  # just taken, or left
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
        unused = outermost and {*folder.iterdir()} - before == {path}  # nothing was written
        if unused:
            path.unlink()  # before another process can hold it
        elif outermost:
            path.write_text("")  # do not leave the host name in a folder that may be uploaded
        lock.release()
        if unused and not before:
            with suppress(OSError):  # of another process by now
                folder.rmdir()
