"""Unpacking of the archives that data sets come in."""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from tqdm.auto import tqdm

from .cache import cache_of


ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpacked(archives: list[Path]) -> Path:
    """Folder with the contents of some archives, each in a folder of its name. They are unpacked once, into the cache of
    `datasets` (`HF_DATASETS_CACHE`), and again when an archive has changed.

    Raises:
        ValueError: as [`unpack`].
    """
    root = cache_of(archives)
    names = [
        archive.name[: -len(next(filter(archive.name.lower().endswith, ARCHIVE_SUFFIXES)))] for archive in archives
    ]
    if len(set(names)) < len(names):
        raise ValueError(f"Archives of one name: {', '.join(map(str, archives))}. Give one of each, or rename one.")
    for archive, name in zip(archives, names, strict=True):
        folder = root / name
        if not folder.is_dir():
            unpack(archive, folder)
    return root


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive. `folder` appears only once it is complete.

    Raises:
        ValueError: the archive is truncated, corrupt or encrypted, or a member of a tar would leave the folder.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, partial)
        else:
            _unpack_tar(archive, partial)
    except tarfile.FilterError as error:
        raise ValueError(
            f"`{archive}` would write outside its folder ({error}); nothing was kept. Take it from its official source."
        ) from error
    except (tarfile.ReadError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(
            f"`{archive}` is truncated or no archive ({error}; {archive.stat().st_size:,} bytes): compare its size and "
            "checksum with those of its source, and download it again."
        ) from error
    else:
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_tar_end(archive: Path) -> None:
    """Check that an uncompressed tar ends as tars do. Python takes one that was cut between two members for whole.

    Raises:
        ValueError: the end is missing.
    """
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 1024))
        end = stream.read()
    if len(end) < 1024 or end.strip(b"\0"):
        raise ValueError(
            f"`{archive}` is truncated: it has no end-of-archive mark ({archive.stat().st_size:,} bytes). Compare its "
            "size and checksum with those of its source, and download it again."
        )


def _unpack_tar(archive: Path, folder: Path) -> None:
    if archive.suffix.lower() == ".tar":
        check_tar_end(archive)
    with tarfile.open(archive) as tar:
        for member in tqdm(tar, desc=f"unpacking {archive.name}", unit="file", leave=False):
            tar.extract(member, folder, filter="data")  # refuses paths and links to outside, and devices (PEP 706)
        if archive.suffix.lower() != ".tar":
            while tar.fileobj.read(2**20):  # to the end of the compressed stream, whose checksum stands there
                pass


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in tqdm(packed.infolist(), desc=f"unpacking {archive.name}", unit="file", leave=False):
            if member.flag_bits & 1:
                raise ValueError(
                    f"`{archive}` is encrypted. Unpack it with `7z x` or `unzip`, which ask for the password of its "
                    "source, and give the folder."
                )
            packed.extract(member, folder)  # without `..` and leading slashes
