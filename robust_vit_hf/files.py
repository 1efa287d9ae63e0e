"""Files that a reader, or a kill, finds whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Path to write to instead of `path`, which takes its place once the block has ended without an exception."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    partial.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Folder to fill instead of `path`, which takes its place once the block has ended without an exception.

    Raises:
        FileExistsError: `path` is a file, or a folder that holds something.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"`{path}` exists already: name another output, or remove it.")
    existing = next(parent for parent in path.absolute().parents if parent.is_dir())
    with TemporaryDirectory(prefix=f".{path.name}-", dir=existing) as private:
        folder = Path(private) / path.name  # one that others may read
        folder.mkdir()
        yield folder
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.replace(path)


def public_name(name: str) -> str:
    """A Hub id, a relative path or any text as it is, and of an absolute path, which is that of a machine, the last
    component."""
    return Path(name).name if Path(name).is_absolute() else name


def public_settings(settings: dict) -> dict:
    """Settings as they may be published: each text as [`public_name`] gives it."""
    return {key: public_name(value) if isinstance(value, str) else value for key, value in settings.items()}
