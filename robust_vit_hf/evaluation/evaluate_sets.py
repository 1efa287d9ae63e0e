"""One pass of a model over a set: predictions, calibration and relevance."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, default_data_collator

from ..data.layouts.si_score import METADATA_COLUMNS
from ..data.transforms import eval_transform
from ..metrics.calibration import Calibration
from ..metrics.relevance_segmentation import RelevanceSegmentation
from ..metrics.robust_accuracy import RobustAccuracy, ranks, top_classes
from ..relevance.architectures import unwrap_pretrained
from ..relevance.relevance_map import relevance_map
from ..utils.files import atomic_file, write_atomically
from .protocols import EvaluationSet


PREDICTIONS_FILE, SCORES_FILE = "predictions.parquet", "scores.json"


@dataclass
class SetResult:
    """What a model does on a set.

    Args:
        predictions: `(N, k)` int64, the ids of the k = 5 best classes (fewer if fewer are ranked), the best first, in the
            order of the set. Of equal logits, the class with the lower id ranks first.
        accepted: labels that are right for each image; `None` for a set without labels.
        factors: `(N,)` float columns of the set, by name: angle, area, position.
        scores: what [`RobustAccuracy`], [`Calibration`] and [`RelevanceSegmentation`] compute, all in one. Without labels
            there are no accuracies and no calibration, and without masks no relevance.
        file_names: `(N,)`, where the set has them.
    """

    predictions: np.ndarray
    accepted: list[list[int]] | None
    factors: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    file_names: list[str] | None = None

    @cached_property
    def usable(self) -> np.ndarray:
        """`(N,)` bool: images that have a label."""
        return np.array([bool(labels) for labels in self.accepted or [[]] * len(self.predictions)])

    @cached_property
    def classes(self) -> np.ndarray:
        """`(N,)` int: the class of each image, which is the first of its accepted labels; -1 without one."""
        return np.array([labels[0] if labels else -1 for labels in self.accepted or [[]] * len(self.predictions)])

    @cached_property
    def ranks(self) -> np.ndarray:
        """`(N,)` int: rank of the first accepted label, see [`ranks`]."""
        return ranks(self.predictions, self.accepted)

    def correct(self, k: int = 1) -> np.ndarray:
        """`(N,)` bool: whether one of the best k classes is accepted."""
        return self.ranks < k

    def save(self, folder: Path) -> None:
        """Write `predictions.parquet`, a row an image, and then `scores.json`, whose presence says that all is there."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {} if self.file_names is None else {"file_name": self.file_names}
        columns |= {"predictions": self.predictions.tolist()}
        columns |= {} if self.accepted is None else {"accepted": self.accepted}
        columns |= {f"factor_{name}": values for name, values in self.factors.items()}
        features = {"file_name": datasets.Value("string")} | {
            name: datasets.List(datasets.Value("int64")) for name in ("predictions", "accepted")
        }
        features = {name: features.get(name, datasets.Value("float64")) for name in columns}
        with atomic_file(folder / PREDICTIONS_FILE) as partial:
            datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(partial)
        write_atomically(folder / SCORES_FILE, json.dumps(self.scores, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "SetResult | None":
        """What [`save`] wrote, or `None` where nothing is finished."""
        if not (folder / SCORES_FILE).is_file():
            return None
        columns = datasets.Dataset.from_parquet(str(folder / PREDICTIONS_FILE), keep_in_memory=True)[:]
        scores = json.loads((folder / SCORES_FILE).read_text())
        for name in ("per_class_top1", "per_class_top5"):  # JSON has no integer keys
            if name in scores:
                scores[name] = {int(label): value for label, value in scores[name].items()}
        return cls(
            np.array(columns["predictions"]),
            columns.get("accepted"),
            {
                name.removeprefix("factor_"): np.array(values, dtype=float)
                for name, values in columns.items()
                if name.startswith("factor_")
            },
            scores,
            columns.get("file_name"),
        )


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
        batch_size: images a process takes at once.
        num_workers: worker processes that read images, of each process.
        description: label of the progress bars.

    Returns:
        One [`SetResult`] a set.

    Raises:
        ValueError: the model was made for other classes, or gives logits that are not finite (the image is named).
    """
    model.eval()
    results = {}
    for name, rows in sets.items():
        rows.check_model(name, unwrap_pretrained(model).config.num_labels)
        with_masks = relevance and "mask" in rows.dataset.column_names
        dataset = rows.dataset.select_columns(["image", "mask"] if with_masks else ["image"])
        loader = DataLoader(
            dataset.with_transform(eval_transform(processor, rows.border)),
            batch_size,
            num_workers=num_workers,
            collate_fn=default_data_collator,
        )
        results[name] = evaluate_batches(
            model, loader, rows, accelerator, relevance=with_masks, description=f"{description}: {name}"
        )
    return results


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
    file_names = rows.dataset.with_format(None)["file_name"] if "file_name" in rows.dataset.column_names else None
    streamed = {}  # metrics that take batches as they come, so that a large set never holds all logits or maps
    if accelerator.is_main_process:
        if rows.accepted is not None:
            streamed["calibration"] = Calibration(class_subset=rows.class_subset)
        if relevance:
            streamed["relevance_segmentation"] = RelevanceSegmentation()

    predictions, done = [], 0
    with tqdm(
        total=len(rows.dataset), desc=description, unit="image", disable=not accelerator.is_main_process
    ) as progress:
        for batch in accelerator.prepare(loader):
            with torch.no_grad(), accelerator.autocast():
                if relevance:
                    output = relevance_map(model, batch["pixel_values"])
                    maps, masks = accelerator.gather_for_metrics((output.relevance, batch["mask"]))
                else:
                    output = model(pixel_values=batch["pixel_values"])
            logits = accelerator.gather_for_metrics(output.logits.float())
            check_logits(logits, file_names, done, description)
            predictions.append(top_classes(logits, rows.class_subset).cpu())
            if "calibration" in streamed:
                accepted = rows.accepted[done : done + len(logits)]
                streamed["calibration"].update(logits, accepted)
            if "relevance_segmentation" in streamed:
                streamed["relevance_segmentation"].update(maps, masks)
            done += len(logits)
            progress.update(len(logits))

    result = SetResult(torch.cat(predictions).numpy(), rows.accepted, factors_of(rows.dataset), {}, file_names)
    if accelerator.is_main_process:
        if rows.accepted is not None:
            streamed["robust_accuracy"] = RobustAccuracy()
            groups = [" ".join(map(str, values)) for values in zip(*result.factors.values(), strict=True)]
            streamed["robust_accuracy"].update(result.predictions, rows.accepted, groups=groups or None)
        for metric in streamed.values():
            result.scores |= metric.compute()
    return result


def check_logits(logits: torch.Tensor, file_names: list[str] | None, first: int, description: str) -> None:
    """Refuse logits that cannot be ranked. Every process looks at those of all, so that all stop at once.

    Args:
        logits: `(N, C)`.
        file_names: of all images of the set, if it has any.
        first: number of the first of these N images in the set.
        description: how to call the pass in errors.

    Raises:
        ValueError: logits are NaN or infinite; the image is named.
    """
    if bad := (~logits.isfinite()).any(dim=1).nonzero().flatten().tolist():
        where = f"`{file_names[first + bad[0]]}`" if file_names else f"image {first + bad[0]}"
        raise ValueError(
            f"{description}: the logits of {where} are NaN or infinite. Look at the image and at the model's weights; in half "
            "precision, try float32."
        )


def factors_of(dataset: datasets.Dataset) -> dict[str, np.ndarray]:
    """The columns of SI-Score that say where and how the object is, where they are known for every image."""
    factors = {}
    for name in set(METADATA_COLUMNS) & set(dataset.column_names):
        values = np.array(dataset.with_format(None)[name], dtype=float)
        if not np.isnan(values).any():
            factors[name] = values
    return dict(sorted(factors.items()))
