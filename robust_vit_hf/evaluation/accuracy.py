"""Accuracy, calibration and relevance of a model on a set, in one pass."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom

from ..metrics import calibration, relevance_segmentation
from ..metrics.streaming import top_classes
from ..relevance.architectures import why_no_map
from ..relevance.relevance_map import forward_logits, relevance_map
from ..results.intervals import CONFIDENCE, Bootstrap, simultaneous
from ..results.run_results import PREDICTIONS_FILE, SetResult, read_predictions
from ..results.tables import summarize, tables_of
from ..utils.files import RESULTS_FILE, read_json
from .examples import write_before_after
from .session import Measurement, Session, Side, TransformedRows, batch_outputs, measure, write_results_json
from .sets import EvaluationSet


@dataclass(frozen=True)
class Accuracy(Measurement):
    """Predictions, calibration and relevance of the predicted class, with the columns that
    [`~robust_vit_hf.results.run_results.scores_of`] takes."""

    relevance: bool = True  # whether to compute maps for sets with masks, which takes three times as long

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str) -> pd.DataFrame:
        side.model.eval()
        with_masks = self.relevance and "mask" in rows.dataset.column_names and why_no_map(side.model) is None
        dataset = rows.dataset.select_columns(["image", "mask"] if with_masks else ["image"])
        loader = session.loader(TransformedRows(dataset, rows.transform(side.processor)))
        accepted, parts = rows.table["accepted"].tolist(), []

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
            if not with_masks:
                return [forward_logits(side.model, batch["pixel_values"])], ()
            output = relevance_map(side.model, batch["pixel_values"], check_finite=False)
            return [output.logits], (output.relevance, batch["mask"])

        # A few numbers of each image are kept, so that the logits and maps of a large set are never all in memory.
        for of_batch, (logits,), maps in batch_outputs(loader, compute, rows.dataset, session.accelerator, title):
            kept = calibration.reduce(logits, accepted[of_batch], class_subset=rows.class_subset)["predictions"]
            part = dict(zip(("probability", "nll", "brier"), kept.T, strict=False))
            part |= {"predictions": top_classes(logits, rows.class_subset).tolist()}
            if with_masks:
                reduced = relevance_segmentation.reduce(*maps)
                part |= {"map": reduced["predictions"], "mask_pixels": reduced["references"]}
            parts.append(pd.DataFrame(part))
        return pd.concat(parts, ignore_index=True)


def measure_accuracy(session: Session, relevance: bool = True) -> dict[str, SetResult]:
    """Measure [`Accuracy`] on each set of a session."""
    measured = measure(session, Accuracy(relevance))
    return {name: set_result(name, rows, measured[name]) for name, rows in session.sets.items()}


def saved_accuracy(session: Session, folder: Path) -> dict[str, SetResult]:
    """Results on the sets of a session that `robust-vit evaluate` saved in `folder`, under the session's protocol."""
    measured = read_predictions(folder / session.protocol / PREDICTIONS_FILE)
    weights, saved = (
        {name: side.weights for name, side in session.sides.items()},
        read_json(folder / RESULTS_FILE) or {},
    )
    for name, rows in session.sets.items():
        digests = {digest for table in measured.get(name, {}).values() for digest in table["digest"]}
        if digests != {rows.digest} or saved.get("weights") != weights:
            raise ValueError(f"`{folder}` has no results of these models and images of `{name}`: evaluate them first.")
    return {name: set_result(name, rows, measured[name]) for name, rows in session.sets.items()}


def set_result(name: str, rows: EvaluationSet, tables: Mapping[str, pd.DataFrame]) -> SetResult:
    """Results from the tables of [`Accuracy`] by side."""
    facts = {"shifted": rows.shifted, "source": rows.source, "revision": rows.revision, "by_class": rows.by_class}
    return SetResult.of(name, tables, group_weights=rows.group_weights, **facts)


def worse_classes(result: SetResult, names: Sequence[str]) -> list[str]:
    """Classes whose top-1 fell significantly, with intervals that hold for all classes together. The sign test, with
    Bonferroni's correction, also holds for classes with few images."""
    labels, gains = result.classes[result.usable], result.gains().astype(float)
    of_classes = {label: np.where(labels == label, gains, np.nan) for label in range(len(names))}  # names may repeat
    changes = simultaneous(Bootstrap.means(of_classes))
    worse = []
    for label, change in changes.items():
        changed = gains[(labels == label) & (gains != 0)]
        p = binom.cdf((changed > 0).sum(), len(changed), 0.5)
        if change.high < 0 and p < (1 - CONFIDENCE) / 2 / len(changes):
            worse.append(f"{names[label]} {change}")
    return worse


def write_finetuning_results(
    folder: Path,
    results: Mapping[str, SetResult],
    session: Session,
    training_classes: Collection[int] | None = None,
) -> str:
    """Write results by set to an existing folder. Returns the first table, as Markdown."""
    write_before_after(folder, results, session)
    tables, notes = tables_of(results, training_classes), session.notes
    facts = summarize(results, training_classes) | {"tables": [asdict(table) for table in tables], "notes": notes}
    write_results_json(session, folder, session.settings, facts, [*notes, *tables])
    return tables[0].markdown()
