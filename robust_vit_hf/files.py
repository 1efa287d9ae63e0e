"""Files that a reader, or a kill, finds whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def public_name(name: str) -> str:
    """A Hub id or relative path as it is, and of an absolute path, which tells nobody else anything, the last component."""
    return Path(name).name if Path(name).is_absolute() or name.startswith("~") else name
