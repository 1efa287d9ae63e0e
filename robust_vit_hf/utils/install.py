"""Installation of this package's extras, and files of the packages that they install."""

from importlib.util import find_spec
from pathlib import Path


def install_command(extra: str) -> str:
    """Command that installs an extra such as `"data"` from a checkout, since no package index has it."""
    return f"pip install -e '.[{extra}]'"


def package_file(package: str, *parts: str, install: str) -> Path:
    """Data file of a package, without importing it, which may take seconds. Errors suggest the command `install`."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"Files of the package `{package}` are needed. Install it: {install}")
    return Path(spec.submodule_search_locations[0], *parts)
