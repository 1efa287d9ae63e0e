"""The experiment on emoji-shift: tables of findings.md, settings.md and checks.md, and what README and recipe say of
it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from robust_vit_hf.data.emoji_shift import NEW_BACKGROUNDS
from robust_vit_hf.results.tables import Table, percent
from robust_vit_hf.training.recipes import train_arguments

from ..paper.check_claims import SIMILAR
from ..paper.paper_tables import mean_score
from ..paper.set_titles import title_of
from ..sweeps.choose_settings import choose_settings
from ..sweeps.gain_and_price import price_figure, price_table, prices
from ..sweeps.results import Results
from ..sweeps.runs import OURS, Run
from ..sweeps.seed_intervals import Difference, change, versus
from . import pasted_objects
from .experiment_results import (
    EARLIER,
    FILES,
    HOME,
    LABELS,
    LP_FT,
    OF_RECIPE,
    PAPER_WEIGHTS,
    RANDOM,
    RATES,
    SCRATCH,
    SEARCH,
    SHIFTED,
    STEPS,
    SWAP,
    TEXTURES,
    chosen_runs,
    difference,
    fitted,
    gain,
    gains_by_rate,
    read,
    runs_of,
    tested,
)
from .text_blocks import benchmark, commits_of, text


OF_A_METHOD = (
    *("relevance_weight", "confidence_weight", "background_weight", "foreground_weight", "relevance_distance"),
    *("mask_edges", "mean_over", "relevance_target", "confidence_target", "second_order", "start_layer"),
    *("released_gradients", "background_swap", "learning_rate", "num_train_epochs"),
)
MAP_SCORES = {"mean_ap": "mAP", "pixel_accuracy": "pixel accuracy", "mean_iou": "mIoU"}
SHOWN = (OURS, PAPER_WEIGHTS, "bce", SWAP, OF_RECIPE, "original-target", "finetune")  # in findings.md
SETTINGS = (
    "*Before* and *after* are top-1 on the validation images with the backgrounds of other images; *fall* is the loss "
    "of top-1 on the original validation images, at most 2 points for a setting that can be chosen."
)
# Pairs of methods, of which the second less the first is shown
PAIRS = (
    (OURS, SWAP),
    (SWAP, OF_RECIPE),
    (OURS, "bce"),
    ("finetune", OURS),
    ("original-target", SWAP),
    ("swap-label", SWAP),
    (PAPER_WEIGHTS, OURS),
    (OURS, "unsupervised-masks"),
)


def price_picture() -> Figure:
    """Gain and loss of the methods of the page."""
    points = prices(tested().runs, tested().runs, SHIFTED, HOME)
    return price_figure({method: points[method] for method in SHOWN}, LABELS, SHIFTED, HOME)


def runs_block() -> str:
    """How much was run, and by which code."""
    rows = []
    for path in FILES:
        runs = read(path).runs
        seeds = ", ".join(sorted({run.seed for run in runs}, key=int))
        images = "test and validation" if any(run.sets for run in runs) else "validation"
        counts = (len(runs), len({run.method for run in runs}), f"{sum(run.seconds for run in runs) / 3600:.1f}")
        commits = ", ".join(sorted({_short(run.commit) for run in runs}))
        rows.append([f"`{path.name}`", images, seeds, *map(str, counts), commits])
    head = ["file", "images", "seeds", "trainings", "methods", "hours", "commit"]
    others = ", ".join(map(commits_of, ("coverage", "group_layers", "last_layer", "other_images", "subsets")))
    return f"{Table('', head, rows).markdown()}\n\nIn `benchmarks`, {others}."


def _short(commit: str) -> str:
    return commit[:8] + "-dirty" * commit.endswith("-dirty")


def settings_block() -> str:
    """Every weight and rate of each method, on the validation images."""
    parts = []
    for what, path in {"Weights": SEARCH, "Rates": RATES}.items():
        _, table = choose_settings(read(path))
        rows = [
            [LABELS[method], *cells, "" if method.endswith("-beyond") else chosen]
            for _, method, *cells, chosen in table.rows
        ]
        parts += [f"{what}. {SETTINGS}", Table("", ["method", *table.head[2:]], rows).markdown()]
    return "\n\n".join(parts)


def short_block() -> str:
    """Gains of the paper's loss at both weights, and of swap, in three sentences."""
    weights = [json.loads(runs_of(method)[0].settings)["relevance_weight"] for method in (OURS, PAPER_WEIGHTS)]
    gains = {"loss": gain(OURS), "swap": gain(SWAP), "paper": gain(PAPER_WEIGHTS)}
    return text("in-short", weight=weights[1], times=weights[0] / weights[1], **gains)


