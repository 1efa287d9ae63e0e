"""How extras of this package, which is in no index, are installed."""


def install_command(extra: str) -> str:
    """Command that installs an extra such as `"data"`, run in a checkout."""
    return f"pip install -e '.[{extra}]'"
