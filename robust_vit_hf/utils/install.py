"""Installation of this package's extras."""


def install_command(extra: str) -> str:
    """Command that installs an extra such as `"data"` from a checkout, since no package index has it."""
    return f"pip install -e '.[{extra}]'"
