"""The files of results of the experiment on emoji-shift, and gains of its methods.

Of the files in `experiments/results`, `search.parquet` has the validation images of several weights of each method at
one or two rates, `rates.parquet` those of several rates at the weight that was chosen. The others have test images:
`results.parquet` of all methods at the chosen settings, on seeds that none of them was chosen on; of these seeds,
`textures.parquet` of swap onto random textures, `steps.parquet` of the paper's weight in 600 steps, and
`lp-ft.parquet` of swap from fitted last layers; `scratch.parquet` of a ViT trained from scratch. `earlier.parquet` is
kept: four methods on the models and test images by which the project was developed, of `results.parquet` as of
25a66a3.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from robust_vit_hf.data.emoji_shift import NEW_BACKGROUNDS, background_of
from robust_vit_hf.results.run_results import SetResult

from ..sweeps.choose_settings import choose_settings
from ..sweeps.results import Results
from ..sweeps.results_parquet import ResultsFile, read_results
from ..sweeps.runs import OURS, Run
from ..sweeps.seed_intervals import Difference, change, mean_over, versus
from .text_blocks import RESULTS, TESTED


SEARCH, RATES, TEXTURES, STEPS, LP_FT, SCRATCH, EARLIER = (
    RESULTS / f"{name}.parquet" for name in ("search", "rates", "textures", "steps", "lp-ft", "scratch", "earlier")
)
FILES = (SEARCH, RATES, TESTED, TEXTURES, STEPS, LP_FT, SCRATCH)  # of one version of the code
# What each variant of the grids is.
LABELS = {
    "robustvit": "squared error (Eq. 1 and 2, weight 800)",
    "paper-weights": "squared error (weight 0.8, the paper's)",
    "bce": "cross-entropy of the map",
    "background-swap": "swap, output of the original",
    "swap-label": "swap, label",
    "swap-textures": "swap, output of the original, on random textures",
    "relevance-and-swap": "swap and cross-entropy of the map",
    "finetune": "label (the control)",
    "original-target": "only the output of the original",
    "unsupervised-masks": "squared error, TokenCut's masks",
    "without-background": "squared error without the background loss",
    "without-foreground": "squared error without the foreground loss",
    "more-samples": "squared error, 4 images of a class",
    "fewer-samples": "squared error, 1 image of a class",
    "more-classes": "squared error, 64 classes",
    "fewer-classes": "squared error, 32 classes",
    "robustvit-beyond": "squared error: beyond the grid",
    "relevance-and-swap-beyond": "swap and cross-entropy of the map: beyond the grid",
}
SWAP = "background-swap"
PAPER_WEIGHTS = "paper-weights"  # squared error at the weight of the paper
OF_RECIPE = "relevance-and-swap"  # the variant of the bundled recipe
SHIFTED, RANDOM, HOME = "background_new", "background_random", "val"


@cache
def read(path: Path) -> ResultsFile:
    """A file of results; images of new backgrounds are drawn with their photograph."""
    results = read_results(path)
    return replace(results, runs=[_with_photographs(run) for run in results.runs])


def _with_photographs(run: Run) -> Run:
    if SHIFTED not in run.sets:
        return run
    of_set, names = run.sets[SHIFTED], list(NEW_BACKGROUNDS)
    drawn = [names.index(background_of(SHIFTED, row, int(run.seed))) for row in range(len(of_set))]
    return replace(run, sets=run.sets | {SHIFTED: replace(of_set, clusters=np.array(drawn))})


def tested() -> ResultsFile:
    """Results of all methods at the chosen settings, on the tests."""
    return read(TESTED)


def chosen_runs(path: Path) -> list[Run]:
    """Runs at the settings that the criterion chooses among those of a file."""
    return choose_settings(read(path))[0]


def runs_of(method: str) -> list[Run]:
    """Tested runs of a method, one for each seed."""
    return Results(tested().runs).of(method)


def gain(method: str, name: str = SHIFTED) -> Difference:
    """Change of top-1 on a set by a method."""
    return change(runs_of(method), [name])


def difference(first: str, second: str, name: str = SHIFTED) -> Difference:
    """The gain of the second method less that of the first."""
    return versus(runs_of(first), runs_of(second), [name])


def fitted(side: str) -> list[Run]:
    """The models with a fitted layer, which LP-FT begins with (`before`), or LP-FT (`after`), with the original models
    of their seeds."""
    originals = {run.seed: run.sets for run in runs_of(OURS)}

    def beside(run: Run, name: str, result: SetResult) -> SetResult:
        sides = {"before": originals[run.seed][name].sides["before"], "after": result.sides[side]}
        return replace(result, sides=sides)

    runs = chosen_runs(LP_FT)
    return [replace(run, sets={name: beside(run, name, result) for name, result in run.sets.items()}) for run in runs]


def gains_by_rate(path: Path) -> dict[float, dict[str, Difference]]:
    """Changes of top-1 on tests and validation images by the only method of a file, by learning rate."""
    gains = {}
    for rate in sorted({run.learning_rate for run in read(path).runs}):
        runs = [run for run in read(path).runs if run.learning_rate == rate]
        of_validation = [after - before for before, after in (run.validation for run in runs)]
        gains[rate] = {name: change(runs, [name]) for name in (SHIFTED, RANDOM, HOME)} | {
            "original validation images": mean_over(of_validation, [run.seed for run in runs])
        }
    return gains
