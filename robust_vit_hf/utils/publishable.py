"""Names and settings as they may be published: without the folders of the machine."""

import re
from pathlib import Path


def public_name(name: str) -> str:
    """A Hub id, a relative path or any other text unchanged, and of an absolute path the last component."""
    return Path(name).name if Path(name).is_absolute() else name


def public_settings(settings: dict) -> dict:
    """Settings with each text as [`public_name`] gives it."""
    return {key: public_name(value) if isinstance(value, str) else value for key, value in settings.items()}


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name` and is not a path on this machine."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
