"""Unpacking of dataset archives."""

import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

from ..utils.files import cache_of


ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpacked(archives: list[Path]) -> Path:
    """Folder with the contents of archives, each in a subfolder of its name, see [`unpack`]. Cached in
    `HF_DATASETS_CACHE` until an archive changes; of several processes, one unpacks, and the others wait for it."""
    root, folders = cache_of(archives), {}
    for archive in archives:
        suffix = next(filter(archive.name.lower().endswith, ARCHIVE_SUFFIXES))
        folders[root / archive.name[: -len(suffix)]] = archive
    if len(folders) < len(archives):
        raise ValueError(f"Archives of one name: {', '.join(map(str, archives))}. Give one of each, or rename one.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f"{root.name}.lock")):
        for folder, archive in folders.items():
            if not folder.is_dir():
                unpack(archive, folder)
    return root


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive. `folder` appears only once it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (_unpack_zip if archive.suffix.lower() == ".zip" else _unpack_tar)(archive, partial)
        partial.rename(folder)
    except Exception as error:  # codecs raise any type
        raise ValueError(
            f"`{archive}` ({archive.stat().st_size:,} bytes) cannot be unpacked: {error}. If it is truncated, download it again; if it "
            "is encrypted, unpack it with `7z x`, which asks for the password, and give the folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_tar_end(archive: Path) -> None:
    """Check the end of an uncompressed tar: `tarfile` accepts files that are cut between two members."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 1024))
        end = stream.read()
    if len(end) < 1024 or end.strip(b"\0"):
        raise ValueError(
            f"`{archive}` is truncated: it has no end-of-archive mark ({archive.stat().st_size:,} bytes). Download it again."
        )


def _unpack_tar(archive: Path, folder: Path) -> None:
    if archive.suffix.lower() == ".tar":
        check_tar_end(archive)
    with tarfile.open(archive) as tar:
        for member in _progress(archive, tar):
            tar.extract(member, folder, filter="data")  # refuses paths and links to outside, and devices (PEP 706)
        if archive.suffix.lower() != ".tar":
            while tar.fileobj.read(2**20):  # to the end of the compressed stream, where its checksum is
                pass


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in _progress(archive, packed.infolist()):
            path = packed.extract(member, folder)  # without `..` and leading slashes
            # As tar does, so that modification times are the same when unpacked again.
            with suppress(ValueError):  # reproducible builds write invalid dates
                changed = datetime(*member.date_time).timestamp()
                os.utime(path, (changed, changed))


def _progress(archive: Path, members: Iterable) -> Iterable:
    return tqdm(members, desc=f"unpacking {archive.name}", unit="file", leave=False)
