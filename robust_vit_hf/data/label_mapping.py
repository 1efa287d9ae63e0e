"""Mapping of a dataset's labels to a model's classes by name."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence

import datasets
from transformers import PreTrainedConfig
from transformers.utils import logging

from .imagenet_classes import class_names, label_of_wnid, wnids


logger = logging.get_logger(__name__)


def classes_of_model(config: PreTrainedConfig) -> list[str]:
    """Class names of a model in the order of its logits."""
    return [config.id2label[index] for index in range(config.num_labels)]


def class_index(name: str, model_names: Sequence[str]) -> int:
    """Index of a model's class, given its name or index.

    Args:
        model_names: names of the model's classes, see [`classes_of_model`].

    Raises:
        ValueError: the model has no such class, or several.
    """
    places = [index for index, known in enumerate(model_names) if known == name]
    if len(places) == 1:
        return places[0]
    if name.isdecimal() and int(name) < len(model_names):
        return int(name)
    close = difflib.get_close_matches(name, model_names, n=1)
    raise ValueError(
        f"`{name}` names {len(places)} classes of the model{f' (did you mean `{close[0]}`?)' if close else ''}. Expected a name of "
        f"`config.id2label` that only one class has, or an index in 0–{len(model_names) - 1}."
    )


def class_names_of(features: datasets.Features) -> tuple[str, ...] | None:
    """Class names of the column `label` in order; `None` if it has none."""
    label = features.get("label")
    label = getattr(label, "feature", label)  # of a list of labels
    return tuple(label.names) if isinstance(label, datasets.ClassLabel) else None


def label_mapping(names: Sequence[str] | None, model_names: Sequence[str], source: str) -> dict[int, int] | None:
    """Map each label of a dataset to the model's class of the same name.

    Args:
        names: names of the dataset's classes, in the order of its labels.
        model_names: names of the model's classes, see [`classes_of_model`].
        source: name of the dataset in errors.

    Returns:
        The mapping, or `None` if labels need no change: the dataset has the model's first classes in their order, or no
        names, or one of the two has only numbers (from 0 on, or transformers' `LABEL_n`), and as many classes as the other. Wnids
        are names of the classes of ImageNet-1k.

    Raises:
        ValueError: the dataset has a class that the model does not have, or another number of classes where one of the two has
            only numbers.
    """
    mapping = mapping_by_name(names, model_names, source)
    if mapping is None or all(label == place for label, place in mapping.items()):
        return None
    return mapping


def mapping_by_name(names: Sequence[str] | None, model_names: Sequence[str], source: str) -> dict[int, int] | None:
    """The model's class of each label, even if all have the same number; `None` if one of the two has no names.
    Arguments and errors are those of [`label_mapping`]."""
    names, model_names = tuple(names or ()), tuple(model_names)
    if not names:
        return None
    if names == model_names:
        return {label: label for label in range(len(names))}
    places = {name: index for index, name in enumerate(model_names) if model_names.count(name) == 1}
    of_imagenet = are_of_imagenet(model_names)
    if of_imagenet and label_of_wnid().keys() >= {*names}:
        places = label_of_wnid()
    elif not places.keys() >= {*names}:
        if unnamed(names) and unnamed(model_names):
            numbers = {str(number): number for number in range(len(model_names))}
            places = {name: numbers.get(name.removeprefix("LABEL_")) for name in names}
        elif unnamed(model_names) or names == tuple(map(str, range(len(names)))) or names == _labels(len(names)):
            if len(names) != len(model_names):
                raise ValueError(
                    f"`{source}` has {len(names)} classes, but the model has {len(model_names)}, and a class such as `{names[0]}` cannot "
                    f"be mapped by name to one such as `{model_names[0]}`: give a model with a head for the classes of this set, or "
                    "name the classes of both alike, those of the model in `config.id2label`; where the labels are the model's, "
                    '`dataset.cast_column("label", datasets.Value("int64"))`.'
                )
            return None
        elif of_imagenet and len(names) == 1000 and _are_imagenet(names):
            return None
    if unknown := [name for name in names if places.get(name) is None]:
        several = model_names.count(unknown[0]) > 1
        raise ValueError(
            f"`{source}` has {len(unknown)} {'class' if len(unknown) == 1 else 'classes'} that the model "
            f"{'has more than once' if several else 'does not have'}, such as `{unknown[0]}`; those of the model are "
            f"{', '.join(model_names[:4])}{', …' if len(model_names) > 4 else ''}. Expected classes of the model, in any order: "
            "give a model with a head for these classes, or rename them: "
            '`dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    mapping = {label: places[name] for label, name in enumerate(names)}
    if any(label != place for label, place in mapping.items()):
        logger.warning(f"`{source}` has the model's classes in another order: its labels are mapped by name.")
    return mapping


def align_labels(dataset: datasets.Dataset, model_names: Sequence[str], source: str) -> datasets.Dataset:
    """The dataset with labels mapped to the model's classes. Arguments and errors are those of [`label_mapping`]."""
    mapping = label_mapping(class_names_of(dataset.features), model_names, source)
    if mapping is None:
        return dataset
    labels = [
        label if label in (None, -1) else map_label(mapping, label, source)
        for label in dataset.with_format(None)["label"]
    ]
    return dataset.remove_columns("label").add_column("label", labels, feature=datasets.Value("int64"))


def map_label(mapping: dict[int, int], label: int, source: str) -> int:
    """The class of a label.

    Raises:
        ValueError: the label has no name.
    """
    if label not in mapping:
        raise ValueError(
            f"`{source}` has the label {label}, but names for 0–{len(mapping) - 1} alone: correct the rows or the names."
        )
    return mapping[label]


def unnamed(names: Sequence[str]) -> bool:
    """Whether names are only indices of classes."""
    return all(re.fullmatch(r"(LABEL_)?\d+", str(name)) for name in names)


def check_same_classes(before: Sequence[str], after: Sequence[str]) -> None:
    """Check that two models have the same number of classes and, if both have names, the same names. Numbers, with `LABEL_` before
    them or without, are no names, but the same ones must have the same order: sorted as text, 10 comes before 2.

    Raises:
        ValueError: the classes differ; the message names the first difference.
    """
    if len(before) != len(after):
        raise ValueError(
            f"The models have {len(before)} and {len(after)} classes, so that they cannot be compared: expected a model and "
            "the one that was finetuned from it."
        )
    first, second = ([str(name).removeprefix("LABEL_") for name in names] for names in (before, after))
    differing = [index for index, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]]
    both_named = not unnamed(before) and not unnamed(after)
    if differing and (both_named or sorted(first) == sorted(second)):
        index = differing[0]
        raise ValueError(
            f"The models have other `id2label` for {len(differing)} classes, so that they cannot be compared: class {index} "
            f"is `{before[index]}` before and `{after[index]}` after."
        )


