"""Publishable names, settings and messages, without local paths and tokens."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def public_name(name: str) -> str:
    """Last component of a path. Other text, such as a Hub id that is not a local path, is unchanged."""
    is_path = re.search(r"[/\\]", name) or name in ("..", ".", "~")
    return _last_component(name) if is_path and not is_hub_id(name) else name


def public_settings(settings: Any) -> Any:
    """Apply [`public_name`] to all text in JSON values. A `…_dir` is always reduced to its last component."""
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
    """Whether a name has the form `owner/name`, and there is no such file or folder."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).exists()


def check_on_hub(name: str, kind: str = "model", caches: Iterable[Path] = ()) -> None:
    """Raise an error at once for a Hub id that is in no cache, if it does not exist or the Hub cannot be reached: libraries try for a minute."""
    from huggingface_hub import HfApi, constants

    cache = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")
    if not any(path.exists() for path in (cache, *caches)):
        try:
            HfApi().repo_info(name, repo_type=kind, timeout=10)
        except Exception as error:  # of the HTTP client too, which depends on the version of huggingface_hub
            owner = Path(name).parent
            near = difflib.get_close_matches(Path(name).name, os.listdir(owner) if owner.is_dir() else [], n=1)
            hint = f" (did you mean `{owner / near[0]}`?)" if near else ""
            raise FileNotFoundError(
                f"`{name}` is not a folder here{hint}, and cannot be found as a {kind} on the Hub: {error}."
            ) from error


def hide_tokens(message: str) -> str:
    """Hide the Hub tokens in a message, which may quote one that was given as a file or after a mistyped option."""
    return re.sub(r"hf_[A-Za-z0-9]{30,}", "hf_…", message)
