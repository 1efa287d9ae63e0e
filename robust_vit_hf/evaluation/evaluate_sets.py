"""One pass of a model over a set: predictions, calibration and relevance."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from pyarrow import parquet as pq
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, default_data_collator

from ..data.layouts.si_score import METADATA_COLUMNS
from ..data.masked_dataset import undecoded
from ..data.transforms import eval_transform
from ..metrics.calibration import Calibration
from ..metrics.relevance_segmentation import RelevanceSegmentation
from ..metrics.robust_accuracy import RobustAccuracy, ranks, top_classes
from ..relevance.architectures import unwrap_pretrained
from ..relevance.relevance_map import forward_logits, relevance_map
from ..utils.files import atomic_file, read_json, write_json
from .protocols import EvaluationSet


PREDICTIONS_FILE, SCORES_FILE = "predictions.parquet", "scores.json"


@dataclass
class SetResult:
    """Predictions and scores of a model on a set.

    Args:
        predictions: `(N, k)` int64, the ids of the k = 5 best classes (fewer if logits are restricted to fewer), the best first, in the
            order of the set. Of equal logits, the class with the lower id ranks first.
        accepted: correct labels of each image; `None` for a set without labels.
        factors: `(N,)` float columns of the set, by name: angle, area, position.
        scores: those of [`RobustAccuracy`] and [`Calibration`] for a set with labels, and of [`RelevanceSegmentation`] for
            one with masks.
        file_names: `(N,)`, if the set has them.
    """

    predictions: np.ndarray
    accepted: list[list[int]] | None
    factors: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    file_names: list[str] | None = None

    @cached_property
    def classes(self) -> np.ndarray:
        """`(N,)` int: the class of each image, which is the first of its accepted labels; -1 without one."""
        return np.array([labels[0] if labels else -1 for labels in self.accepted or [[]] * len(self.predictions)])

    @property
    def usable(self) -> np.ndarray:
        """`(N,)` bool: images that have a label."""
        return self.classes >= 0

    @cached_property
    def ranks(self) -> np.ndarray:
        """`(N,)` int: rank of the first accepted label, see [`ranks`]."""
        return ranks(self.predictions, self.accepted)

    def correct(self, k: int = 1) -> np.ndarray:
        """`(N,)` bool: whether one of the best k classes is accepted."""
        return self.ranks < k

    def save(self, folder: Path) -> None:
        """Write `predictions.parquet`, a row for each image, and then `scores.json`, which marks the result as complete."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {"file_name": self.file_names, "predictions": self.predictions.tolist(), "accepted": self.accepted}
        columns |= {f"factor_{name}": values for name, values in self.factors.items()}
        columns = {name: values for name, values in columns.items() if values is not None}
        class_ids = datasets.List(datasets.Value("int64"))
        features = {"file_name": datasets.Value("string"), "predictions": class_ids, "accepted": class_ids}
        features = {name: features.get(name, datasets.Value("float64")) for name in columns}
        with atomic_file(folder / PREDICTIONS_FILE) as partial:
            pq.write_table(pa.table(columns, schema=datasets.Features(features).arrow_schema), partial)
        write_json(folder / SCORES_FILE, self.scores)

    @classmethod
    def load(cls, folder: Path) -> "SetResult | None":
        """Read a result that [`save`] wrote; `None` if there is no complete one."""
        scores = read_json(folder / SCORES_FILE)
        if scores is None:
            return None
        for name in scores.keys() & {"per_class_top1", "per_class_top5"}:  # JSON has no integer keys
            scores[name] = {int(label): value for label, value in scores[name].items()}
        columns = pq.read_table(folder / PREDICTIONS_FILE).to_pydict()
        factors = {
            name.removeprefix("factor_"): np.array(values, dtype=float)
            for name, values in columns.items()
            if name.startswith("factor_")
        }
        predictions, accepted = np.array(columns["predictions"]), columns.get("accepted")
        return cls(predictions, accepted, factors, scores, columns.get("file_name"))


def evaluate_sets(
    model: nn.Module,
    sets: dict[str, EvaluationSet],
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    *,
    relevance: bool = True,
    batch_size: int = 32,
    num_workers: int = 0,
    description: str = "evaluating",
) -> dict[str, SetResult]:
    """Run a model over sets, one pass each for all metrics.

    Maps explain the predicted class, as in the segmentation test of https://huggingface.co/papers/2206.01161. Under several
    processes each takes a share of the images, and all get the whole result.

    Args:
        model: image classification model on the accelerator's device.
        processor: image processor of the model, with a centre crop.
        relevance: whether to compute relevance maps for sets with masks, at three times the cost.
        batch_size, num_workers: images at once, and workers that read images, of each process.

    Raises:
        ValueError: an image or mask cannot be used (the row is named), the model was made for other classes, or
            gives logits that are not finite (the image is named).
    """
    model.eval()
    results = {}
    for name, rows in sets.items():
        rows = rows.for_model(name, unwrap_pretrained(model).config)
        with_masks = relevance and "mask" in rows.dataset.column_names
        dataset = rows.dataset.select_columns(["image", "mask"] if with_masks else ["image"])
        loader = image_loader(dataset, eval_transform(processor, rows.border), batch_size, num_workers)
        results[name] = evaluate_batches(
            model, loader, rows, accelerator, relevance=with_masks, description=f"{description}: {name}"
        )
    return results


