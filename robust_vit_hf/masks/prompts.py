"""Names that mask makers look for in an image, by its label."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..data.imagenet_classes import class_names, label_of_wnid


Prompts = Callable[[Any], Sequence[str] | None]  # names to look for, by label; `None` for a label without


def prompts_of_labels(features: datasets.Features, prompts: Path | None) -> Prompts:
    """Function that returns the prompt names of a label: those in the prompts file, or the class name where it has
    none, without underscores and synonyms. The file may have either form of a name."""
    label = features.get("label")
    if not isinstance(label, datasets.ClassLabel):
        raise ValueError(
            f"The images have labels of type {label}, expected a `ClassLabel` with names to prompt with: "
            '`dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    names = [class_names()[label_of_wnid()[name]] if name in label_of_wnid() else name for name in label.names]
    texts = [name.replace("_", " ").split(",")[0].strip() or name for name in names]  # `great_white_shark, man-eater`
    if prompts is None:
        return {label: [text] for label, text in enumerate(texts)}.get
    given = _read_prompts(prompts)
    if unknown := given.keys() - {*texts, *names, *label.names}:
        raise ValueError(
            f"`{prompts}` names `{min(unknown)}`, which is no class of the images: they have `{names[0]}` and so on."
        )
    forms = zip(names, label.names, texts, strict=True)
    lists = [next((given[form] for form in of_label if form in given), [of_label[-1]]) for of_label in forms]
    return dict(enumerate(lists)).get


def _read_prompts(path: Path) -> dict[str, list[str]]:
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        given = None
    is_valid = isinstance(given, dict) and all(
        isinstance(names, list) and names and all(isinstance(name, str) and name.strip(" .") for name in names)
        for names in given.values()
    )
    if not is_valid:
        raise ValueError(
            f'`{path}` must be a JSON object of classes and lists of names, such as {{"tench": ["head", "fins"]}}.'
        )
    return given


def names_to_find(row: dict, prompts: Prompts) -> list[str]:
    """Names with which a maker looks for the object of a row."""
    label = row.get("label")
    names = None if label is None else prompts(label)
    if not names:
        raise ValueError(
            f"There is no prompt for the label {label!r}: give images with named classes, or add it to the prompts."
        )
    return list(names)
