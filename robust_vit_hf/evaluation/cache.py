"""Cached results and the fingerprint of their inputs."""

from pathlib import Path

from ..utils.files import read_json, write_json


FINGERPRINT_FILE = "fingerprint.json"


def check_fingerprint(folder: Path, fingerprint: dict) -> None:
    """Raise a `ValueError` if a folder holds the result of other inputs. A fingerprint is a JSON object of all inputs."""
    known = read_json(folder / FINGERPRINT_FILE)
    if known is None and folder.is_dir() and any(folder.glob("*.json")):
        raise ValueError(
            f"`{folder}` holds results without a `{FINGERPRINT_FILE}`, such as results of an earlier version. Choose another "
            "--output_dir, or delete it."
        )
    if known not in (None, fingerprint):
        differing = ", ".join(key for key, value in fingerprint.items() if known.get(key) != value)
        raise ValueError(
            f"`{folder}` holds the result of another evaluation, which differs in: {differing}. Choose another "
            "--output_dir, or delete it."
        )


def write_fingerprint(folder: Path, fingerprint: dict) -> None:
    """Write a fingerprint. It is written before the result, so that every result has one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FINGERPRINT_FILE, fingerprint)
