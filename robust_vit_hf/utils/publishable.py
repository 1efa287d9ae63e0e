"""Names and settings as they may be published: without the folders of the machine."""

import os
import re
from pathlib import Path
from typing import Any


def public_name(name: str) -> str:
    """Of a path, relative or absolute, the last component. A Hub id that is not a path here, and other text, as they are."""
    is_path = re.search(r"[/\\]", name) or name in ("..", ".", "~")
    return _last_component(name) if is_path and not is_hub_id(name) else name


def public_settings(settings: Any) -> Any:
    """JSON values with each text in them as [`public_name`] gives it. Of a `…_dir`, which need not exist yet and may look like a
    Hub id, the last component."""
    if isinstance(settings, dict):
        return {
            key: _last_component(str(value)) if str(key).endswith("_dir") and value else public_settings(value)
            for key, value in settings.items()
        }
    if isinstance(settings, (list, tuple)):
        return [public_settings(value) for value in settings]
    return public_name(str(settings)) if isinstance(settings, (str, Path)) else settings


def _last_component(path: str) -> str:
    return re.split(r"[/\\]", os.path.abspath(os.path.expanduser(path)).rstrip("\\"))[-1]


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name` and is not a path on this machine."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).exists()
