"""Results that are kept for the next run, with what they were made by."""

import json
from pathlib import Path

from ..files import write_atomically


MADE_BY_FILE = "made_by.json"


def check_made_by(folder: Path, made_by: dict) -> None:
    """Refuse a folder with the result of something else.

    Args:
        folder: where a result is, or will be.
        made_by: what it depends on, as JSON values.

    Raises:
        ValueError: the folder was made by something else; the message says in what it differs.
    """
    path = folder / MADE_BY_FILE
    known = json.loads(path.read_text()) if path.is_file() else made_by
    if known != made_by:
        differing = ", ".join(key for key, value in made_by.items() if known.get(key) != value)
        raise ValueError(
            f"`{folder}` holds the result of another evaluation, which differs in: {differing}. Choose another "
            "--output_dir, or delete it."
        )


def write_made_by(folder: Path, made_by: dict) -> None:
    """Say what a result is made by. It is written before the result, so that no result is without."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MADE_BY_FILE, json.dumps(made_by, indent=2) + "\n")