def price_block() -> str:
    """Gain and loss of all methods."""
    return price_table(prices(tested().runs, tested().runs, SHIFTED, HOME), LABELS, SHIFTED, HOME).markdown()


def found_block() -> str:
    """Five findings, each with its intervals."""
    layers, lp_ft, longer = fitted("before"), fitted("after"), chosen_runs(STEPS)
    return text(
        "found",
        swap=gain(SWAP),
        swap_home=gain(SWAP, HOME),
        loss=gain(OURS),
        loss_home=gain(OURS, HOME),
        more_swap=difference(OURS, SWAP),
        more_swap_on_forty=pasted_objects.difference(OURS, SWAP, "plain"),
        more_relevance=difference(SWAP, OF_RECIPE),
        more_layer_on_forty=pasted_objects.difference(SWAP, "layer", "plain"),
        more_layer=versus(runs_of(SWAP), layers, [SHIFTED]),
        layer=change(layers, [SHIFTED]),
        layer_home=change(layers, [HOME]),
        lp_ft=change(chosen_runs(LP_FT), [SHIFTED]),
        paper=gain(PAPER_WEIGHTS),
        longer=change(longer, [SHIFTED]),
        longer_random=change(longer, [RANDOM]),
        vendor=gain(OURS, "vendor"),
        vendor_of_swap=gain(SWAP, "vendor"),
        vendor_of_lp_ft=change(lp_ft, ["vendor"]),
    )


def premise_block() -> str:
    """How well the maps cover the objects before any finetuning."""
    texts = []
    for score, name in MAP_SCORES.items():
        scores = [mean_score(run, "before", score) for run in runs_of(OURS)]
        texts.append(f"{name} {percent(min(scores))} to {percent(max(scores))}")
    return (
        f"Before: {', '.join(texts)}, over the five models. The paper has 87.5, 82.1 and 65.8 *after* its finetuning."
    )


def scratch_block() -> str:
    """Maps of a model from scratch before and after, and the changes of its top-1, at the rates that the criterion
    chooses."""
    trained, places, rows = read(SCRATCH).runs, (SHIFTED, RANDOM, HOME), []
    for run in chosen_runs(SCRATCH):
        maps = [
            " → ".join(percent(mean_score(run, side, score)) for side in ("before", "after")) for score in MAP_SCORES
        ]
        changes = [str(change([run], [name])) for name in places]
        rows.append([LABELS[run.method], f"{run.learning_rate:g}", *maps, *changes])
    table = Table("", ["method", "rate", *MAP_SCORES.values(), *places], rows).markdown()
    first, most = trained[0], max(trained, key=lambda run: mean_score(run, "after", "mean_iou"))
    before = ", ".join(f"{percent(first.sets[name].correct('before').mean())} on `{name}`" for name in places)
    return text(
        "scratch",
        before=before,
        table=table,
        count=len(trained),
        most=LABELS[most.method],
        rate=most.learning_rate,
        iou=percent(mean_score(most, "after", "mean_iou")),
        shifted=change([most], [SHIFTED]),
        home=change([most], [HOME]),
    )


def layers_block() -> str:
    """Last layers trained to convergence."""
    rows = []
    for method, measured in benchmark("group_layers")["methods"].items():
        new = [settings for settings in measured["chosen"] if settings != "none"]
        cells = [measured[name] for name in (SHIFTED, RANDOM, HOME)] if new else ["–"] * 3
        rows.append([method, f"{len(new)} of {len(measured['chosen'])}", *cells])
    return Table("", ["last layer", "chosen over the model's", SHIFTED, RANDOM, HOME], rows).markdown()


def differences_block() -> str:
    """Differences between two methods."""
    rows = []
    for first, second in PAIRS:
        more, home = (difference(first, second, name) for name in (SHIFTED, HOME))
        rows.append([LABELS[second], LABELS[first], str(more.seeds), str(more), str(home), _verdict(more)])
    return Table("", ["first method", "second method", "seeds", SHIFTED, HOME, "first gains"], rows).markdown()


def _verdict(more: Difference) -> str:
    if more.low > 0 or more.high < 0:
        return "more" if more.low > 0 else "less"
    return "similar" if max(-more.low, more.high) <= SIMILAR else "inconclusive"


def photographs_block() -> str:
    """Gain of the methods of the page on each photograph of the new backgrounds, and on all of them."""
    rows = [[LABELS[method], *_gains_by_photograph(runs_of(method)), str(gain(method))] for method in SHOWN]
    rows.append(["swap minus squared error", *["–"] * len(NEW_BACKGROUNDS), str(difference(OURS, SWAP))])
    return Table("", ["method", *NEW_BACKGROUNDS, "all"], rows).markdown()


