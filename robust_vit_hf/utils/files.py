"""Atomic writes, after which a file or folder is complete or absent, even if the process is killed; JSON, weights and file names."""

import errno
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from uuid import uuid4

from safetensors import SafetensorError


RUN_FILE = "run.json"  # metadata of a finetuning run, in its folder
RESULTS_FILE = "results.json"  # what a finetuning run or an evaluation has measured, in its folder


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block ends without an exception, and is deleted otherwise."""
    # The name is unique, since other processes and machines may write the same file, and hidden, since `datasets` would read it.
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename is None and "No space left" in str(error):  # some libraries do not say where
            raise OSError(f"`{path}` could not be written: {error}") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def json_digest(value: object) -> str:
    """Return 16 hexadecimal digits that identify a JSON value, regardless of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read_json(path: Path) -> dict | None:
    """Read a JSON object from a file; `None` if it does not exist."""
    if not path.is_file():
        return None
    with suppress(ValueError):
        if isinstance(value := json.loads(path.read_text(encoding="utf-8")), dict):
            return value
    raise ValueError(f"`{path}` is not a JSON object, or is cut off. Delete it, or restore it.")


@contextmanager
def weights_read(source: str | Path) -> Iterator[None]:
    """Context manager for loading weights: errors name the source, and do not advise users to run code from it."""
    try:
        yield
    except UnpicklingError as error:  # torch suggests `weights_only=False`
        raise ValueError(
            f"`{source}` was not loaded: it is a pickle that holds more than tensors and plain values, or is cut off. None of its code "
            "was run. Save only the `state_dict()`, preferably as safetensors."
        ) from error
    except (OSError, SafetensorError, EOFError, RuntimeError) as error:
        is_of_files = isinstance(error, OSError)
        reason = str(error) if is_of_files else f"{type(error).__name__}: {error}"
        if getattr(error, "errno", None) == errno.EINVAL:  # from mapping memory beyond the end of the file
            reason = "A file of its weights is cut off: copy or download it again."
        raise (OSError if is_of_files else ValueError)(f"`{source}` cannot be loaded. {reason}") from error


@contextmanager
def weights_written(folder: Path) -> Iterator[None]:
    """Context manager for saving weights: raises an `OSError` for a full disk, which safetensors and torch do not."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"The weights could not be written to `{folder}`: {error}. Is the disk full?") from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, which must be free or empty, if the block ends without an exception."""
    path = path.resolve()  # a link is kept, and leads to the new folder
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"`{path}` exists already: name another folder, or remove it.")
    existing = next(parent for parent in path.parents if parent.is_dir())
    with TemporaryDirectory(prefix=f".{path.name}-", dir=existing) as private:
        folder = Path(private) / path.name  # only the owner can read the temporary folder itself
        folder.mkdir()
        yield folder
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.replace(path)


def check_output_dir(output_dir: Path, *images: str | None) -> None:
    """Raise an error if the output folder is a file, or within one, or within a folder of `images`, which may also be files, Hub ids or
    `None`."""
    if file := next((place for place in (output_dir, *output_dir.parents) if place.is_file()), None):
        raise ValueError(f"`{file}` is a file, not a folder: choose another --output_dir.")
    for source in images:
        folder = None if source is None else Path(source)
        if folder is not None and not folder.is_file() and output_dir.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"`{output_dir}` is within `{source}`, whose files are read as images: choose another --output_dir."
            )


def files_below(root: Path, above: Collection[Path] = ()) -> Iterator[str]:
    """Yield the names, relative to a folder, of all files below it, in order; none if the folder does not exist. Links are followed,
    except those to a folder that holds them; a broken link raises an error."""
    here = root.resolve()
    if here in above:
        return
    for path in sorted(root.iterdir() if root.is_dir() else (), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir():
            yield from (f"{path.name}/{name}" for name in files_below(path, {*above, here}))
        elif path.exists():
            yield path.name
        else:
            raise FileNotFoundError(
                f"`{path}` is a link to `{path.readlink()}`, which does not exist: mount its disk, or remove the link."
            )


def is_hidden(name: str) -> bool:
    """Whether a relative name is that of a hidden file (`.…`), or is within a hidden folder (`.…` or `__…`)."""
    *folders, file = name.split("/")
    return file.startswith(".") or any(folder.startswith((".", "__")) for folder in folders)


def check_no_pattern(path: Path) -> None:
    """Raise an error for an existing path that `datasets` would read as a glob pattern."""
    if path.exists() and (sign := re.search(r"[*?[]", str(path.resolve()))):
        raise ValueError(
            f"`{path.resolve()}` contains `{sign[0]}`, which `datasets` reads as a pattern: rename the file or folder."
        )


def cache_of(files: Iterable[Path]) -> Path:
    """Folder within `HF_DATASETS_CACHE` for results computed from files, keyed by their paths, sizes and times."""
    import datasets  # here, since it takes a second, and `--help` should not wait for it

    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE, "robust_vit_hf", digest)
