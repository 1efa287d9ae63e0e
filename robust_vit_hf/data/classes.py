"""The classes of ImageNet-1k (timm's lists, by wnid), of datasets and of models, and their mapping by name."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from functools import cache
from itertools import zip_longest
from typing import Any

import datasets
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..utils.environment import install_command, package_file


logger = logging.get_logger(__name__)


@cache
def timm_list(file_name: str) -> str:
    """Read a class list of timm, such as `imagenet_synsets.txt`."""
    return package_file("timm", "data", "_info", file_name, install=install_command("data")).read_text()


@cache
def wnids() -> tuple[str, ...]:
    """The 1000 sorted wnids; the position is the label."""
    return tuple(timm_list("imagenet_synsets.txt").split())


@cache
def label_of_wnid() -> dict[str, int]:
    return {wnid: label for label, wnid in enumerate(wnids())}


@cache
def class_names() -> tuple[str, ...]:
    """First English name of each class, such as "tench". Two classes may share a name."""
    lemmas = dict(line.split("\t") for line in timm_list("imagenet_synset_to_lemma.txt").splitlines())
    return tuple(lemmas[wnid].split(",")[0] for wnid in wnids())


@cache
def subset(name: str) -> tuple[int, ...]:
    """ImageNet-1k labels of the 200 classes of ImageNet-A or ImageNet-R, in the order of the set's own labels."""
    return tuple(map(int, timm_list(f"{name.replace('-', '_')}_indices.txt").split()))


def are_named_as_imagenet(names: Sequence[str]) -> bool:
    """Whether names are those of ImageNet-1k in its order. At least half must match, and under 1 % may be names of other classes."""
    if len(names) != 1000:
        return False
    if tuple(names) == wnids():
        return True
    known = [name.lower() for name in class_names()]
    first = [name.split(",")[0].strip().lower() for name in names]
    misplaced = [right for name, right in zip(first, known, strict=True) if name != right and name in known]
    swapped = {*misplaced} & {*first}
    return not swapped and len(misplaced) < 10 and sum(map(str.__eq__, first, known)) >= 500


def classes_of_model(config: PreTrainedConfig) -> list[str]:
    """Class names of a model in the order of its logits; `LABEL_n` if it has none, such as a new PVT."""
    indices = range(config.num_labels)
    return [str(config.id2label[index]) if config.id2label else f"LABEL_{index}" for index in indices]


def class_index(name: str, model_names: Sequence[str]) -> int:
    """Index of a model's class, given its name or index."""
    places = [index for index, known in enumerate(model_names) if known == name]
    if len(places) == 1:
        return places[0]
    if name.isdecimal() and int(name) < len(model_names):
        return int(name)
    close = "".join(f" (did you mean `{near}`?)" for near in difflib.get_close_matches(name, model_names, n=1))
    expected = f"the name of only one in `config.id2label`, or an index in 0–{len(model_names) - 1}"
    raise ValueError(f"`{name}` names {len(places)} classes of the model{close}. Expected {expected}.")


def class_names_of(features: datasets.Features) -> tuple[str, ...] | None:
    """Class names of the column `label` in order; `None` if it has none."""
    label = features.get("label")
    label = getattr(label, "feature", label)  # of a list of labels
    return tuple(label.names) if isinstance(label, datasets.ClassLabel) else None


def nfc(name: str) -> str:
    """Compose the accents of a name (NFC), which macOS stores decomposed."""
    return unicodedata.normalize("NFC", name)


