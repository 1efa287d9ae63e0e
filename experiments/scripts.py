"""What the scripts of this folder share: modules with a `main` that parses its own arguments."""

import argparse
from pathlib import Path


def script_parser(documentation: str) -> argparse.ArgumentParser:
    """Parser whose help is the docstring of a script."""
    return argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def chosen_model(folder: Path) -> Path | None:
    """Folder of the model that `improve` chose, better or not; `None` if it was the original."""
    return next(
        (path.parent for path in (folder / "config.json", folder / "candidates" / "config.json") if path.is_file()),
        None,
    )
