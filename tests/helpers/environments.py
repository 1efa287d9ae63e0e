"""Fresh environments with a wheel of this package and what one of its extras asks for, and nothing else, without a network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def run(*command, folder: Path, **environment) -> str:
    """stdout of a command in a folder. Nothing is fetched: build tools are those of this environment, and packages its own."""
    variables = (
        os.environ | {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "PYTHONPATH": ""} | environment
    )
    done = subprocess.run(list(map(str, command)), cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def fresh_environment(folder: Path, wheel: Path, extra: str) -> Path:
    """Make a virtual environment of the packages that `wheel[extra]` needs, by links to those installed here; pip refuses the wheel if
    one is missing. Returns the folder of its commands."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for needed in needed_by("robust-vit-hf", [extra]).values():
        _link(needed, site)
    commands = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", commands / "python"]
    run(*pip, "install", "--no-compile", f"{wheel}[{extra}]", folder=folder)
    return commands


def needed_by(name: str, extras: Iterable[str]) -> dict[str, Distribution]:
    """Installed distributions that one asks for with its extras, directly or not, by name; without itself."""
    found: dict[str, Distribution] = {}
    waiting, seen = [(name, extra) for extra in ("", *extras)], set()
    while waiting:
        owner, extra = waiting.pop()
        if (owner, extra) in seen:
            continue
        seen.add((owner, extra))
        found[owner] = distribution(owner)
        for requirement in map(Requirement, found[owner].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {owner: one for owner, one in found.items() if owner != name}


def _link(installed: Distribution, site: Path) -> None:
    """Hard links, since an installer may remove a file, and must not remove it here. With what Python compiled, which takes a minute."""
    for file in {*installed.files}:  # some are listed twice
        if ".." in file.parts or file.suffix == ".pyc":  # commands are outside
            continue
        source, linked = Path(installed.locate_file(file)), site / file
        pairs = [(source, linked)]
        if file.suffix == ".py":
            pairs.append((Path(cache_from_source(source)), Path(cache_from_source(linked))))
        for existing, new in pairs:
            if existing.is_file():
                new.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(existing, new)
                except OSError:  # on another file system
                    shutil.copy2(existing, new)
