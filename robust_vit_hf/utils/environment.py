"""Versions, hardware and installation: what a result was made with, and how extras are installed."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


def environment() -> dict:
    """`versions` of Python and packages, `hardware`, and in a command the `commit` of this code, as JSON values."""
    import torch

    names = ("robust-vit-hf", "torch", "transformers", "datasets", "accelerate")
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "hardware": f"{device}, {threads} CPU thread{'s' if threads > 1 else ''}",
        "commit": loaded_commit() if loaded_commit.cache_info().currsize else None,
    }


@cache
def loaded_commit() -> str | None:
    """Return the commit of this package's checkout, with `-dirty` if code or settings differ from it; `None` for an installed
    package. Each command calls this when it begins, so that it describes the loaded code; Python calls do not, since it starts git."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        commit, edited = (
            subprocess.run(["git", "-C", checkout, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["diff", "--name-only", "HEAD", "--", "*.py", "*.yaml"])
        )
        return f"{commit}-dirty" if edited else commit
    except (OSError, subprocess.CalledProcessError):  # without git, or in another user's checkout
        return None


def install_command(extra: str) -> str:
    """Command that installs an extra such as `"data"` from a checkout, since no package index has it."""
    return f"pip install -e '.[{extra}]'"


def package_file(package: str, *parts: str, install: str) -> Path:
    """Return the path of a package's data file without importing the package, which may take seconds."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"The package `{package}`, whose files are needed, is not installed: {install}")
    return Path(spec.submodule_search_locations[0], *parts)
