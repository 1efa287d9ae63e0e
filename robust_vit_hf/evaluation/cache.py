"""Cached results and the fingerprint of their inputs."""

import json
from pathlib import Path

from ..utils.files import write_atomically


FINGERPRINT_FILE = "fingerprint.json"


def check_fingerprint(folder: Path, fingerprint: dict) -> None:
    """Refuse a folder that holds the result of other inputs.

    Args:
        folder: where a result is, or will be.
        fingerprint: what the result depends on, as JSON values.

    Raises:
        ValueError: the fingerprint in the folder is another one; the message names the inputs that differ.
    """
    path = folder / FINGERPRINT_FILE
    known = json.loads(path.read_text()) if path.is_file() else fingerprint
    if known != fingerprint:
        differing = ", ".join(key for key, value in fingerprint.items() if known.get(key) != value)
        raise ValueError(
            f"`{folder}` holds the result of another evaluation, which differs in: {differing}. Choose another "
            "--output_dir, or delete it."
        )


def write_fingerprint(folder: Path, fingerprint: dict) -> None:
    """Write the fingerprint. It is written before the result, so that no result lacks it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FINGERPRINT_FILE, json.dumps(fingerprint, indent=2) + "\n")
