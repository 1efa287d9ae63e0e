"""Cached session with the page's two models, reloaded when a file in their folders changes."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from pathlib import Path

from ..evaluation.session import Session, load_sides
from ..models.preprocessing import Preset, resolve_preset
from ..utils.cache import stamps
from ..utils.processes import make_accelerator


def while_unchanged(function: Callable) -> Callable:
    """A function of two models by name, the second of which may be `None`, and of more, that keeps its last two results
    while no file changes in the folders of the models."""
    kept = lru_cache(maxsize=2)(lambda files, *arguments: function(*arguments))

    @wraps(function)
    def call(before: str, after: str | None, *others):
        folders = [Path(name) for name in (before, after) if name is not None and Path(name).is_dir()]
        files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
        return kept(tuple(stamps(files)), before, after, *others)

    return call


@while_unchanged
def open_pair(before: str, after: str | None, preset: Preset | None) -> Session:
    """Session of two models, or of one, without sets or store.

    Args:
        before, after: names, folders or Hub ids, as in [`load_model`]; `after` may be `None`.
        preset: preprocessing of both; `None` for that of [`resolve_preset`].

    Raises:
        OSError: there is no such model.
        ValueError: the models have other classes, or one has no relevance map or cannot be loaded.
    """
    preset = resolve_preset(preset, before, after)
    accelerator = make_accelerator(bf16=False)
    names = {"before": before} | ({} if after is None else {"after": after})
    sides = load_sides(names, preset, accelerator, with_maps=True)
    for side in sides.values():
        side.model.eval().requires_grad_(False)
    return Session(sides, {}, accelerator, preset=preset)


def distinct_names(classes: Sequence[str]) -> list[str]:
    """Class names, with the index added to repeated ones."""
    names = list(map(str, classes))
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]