def image_loader(dataset: datasets.Dataset, transform: Callable, batch_size: int, num_workers: int) -> DataLoader:
    """Loader of the transformed rows of a dataset, in their order. It raises a `ValueError` that names the row whose image or
    mask cannot be read or used."""
    return DataLoader(_Rows(dataset, transform), batch_size, num_workers=num_workers, collate_fn=default_data_collator)


class _Rows(torch.utils.data.Dataset):
    """Transformed rows of a dataset, in batches; of a batch that fails, the row that is the reason is named."""

    def __init__(self, dataset: datasets.Dataset, transform: Callable):
        self.dataset, self.rows = dataset, dataset.with_transform(transform)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        try:
            return self.rows.__getitems__(indices)
        except Exception as error:  # codecs raise anything
            if len(indices) > 1:
                return [row for index in indices for row in self.__getitems__([index])]
            (index,) = indices
            path = (undecoded(self.dataset)[index]["image"] or {"path": "no image"})["path"]
            raise ValueError(
                f"Row {index} ({path or 'image in the table'}) cannot be used: {error}. `robust-vit data describe` lists all "
                "such rows."
            ) from error


def evaluate_batches(
    model: nn.Module,
    loader: DataLoader,
    rows: EvaluationSet,
    accelerator: Accelerator,
    *,
    relevance: bool,
    description: str,
) -> SetResult:
    """The pass of [`evaluate_sets`] over one set, of which `loader` gives batches with `pixel_values` (and `mask`) in the
    order of `rows`. Scores are those of the main process; others have none."""
    main, labelled = accelerator.is_main_process, rows.accepted is not None
    # These take batches as they come, so that a large set never holds all logits or maps.
    calibration = Calibration(class_subset=rows.class_subset) if main and labelled else None
    segmentation = RelevanceSegmentation() if main and relevance else None
    predictions, done = [], 0
    with tqdm(total=len(rows.dataset), desc=description, unit="image", disable=not main) as progress:
        for batch in accelerator.prepare(loader):
            with torch.no_grad(), accelerator.autocast():
                if relevance:
                    output = relevance_map(model, batch["pixel_values"], check_finite=False)
                    maps, masks = accelerator.gather_for_metrics((output.relevance, batch["mask"]))
                    logits = output.logits
                else:
                    logits = forward_logits(model, batch["pixel_values"])
            logits = accelerator.gather_for_metrics(logits.float())
            check_logits(logits, rows.dataset, done, description)
            predictions.append(top_classes(logits, rows.class_subset).cpu())
            if calibration is not None:
                calibration.update(logits, rows.accepted[done : done + len(logits)])
            if segmentation is not None:
                segmentation.update(maps, masks)
            done += len(logits)
            progress.update(len(logits))

    file_names = rows.dataset.with_format(None)["file_name"] if "file_name" in rows.dataset.column_names else None
    result = SetResult(torch.cat(predictions).numpy(), rows.accepted, factors_of(rows.dataset), {}, file_names)
    accuracy = RobustAccuracy() if main and labelled else None
    if accuracy is not None:
        groups = [" ".join(map(str, values)) for values in zip(*result.factors.values(), strict=True)]
        accuracy.update(result.predictions, rows.accepted, groups=groups or None)
    for metric in filter(None, (calibration, segmentation, accuracy)):
        result.scores |= metric.compute()
    return result


def check_logits(logits: torch.Tensor, dataset: datasets.Dataset, first: int, description: str) -> None:
    """Refuse logits `(N, C)` that cannot be ranked. Every process checks those of all, so that all stop at once.

    Args:
        first: index in the dataset of the first of these N images.
        description: name of the pass in errors.

    Raises:
        ValueError: logits are NaN or infinite; the image is named.
    """
    if bad := (~logits.isfinite()).any(dim=1).nonzero().flatten().tolist():
        index, named = first + bad[0], "file_name" in dataset.column_names
        image = f"`{dataset.with_format(None)['file_name'][index]}`" if named else f"image {index}"
        raise ValueError(
            f"{description}: the logits of {image} are NaN or infinite. Look at the image and at the model's weights; in half "
            "precision, try float32."
        )


def factors_of(dataset: datasets.Dataset) -> dict[str, np.ndarray]:
    """Columns of SI-Score with the place and pose of the object, if they are known for every image."""
    factors = {}
    for name in sorted(set(METADATA_COLUMNS) & set(dataset.column_names)):
        values = np.array(dataset.with_format(None)[name], dtype=float)
        if not np.isnan(values).any():
            factors[name] = values
    return factors
