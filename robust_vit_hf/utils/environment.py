"""Versions and hardware used for a result."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def environment() -> dict:
    """`versions` of Python and packages, `hardware`, and the `commit` of this code, as JSON values."""
    names = ("robust-vit-hf", "torch", "transformers", "datasets", "accelerate")
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "hardware": f"{device}, {threads} CPU thread{'s' if threads > 1 else ''}",
        "commit": COMMIT,
    }


def _commit() -> str | None:
    """Commit of this package's checkout, with `-dirty` if code or settings differ from it, since results that are written between two
    trainings change neither; `None` for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    commands = ["rev-parse", "HEAD"], ["diff", "--name-only", "HEAD", "--", "*.py", "*.yaml"]
    try:
        commit, edited = (
            subprocess.run(["git", "-C", checkout, *of], capture_output=True, text=True, check=True).stdout.strip()
            for of in commands
        )
        return f"{commit}-dirty" if edited else commit
    except (OSError, subprocess.CalledProcessError):  # without git, or in another user's checkout
        return None


COMMIT = _commit()  # of the code that is loaded, whatever happens to the checkout later
