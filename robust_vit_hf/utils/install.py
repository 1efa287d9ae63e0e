"""Installation of this package's extras."""


def install_command(extra: str) -> str:
    """Command that installs an extra such as `"data"` from a checkout, since the package is not on PyPI."""
    return f"pip install -e '.[{extra}]'"
