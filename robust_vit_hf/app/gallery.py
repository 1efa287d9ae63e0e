"""Images of evaluation sets, sorted by how much their prediction changed, from results of `robust-vit evaluate`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import datasets
import numpy as np

from ..data.emoji_shift import SHIFTED, has_classes
from ..data.known_sets import EVALUATION_SETS
from ..evaluation.accuracy import measure_accuracy, saved_accuracy
from ..evaluation.examples import is_of_kind
from ..evaluation.options import expand_sets
from ..evaluation.session import Session
from ..evaluation.sets import EvaluationSet, benchmark_sets, load_evaluation_set, own_set
from ..models.image_processors import Protocol
from ..results.run_results import PREDICTIONS_FILE, SetResult, read_predictions
from ..utils.cache import Cache
from .options import AppOptions


IMAGES_PER_SET = 200  # images of each set of a benchmark that the page measures
IMAGES_OF_A_PAGE = 24  # images that the gallery shows at a time
FILTERS = ("changed", "corrected", "broken", "all")


@dataclass(frozen=True)
class MeasuredSet:
    rows: EvaluationSet
    result: SetResult

    @property
    def predictions(self) -> list[np.ndarray]:
        return [self.result.sides[side].predictions for side in ("before", "after")]

    def order(self, shown: str) -> list[int]:
        """Indices of the images of one of [`FILTERS`], sorted by the change of the label's rank, and then of the best five classes."""
        before, after = self.predictions
        if shown in ("corrected", "broken"):
            chosen = is_of_kind(shown, self.result)
        else:
            chosen = (before[:, 0] != after[:, 0]) | (shown == "all")
        replaced = np.array([len({*a} - {*b}) for a, b in zip(before, after, strict=True)])
        moved = abs(self.result.sides["before"].ranks - self.result.sides["after"].ranks)
        # This sort is stable: ties stay in the order of the set.
        return [int(index) for index in np.lexsort((-replaced, -moved)) if chosen[index]]

    def captions(self, indices: Sequence[int], names: Sequence[str]) -> list[str]:
        """`label: class before → class after` of images; without a label if the images of the set have several."""
        labels = [f"{names[label]}: " if label >= 0 else "no label: " for label in self.result.classes[indices]]
        best = [[names[predictions[index, 0]] for predictions in self.predictions] for index in indices]
        if not self.rows.by_class:
            labels = [""] * len(best)
        return [f"{label}{' → '.join(pair)}" for label, pair in zip(labels, best, strict=True)]


def set_names(options: AppOptions, session: Session) -> list[str]:
    """Names of the sets for [`measured_set`]: `<protocol>/<set>` in the folder of results, or the sets of the benchmark."""
    if options.results is None:
        return ["val", *SHIFTED] if "after" in session.sides and has_classes(session.classes) else []
    files = {protocol: options.results / protocol / PREDICTIONS_FILE for protocol in sorted(get_args(Protocol))}
    measured = {protocol: read_predictions(file) for protocol, file in files.items() if file.is_file()}
    names = [
        f"{protocol}/{name}" for protocol, sets in measured.items() for name in sorted(sets) if "after" in sets[name]
    ]
    if not names:
        raise ValueError(f"`{options.results}` has no results of two models: run `robust-vit evaluate --compare`.")
    return names


def how_to_fill(options: AppOptions) -> str:
    """Markdown that says what to run to get sets for the gallery."""
    if options.compare is None:
        return "The gallery compares two models: start the page with `--compare`, the model after finetuning."
    command = ["robust-vit", "evaluate", "--model", options.model, "--compare", options.compare]
    command += ["--dataset", options.dataset or "FOLDER", "--split", options.split, "--output_dir", "runs/evaluation"]
    advice = "Run this, and start the page again with `--results runs/evaluation`"
    return f"No results of two models. {advice}:\n\n```bash\n{shlex.join(command)}\n```"


def measured_set(options: AppOptions, name: str, session: Session) -> MeasuredSet:
    """A set of [`set_names`] with its results, which are read, or measured once and saved in the cache of `datasets`."""
    if options.results is None:
        rows = benchmark_sets(IMAGES_PER_SET)[name]
        session = session.with_sets({name: rows})
        rows = session.sets[name]
        cache = Cache(Path(datasets.config.HF_DATASETS_CACHE, "robust_vit_hf", "app"))
        return MeasuredSet(rows, measure_accuracy(replace(session, cache=cache), relevance=False)[name])
    protocol, _, set_name = name.partition("/")
    if protocol != session.protocol:
        session = session.under(cast(Protocol, protocol))
    count = len(read_predictions(options.results / protocol / PREDICTIONS_FILE)[set_name]["before"])
    session = session.with_sets({set_name: _images(options, set_name, session, count)})
    return MeasuredSet(session.sets[set_name], saved_accuracy(session, options.results)[set_name])


def _images(options: AppOptions, name: str, session: Session, count: int) -> EvaluationSet:
    """Images of a set in the folder of results, `count` of them if it is of a benchmark."""
    if name in ("val", *SHIFTED) and has_classes(session.classes):
        return benchmark_sets(count)[name]
    if name in EVALUATION_SETS:
        return load_evaluation_set(name, dict(expand_sets(options.sets)).get(name), session.protocol)
    if options.dataset is not None and name == options.split:
        return own_set(options.dataset, name)
    raise ValueError(f"The results are of your own images `{name}`: give them with `--dataset … --split {name}`.")