def check_class_names(classes: Sequence[str]) -> list[str]:
    """Names of the classes of a new head, without space around them.

    Raises:
        ValueError: there are fewer than two, one is empty, or two are the same.
    """
    names = [name.strip() for name in classes]
    if len(names) < 2:
        raise ValueError(f"Expected two classes or more, but got {', '.join(map(repr, names)) or 'none'}.")
    if "" in names:
        raise ValueError(f"Class {names.index('')} of {len(names)} has an empty name: expected a name for each class.")
    if repeated := [f"`{name}`" for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"Expected different names of the {len(names)} classes, but {', '.join(repeated[:4])}{', …' if len(repeated) > 4 else ''} "
            "stand there more than once: rename them, such as `crane bird` and `construction crane`."
        )
    return names


def _labels(count: int) -> tuple[str, ...]:
    """Default names of transformers."""
    return tuple(f"LABEL_{index}" for index in range(count))


def are_of_imagenet(names: Sequence[str]) -> bool:
    """Whether a model's classes are those of ImageNet-1k in its order, by their names, or 1000 without names."""
    return len(names) == 1000 and (unnamed(names) or _are_imagenet(names))


def _are_imagenet(names: Sequence[str]) -> bool:
    """Whether 1000 names are those of ImageNet-1k in its order. Spellings and synonyms vary, so half must match. Less than 1 % may
    be names of other classes (projectiles are called missile too), if their own names are nowhere: classes are not swapped."""
    if tuple(names) == wnids():
        return True
    known = [name.lower() for name in class_names()]
    first = [name.split(",")[0].strip().lower() for name in names]
    misplaced = [right for name, right in zip(first, known, strict=True) if name != right and name in known]
    swapped = {*misplaced} & {*first}
    return not swapped and len(misplaced) < 10 and sum(map(str.__eq__, first, known)) >= 500
