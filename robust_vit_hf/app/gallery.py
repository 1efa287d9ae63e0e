"""Images of evaluation sets by how much their prediction changed, from the results that `robust-vit evaluate` saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import datasets
import numpy as np

from ..data.benchmarks import benchmarks, find_benchmark
from ..evaluation.cache import FINGERPRINT_FILE, measure_once
from ..evaluation.evaluate_sets import SCORES_FILE, SetResult
from ..evaluation.protocols import EvaluationSet, benchmark_sets, load_evaluation_set, own_set
from ..evaluation.set_names import PAPER_SETS
from ..models.digest import weights_digest
from ..models.preprocessing import Preset
from ..utils.files import read_json
from ..utils.processes import make_accelerator
from .pair import Pair


IMAGES_PER_SET = 200  # of a benchmark that the page itself measures
FILTERS = ("changed", "corrected", "broken", "all")


@dataclass(frozen=True)
class Sources:
    """Where the gallery takes results and images from.

    Args:
        results: output folder of `robust-vit evaluate`; without one the page measures the benchmark of the models.
        dataset, split: images of your own that were measured, as for [`own_set`].
        sets: sources of the sets of the paper, by name.
    """

    results: Path | None = None
    dataset: str | None = None
    split: str = "validation"
    sets: dict[str, str | None] | None = None


@dataclass(frozen=True)
class MeasuredSet:
    """Images of a set, and the results of both models on them."""

    rows: EvaluationSet
    before: SetResult
    after: SetResult

    def order(self, shown: str) -> list[int]:
        """Indices of the images of one of [`FILTERS`], the most changed first: by how many places the rank of the label moved
        among the best five, where lower ranks count as one, and then by how many of the best five were replaced.

        Raises:
            ValueError: unknown filter.
        """
        right, right_after = self.before.correct(), self.after.correct()
        replaced = np.array(
            [len({*a} - {*b}) for a, b in zip(self.before.predictions, self.after.predictions, strict=True)]
        )
        chosen = {
            "all": np.ones(len(right), dtype=bool),
            "changed": self.before.predictions[:, 0] != self.after.predictions[:, 0],
            "corrected": ~right & right_after & self.before.usable,
            "broken": right & ~right_after & self.before.usable,
        }
        if shown not in chosen:
            raise ValueError(f"Unknown filter `{shown}`: expected one of {', '.join(chosen)}.")
        moved = abs(self.before.ranks - self.after.ranks)
        # lexsort is stable: images that changed alike stay in the order of the set.
        return [int(index) for index in np.lexsort((-replaced, -moved)) if chosen[shown][index]]


def set_names(sources: Sources, pair: Pair) -> list[str]:
    """Names of the sets that [`measured_set`] gives: `<protocol>/<set>` in the folder of results, or those of the benchmark.

    Raises:
        ValueError: the folder has no results of two models.
    """
    if sources.results is not None:
        found = sorted(path.parent.parent for path in sources.results.glob(f"*/*/after/{SCORES_FILE}"))
        names = [f"{path.parent.name}/{path.name}" for path in found if (path / "before" / SCORES_FILE).is_file()]
        if not names:
            raise ValueError(
                f"`{sources.results}` has no results of two models: expected the --output_dir of `robust-vit evaluate --compare`."
            )
        return names
    benchmark = find_benchmark(pair.classes)
    return [] if benchmark is None else ["val", *benchmarks()[benchmark].shifted]


def measured_set(sources: Sources, name: str, pair: Pair, preset: Preset) -> MeasuredSet:
    """A set of [`set_names`] with its results, which are read, or measured once and kept in the cache of `datasets`.

    Raises:
        ValueError: the results are of other weights or of other images, or the images of the set are not named.
    """
    if sources.results is None:
        rows = benchmark_sets(find_benchmark(pair.classes), IMAGES_PER_SET)[name]
        rows = rows.for_model(name, pair.models["before"].config)
        accelerator = make_accelerator(bf16=False)
        results = {}
        for side, model in pair.models.items():
            digest = weights_digest(model)
            folder = Path(datasets.config.HF_DATASETS_CACHE, "robust_vit_hf", "app", digest, preset, name)
            results[side] = measure_once(
                folder,
                {"weights": digest},
                model,
                name,
                rows,
                pair.processors[side],
                accelerator,
                relevance=False,
                description=side,
            )
        return MeasuredSet(rows, results["before"], results["after"])
    protocol, _, set_name = name.partition("/")
    folder = sources.results / name
    results = {side: SetResult.load(folder / side) for side in pair.models}
    rows = _images(sources, cast(Preset, protocol), set_name, pair, len(results["before"].predictions))
    for side, model in pair.models.items():
        fingerprint = read_json(folder / side / FINGERPRINT_FILE)
        if fingerprint["weights"] != weights_digest(model):
            raise ValueError(
                f"The results `{name}` are of another model {side}: start the page with the --model and --compare that were "
                "evaluated."
            )
        if fingerprint["rows"] != rows.digest:
            raise ValueError(
                f"The results `{name}` are of other images: name those that were evaluated with --dataset, --split and --sets."
            )
    return MeasuredSet(rows, results["before"], results["after"])


def _images(sources: Sources, protocol: Preset, name: str, pair: Pair, count: int) -> EvaluationSet:
    """Images of a set in the folder of results."""
    benchmark = find_benchmark(pair.classes)
    if benchmark is not None and name in ("val", *benchmarks()[benchmark].shifted):
        rows = benchmark_sets(benchmark, count)[name]
    elif name in PAPER_SETS:
        rows = load_evaluation_set(name, (sources.sets or {}).get(name), protocol)
    elif sources.dataset is not None and name == sources.split:
        rows = own_set(sources.dataset, name)
    else:
        raise ValueError(f"The results are of your own images `{name}`: name them with `--dataset … --split {name}`.")
    return rows.for_model(name, pair.models["before"].config)


def captions(measured: MeasuredSet, indices: Sequence[int], pair: Pair) -> list[str]:
    """`label: class before → class after` of images."""
    texts = []
    for index in indices:
        best = [pair.class_name(result.predictions[index, 0]) for result in (measured.before, measured.after)]
        label = measured.before.classes[index]
        texts.append(f"{pair.class_name(label) if label >= 0 else 'no label'}: {' → '.join(best)}")
    return texts