def _gains_by_photograph(runs: Sequence[Run]) -> list[str]:
    sets = [run.sets[SHIFTED] for run in runs]
    gains = np.concatenate([of_set.gains() for of_set in sets])
    drawn = np.concatenate([of_set.clusters[of_set.usable] for of_set in sets])
    return [f"{100 * gains[drawn == place].mean():+.1f}" for place in range(len(NEW_BACKGROUNDS))]


def sets_block() -> str:
    """Top-1 on each set before, and its changes by the methods of the page."""
    layers = {pasted_objects.AFTER[name]: fitted(side) for name, side in (("layer", "before"), ("lp-ft", "after"))}
    return _sets_table({LABELS[method]: runs_of(method) for method in SHOWN} | layers)


def earlier_block() -> str:
    """The same of the models by which the project was developed."""
    known = Results(read(EARLIER).runs)
    return _sets_table({LABELS[method]: known.of(method) for method in SHOWN if method in known.methods})


def _sets_table(methods: dict[str, Sequence[Run]]) -> str:
    first = next(iter(methods.values()))
    rows, names = [["before (range over seeds)"]], [*first[0].sets]
    for name in names:
        of_set = [run.sets[name] for run in first]
        before = [float(result.correct("before")[result.usable].mean()) for result in of_set]
        rows[0].append(f"{percent(float(np.mean(before)))} ({percent(min(before))}–{percent(max(before))})")
    rows += [[label, *(str(change(runs, [name])) for name in names)] for label, runs in methods.items()]
    return Table("", ["method", *map(title_of, names)], rows).markdown()


def lp_ft_block() -> str:
    """Swap from a fitted last layer, by learning rate, and its gain with that of the layer."""
    new, random, home = (change(fitted("after"), [name]) for name in (SHIFTED, RANDOM, HOME))
    return (
        f"{_rates_table(LP_FT)}\n\nAt the chosen rate, the layer and swap together change top-1 by {new} points on "
        f"`{SHIFTED}`, by {random} on `{RANDOM}` and by {home} on `{HOME}`."
    )


def _rates_table(path: Path) -> str:
    """Changes of top-1 by the only method of a file, by learning rate, and what the criterion says of each."""
    gains, verdicts = gains_by_rate(path), [row[-1] for row in choose_settings(read(path))[1].rows]
    rows = [
        [f"{rate:g}", *map(str, of_rate.values()), verdict]
        for (rate, of_rate), verdict in zip(gains.items(), verdicts, strict=True)
    ]
    return Table("", ["learning rate", *next(iter(gains.values())), ""], rows).markdown()


def textures_block() -> str:
    """Gains of swap onto random textures, on the seeds of all."""
    places, textures = (SHIFTED, RANDOM, HOME), read(TEXTURES).runs
    rows = [
        [LABELS["swap-textures"], *(change(textures, [name]) for name in places)],
        ["minus swap", *(versus(runs_of(SWAP), textures, [name]) for name in places)],
    ]
    return Table("", ["method", *map(title_of, places)], [[str(cell) for cell in row] for row in rows]).markdown()


def recipe_block() -> str:
    """What to expect of the bundled recipe."""
    config = train_arguments(recipe="emoji-shift")[-1]

    def has_its_settings(run: Run) -> bool:
        trained = json.loads(run.settings) | {"learning_rate": run.learning_rate}
        return all(getattr(config, name, value) == value for name, value in trained.items() if name in OF_A_METHOD)

    if runs := [run for run in runs_of(OF_RECIPE) if has_its_settings(run)]:
        return (
            f"# Expected, in points of top-1 (seeds: {len(runs)}): background_new {change(runs, [SHIFTED])}, val "
            f"{change(runs, [HOME])}.\n# Source: experiments/findings.md"
        )
    return "# Not measured with these settings. Those that were: experiments/findings.md"


BLOCKS: dict[str, Callable[[], str]] = {
    "runs": runs_block,
    "settings": settings_block,
    "gain and loss": price_block,
    "in short": short_block,
    "found": found_block,
    "premise": premise_block,
    "scratch": scratch_block,
    "last layers": layers_block,
    "differences": differences_block,
    "photographs": photographs_block,
    "sets": sets_block,
    "earlier": earlier_block,
    "paper steps": lambda: _rates_table(STEPS),
    "lp ft": lp_ft_block,
    "textures": textures_block,
    "recipe": recipe_block,
}
