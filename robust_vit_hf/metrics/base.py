"""Base classes of the metrics, which reduce batches to a few numbers per image, and their form as metrics of `evaluate`."""

import inspect
import reprlib
from abc import ABC, abstractmethod

import datasets
import evaluate
import numpy as np


class StreamingMetric(ABC):
    """A metric over a set that is added batch by batch. Batches that raise an error are not added. Subclasses define `reduce` and `scores`,
    which change nothing, since [`ScriptMetric`] also calls them."""

    columns: dict[str, str]  # dtypes of the results of [`reduce`] by name, except `usable` and `group`

    def __init__(self):
        self._batches: list[dict[str, np.ndarray]] = []
        self.num_images = 0  # images that were added, usable or not

    @abstractmethod
    def reduce(self, predictions, references, first_image: int = 0) -> dict[str, np.ndarray]:
        """Numbers `(N,)` of the images of a batch, by name; `usable` (bool) says whether an image counts.

        Args:
            predictions, references: arrays, tensors on any device, or lists.
            first_image: number of the first image in the whole set, for errors.
        """

    @abstractmethod
    def scores(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images from the results of [`reduce`], in any order."""

    def summarize(self, images: dict[str, np.ndarray]) -> dict:
        """[`scores`] of all images, of which at least one must count."""
        if not images["usable"].any():
            raise ValueError(f"zero usable images: {len(images['usable'])} were added, all without a label")
        return self.scores(images)

    def update(self, predictions, references, **columns) -> None:
        """Add a batch. Arguments are those of [`reduce`]."""
        check_lengths(predictions=predictions, references=references, **columns)
        batch = self.reduce(predictions, references, first_image=self.num_images, **columns)
        self._batches.append(batch)
        self.num_images += len(batch["usable"])

    def compute(self) -> dict:
        """[`summarize`] of all added images."""
        names = self._batches[0] if self._batches else ()
        images = {name: np.concatenate([batch[name] for batch in self._batches]) for name in names}
        return self.summarize(images or {"usable": np.empty(0, dtype=bool)})


def to_numpy(values, name: str = "values") -> np.ndarray:
    """Convert a list, an array, or any tensor, also in bfloat16 or on another device. Errors contain the `name`."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.itemsize == 2:
            values = values.float()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, but got lists of several lengths") from error


def to_numbers(values, name: str, ndim: int, kinds: str = "biuf", most: int | None = None) -> np.ndarray:
    """Convert to an array with a dtype of one of these kinds, and `ndim` axes, or up to `most`. Errors contain the `name`."""
    array = to_numpy(values, name)
    if array.dtype.kind not in kinds or not ndim <= array.ndim <= (most or ndim) or not array.size:
        raise ValueError(f"{name}: expected numbers in {ndim} axes, but got {array.dtype} of shape {array.shape}")
    return array


def to_class_subset(ids) -> np.ndarray | None:
    """Ids of a class subset, ascending; `None` for all classes."""
    return None if ids is None else np.unique(to_numbers(ids, "class_subset", 1, "iu"))


def check_lengths(**arguments) -> None:
    """Raise an error unless each is a list, array or tensor with a value for each image."""
    counts: dict[str, int | str] = {}
    given = {name: values for name, values in arguments.items() if name != "groups" or values is not None}
    for name, values in given.items():
        is_list = hasattr(values, "__len__") and not isinstance(values, (str, dict)) and getattr(values, "ndim", 1) > 0
        counts[name] = len(values) if is_list else type(values).__name__
        if not is_list or len({*counts.values()}) > 1:
            raise ValueError(f"{name}: expected a list or array with a value for each image, but got {counts}")


def place_of(first_image: int, row: int) -> str:
    """An image in errors: its number in the set and its row in the batch."""
    return f"image {first_image + row} (row {row} of the batch)"


def to_accepted_ids(
    references, first_image: int, num_classes: int | None = None, class_subset: np.ndarray | None = None
) -> list[list[int]]:
    """Lists of accepted ids, from references: ids or lists of ids `(N,)`, or an array `(N, m)` padded with -1."""
    if class_subset is not None and (class_subset[0] < 0 or class_subset[-1] >= (num_classes or np.inf)):
        raise ValueError(f"class_subset: expected ids of the {num_classes} classes, but got {class_subset.tolist()}")
    possible = None if num_classes is None else range(num_classes)
    possible = possible if class_subset is None else set(class_subset.tolist())
    accepted = []
    for row, reference in enumerate(to_numpy(references) if hasattr(references, "shape") else references):
        values = to_numpy(reference, f"the reference of {place_of(first_image, row)}")
        ids = [value for value in values.tolist() if value != -1] if values.ndim else [values.item()]
        valid = values.ndim <= 1 and all(type(value) is int and value >= 0 for value in ids)
        if not valid or (ids and possible is not None and not any(value in possible for value in ids)):
            raise ValueError(
                f"the reference of {place_of(first_image, row)} is {reprlib.repr(values.tolist())}: expected the id of a class "
                f"{'in class_subset' if class_subset is not None else 'of the model'}, or a list of ids, which is empty for an image without a label"
            )
        accepted.append(list(dict.fromkeys(ids)))
    return accepted


class ScriptMetric(evaluate.Metric):
    """A [`StreamingMetric`] (`metric_class`) as a metric of `evaluate`. Its settings are arguments of `evaluate.load`. `evaluate` stores
    the reduced images: their numbers in `predictions`, whether they count in `references`, and their groups as strings."""

    metric_class: type[StreamingMetric]
    citation: str = """\
@inproceedings{chefer2022optimizing,
  title={Optimizing Relevance Maps of Vision Transformers Improves Robustness},
  author={Chefer, Hila and Schwartz, Idan and Wolf, Lior},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}
"""
    reference_url: str = "https://huggingface.co/papers/2206.01161"

    def _info(self):
        columns = {column: datasets.Value(dtype) for column, dtype in self.metric_class.columns.items()}
        features = {"predictions": columns, "references": datasets.Value("bool")}
        if self.config_name == "groups":
            features["groups"] = datasets.Value("string")
        return evaluate.MetricInfo(
            description=inspect.getdoc(self.metric_class),
            citation=self.citation,
            inputs_description="\n\n".join(map(inspect.getdoc, (self.metric_class.reduce, self.metric_class.scores))),
            features=datasets.Features(features),
            reference_urls=[self.reference_url],
        )

    def __init__(self, *args, **kwargs):
        own = inspect.signature(self.metric_class).parameters
        settings = {name: kwargs.pop(name) for name in own if name in kwargs}
        # The base class ignores unknown keywords.
        if unknown := sorted(kwargs.keys() - inspect.signature(evaluate.Metric).parameters.keys()):
            known = ", ".join(own) or "none"
            raise TypeError(f"{self.metric_class.__name__} has no setting {', '.join(unknown)}: expected {known}")
        self.metric = self.metric_class(**settings)
        super().__init__(*args, **kwargs)

    def add_batch(self, *, predictions=None, references=None, **groups):
        """Add images, reduced to a few numbers each. A batch that raises an error is not added."""
        check_lengths(predictions=predictions, references=references, **groups)
        images = self.metric.reduce(predictions, references, first_image=len(self), **groups)
        groups = {name: images.pop("group").tolist() for name in groups}
        usable = images.pop("usable").tolist()
        columns = [column.tolist() for column in images.values()]
        rows = [dict(zip(images, row, strict=True)) for row in zip(*columns, strict=True)]
        super().add_batch(predictions=rows, references=usable, **groups)

    def add(self, *, prediction=None, reference=None, **groups):
        """Add one image."""
        # `evaluate.combine` uses the plural names here too.
        image = {"predictions": prediction, "references": reference, **groups}
        image["predictions"] = to_numpy(image["predictions"], "prediction")
        self.add_batch(**{name: value[None] if name == "predictions" else [value] for name, value in image.items()})

    def _compute(self, predictions, references, groups=None):
        images = {name: np.array([row[name] for row in predictions]) for name in self.features["predictions"]}
        check_lengths(references=references, groups=groups)
        images |= {} if groups is None else {"group": np.array(groups, dtype=object)}
        return self.metric.summarize(images | {"usable": np.array(references, dtype=bool)})
