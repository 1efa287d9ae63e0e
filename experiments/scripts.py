"""What the scripts of this folder share: modules with a `main` that parses its own arguments."""

import argparse


def script_parser(documentation: str) -> argparse.ArgumentParser:
    """Parser whose help is the docstring of a script."""
    return argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
