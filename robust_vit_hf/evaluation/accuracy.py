"""Accuracy, calibration and relevance of a model on a set, in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from scipy.stats import binom

from ..data.groups import groups_of
from ..data.layouts.official import METADATA_COLUMNS
from ..metrics.robust_accuracy import ranks
from ..metrics.streaming import Calibration, RelevanceSegmentation, RobustAccuracy, top_classes
from ..relevance.architectures import why_no_map
from ..relevance.relevance_map import forward_logits, relevance_map
from ..results.intervals import CONFIDENCE, Bootstrap, simultaneous
from ..results.run_results import SetResult, SideResult
from ..utils.stage import Stage
from .measurement import Measured, Measurement, TransformedRows, batch_outputs, measure
from .session import Session, Side
from .sets import EvaluationSet


@dataclass(frozen=True)
class Accuracy(Measurement):
    """Accuracy, calibration and relevance of the predicted class. Rows have `predictions` (the top five ids), `accepted`, factors, groups and
    file names. Scores are those of [`RobustAccuracy`], [`Calibration`] and [`RelevanceSegmentation`]."""

    relevance: bool = True  # whether to compute maps for sets with masks, which takes three times as long

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        side.model.eval()
        with_masks = self.relevance and "mask" in rows.dataset.column_names and why_no_map(side.model) is None
        dataset = rows.dataset.select_columns(["image", "mask"] if with_masks else ["image"])
        loader = session.loader(TransformedRows(dataset, rows.transform(side.processor)))
        main, labelled = session.accelerator.is_main_process, rows.accepted is not None
        # Metrics are updated batch by batch, so that the logits and maps of a large set are never all in memory.
        calibration = Calibration(class_subset=rows.class_subset) if main and labelled else None
        segmentation = RelevanceSegmentation() if main and with_masks else None
        predictions = []

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
            if not with_masks:
                return [forward_logits(side.model, batch["pixel_values"])], ()
            output = relevance_map(side.model, batch["pixel_values"], check_finite=False)
            return [output.logits], (output.relevance, batch["mask"])

        for of_batch, (logits,), maps in batch_outputs(loader, compute, rows.dataset, session.accelerator, title):
            predictions.append(top_classes(logits, rows.class_subset).cpu())
            if calibration is not None:
                calibration.update(logits, rows.accepted[of_batch])
            if segmentation is not None:
                segmentation.update(*maps)

        columns = {"predictions": torch.cat(predictions).numpy(), "accepted": rows.accepted}
        if "file_name" in rows.dataset.column_names:
            columns = {"file_name": rows.dataset.with_format(None)["file_name"][:]} | columns
        factors, groups = factors_of(rows.dataset), groups_of(rows.dataset, title.partition(",")[0])
        columns |= {"group": None if groups is None else groups.tolist()}
        result = Measured({name: values for name, values in columns.items() if values is not None})
        result.columns |= {f"factor_{name}": values for name, values in factors.items()}
        accuracy = RobustAccuracy() if main and labelled else None
        if accuracy is not None:
            if groups is None:
                groups = [" ".join(map(str, values)) for values in zip(*factors.values(), strict=True)] or None
            accuracy.update(columns["predictions"], rows.accepted, groups=groups)
        for metric in filter(None, (calibration, segmentation, accuracy)):
            result.scores |= metric.compute()
        if main and rows.group_weights is not None:
            result.scores["group_weights"] = rows.group_weights
        return result


def measure_accuracy(session: Session, within: str = "", relevance: bool = True) -> dict[str, SetResult]:
    """Measure [`Accuracy`] on each set of a session, and save the results in the folder `within` that of the session."""
    measured = measure(session, Accuracy(relevance), within)
    return {name: set_result(name, rows, measured[name]) for name, rows in session.sets.items()}


def saved_accuracy(session: Session, folder: Path) -> dict[str, SetResult]:
    """Results on the sets of a session that `robust-vit evaluate` saved in `folder`, in any precision."""
    accuracy, results = Accuracy(), {}
    for name, rows in session.sets.items():
        measured = {}
        for side, loaded in session.sides.items():
            stage = Stage(folder / session.protocol / name / side, session.inputs(loaded, rows) | accuracy.inputs())
            measured[side] = Measured.load(stage, ignoring=["precision"])
            if measured[side] is None:
                raise ValueError(
                    f"`{folder}` has no predictions of `{name}` {side} the finetuning under protocol `{session.protocol}`: run "
                    f"`robust-vit evaluate` with --compare, --protocols {session.protocol} and --output_dir {folder} first."
                )
        results[name] = set_result(name, rows, measured)
    return results


def set_result(name: str, rows: EvaluationSet, measured: Mapping[str, Measured]) -> SetResult:
    return SetResult(
        name,
        side_results(measured, rows.accepted),
        None if rows.accepted is None else np.array([labels[0] if labels else -1 for labels in rows.accepted]),
        rows.shifted,
        rows.source,
        factors_of(rows.dataset),
        groups=groups_of(rows.dataset),
        group_weights=rows.group_weights,
        by_class=rows.by_class,
        revision=rows.revision,
    )


def worse_classes(result: SetResult, names: Sequence[str]) -> list[str]:
    """Classes whose top-1 fell significantly, each with its change, and intervals that hold for all classes together. The sign test, with
    Bonferroni's correction, also holds for classes with few images."""
    labels, gains = result.classes[result.usable], result.gains().astype(float)
    of_classes = {label: np.where(labels == label, gains, np.nan) for label in range(len(names))}  # names may repeat
    changes = simultaneous(Bootstrap.means(of_classes))
    worse = []
    for label, change in changes.items():
        of_class = gains[labels == label]
        lost, gained = (of_class < 0).sum(), (of_class > 0).sum()
        if change.high < 0 and binom.cdf(gained, lost + gained, 0.5) < (1 - CONFIDENCE) / 2 / len(changes):
            worse.append(f"{names[label]} {change}")
    return worse


def factors_of(dataset: datasets.Dataset) -> dict[str, np.ndarray]:
    """Columns of SI-Score with the location and pose of the object, if they are known for every image."""
    names = sorted(set(METADATA_COLUMNS) & set(dataset.column_names))
    if not names:
        return {}
    columns = dataset.with_format(None).select_columns(names).to_pandas()
    known = columns.select_dtypes("number").dropna(axis=1)  # a user's column may have one of these names
    return {name: known[name].to_numpy(float) for name in known}


def side_results(measured: Mapping[str, Measured], accepted: list[list[int]] | None) -> dict[str, SideResult]:
    sides = {}
    for side, result in measured.items():
        predictions = np.array(result.columns["predictions"])
        labels = [[]] * len(predictions) if accepted is None else accepted
        sides[side] = SideResult(ranks(predictions, labels), result.scores, predictions, predictions.shape[1])
    return sides