def label_mapping(
    names: Sequence[str] | None, model_names: Sequence[str], source: str, labels: Collection[int] | None = None
) -> dict[int, int] | None:
    """Map each label to the model's class of the same name. Returns `None` if labels are the model's indices: there are no names, or
    only numbers for as many classes. If the `labels` of the images are given, the model need not have classes without images."""
    names, model_names = (
        tuple(nfc(str(name)).removeprefix("LABEL_") for name in given or ()) for given in (names, model_names)
    )
    if not names:
        moved = [(label, name) for label, name in enumerate(model_names) if unnamed([name]) and int(name) != label]
        if moved:  # such as those of folders sorted as text: 0, 1, 10, 2, …
            logger.warning(
                f"Labels of `{source}` are indices of the model's classes: {moved[0][0]} is `{moved[0][1]}`."
            )
        return None
    if are_of_imagenet(model_names) and label_of_wnid().keys() & {*names}:
        model_names = wnids()
    if names == model_names or (are_of_imagenet(model_names) and are_named_as_imagenet(names)):
        return {label: label for label in range(len(names))}
    places = {name: index for index, name in enumerate(model_names) if model_names.count(name) == 1}
    if not places.keys() >= {*names} and len(names) == len(model_names) and unnamed(names) != unnamed(model_names):
        if unnamed(model_names) or names == tuple(map(str, range(len(names)))):
            return None
    used = {*range(len(names))} if labels is None else labels
    if unknown := [name for label, name in enumerate(names) if name not in places and label in used]:
        lack = "has more than once" if unknown[0] in model_names else "does not have"
        shown = ", ".join([*model_names[:4], *["…"][: len(model_names) - 4]])
        raise ValueError(
            f"`{source}` has {len(names)} class{'es' if len(names) > 1 else ''}, {len(unknown)} of which the model {lack}, such as `{unknown[0]}`; the model has {len(model_names)}: {shown}. "
            "Give a model with a head for these classes, or rename the classes."
        )
    mapping = {label: places[name] for label, name in enumerate(names) if name in places}
    if any(label != place for label, place in mapping.items()):
        logger.warning(f"`{source}` has the model's classes in another order: its labels are mapped by name.")
    return mapping


def check_one_numbering(model_names: Sequence[str], splits: Mapping[str, Any]) -> None:
    """Check that splits number their classes alike if the model has no class names to map them to."""
    names = {split: class_names_of(getattr(rows, "features", None) or {}) for split, rows in splits.items()}
    names = {split: classes for split, classes in names.items() if classes and not unnamed(classes)}
    if not unnamed(model_names) or are_of_imagenet(model_names) or len({*names.values()}) < 2:
        return
    index, differing = _first_difference(*names.values())
    shown = ", ".join(f"`{name}` in `{split}`" for name, split in zip(differing, names, strict=True))
    raise ValueError(
        f"The model has no class names, and class {index} is {shown}: give all splits the same classes, or set `id2label` in the model's `config.json`."
    )


def _first_difference(*classes: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    return next(pair for pair in enumerate(zip_longest(*classes, fillvalue="missing")) if len({*pair[1]}) > 1)


def align_labels(dataset: datasets.Dataset, model_names: Sequence[str], source: str) -> datasets.Dataset:
    """Return the dataset with labels mapped to the model's classes, see [`label_mapping`]."""
    labels = dataset.with_format(None)["label"][:] if "label" in dataset.column_names else []
    used = {label for label in labels if not isinstance(label, list)}
    mapping = label_mapping(class_names_of(dataset.features), model_names, source, used)
    if mapping is None or all(label == place for label, place in mapping.items()):
        return dataset
    labels = [label if label in (None, -1) else mapping[label] for label in labels]
    return dataset.remove_columns("label").add_column("label", labels, feature=datasets.Value("int64"))


def unnamed(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"(LABEL_)?\d+", str(name)) for name in names)


def check_same_classes(before: Sequence[str], after: Sequence[str]) -> None:
    """Check that two models have the same classes. If only one has names, their number is compared."""
    first, second = ([str(name).removeprefix("LABEL_") for name in names] for names in (before, after))
    comparable = sorted(first) == sorted(second) or not (unnamed(before) or unnamed(after))
    if len(first) != len(second) or (comparable and first != second):
        index, (old, new) = _first_difference(first, second)
        raise ValueError(f"The models cannot be compared: class {index} is `{old}` before and `{new}` after.")


def check_class_names(classes: Sequence[str]) -> list[str]:
    """Return the stripped class names of a new head, of which there must be at least two, all different."""
    names = [] if isinstance(classes, (str, Mapping, Set)) else [str(name).strip() for name in classes]
    repeated = [name for name, count in Counter(names).items() if count > 1 or not name]
    if len(names) < 2 or repeated:
        got = f"a {type(classes).__name__} of {len(classes)}{f' with {repeated[0]!r}' if repeated else ''}"
        raise ValueError(f"Expected a list of the names of two or more different classes, but got {got}.")
    return names


def are_of_imagenet(names: Sequence[str]) -> bool:
    """Whether a model's classes are those of ImageNet-1k in its order, or 1000 without names."""
    return len(names) == 1000 and (unnamed(names) or are_named_as_imagenet(names))
