"""Whether `diagnose` without a model orders photographs as the models that are trained on them (before_training.json)."""

from collections.abc import Callable

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from robust_vit_hf.results.intervals import Interval
from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark


SAID = {"decides": "likely", "partly": "may"}  # verdicts on photographs, as the pages name them


def cost(found: dict) -> float:
    """What random backgrounds cost the model that was trained on a set, in points of top-1."""
    return 100 * (found["model"]["home"] - found["model"]["random"])


def before_training() -> str:
    """How the sets are ordered, and what photographs as people take them show."""
    sets, measured = benchmark("before_training")["sets"], ("bg_gap", "background")
    costs = [cost(found) for found in sets.values()]
    orders = {
        name: spearmanr(costs, [found["without"][name]["mean"] for found in sets.values()]).statistic
        for name in measured
    }
    free, biased = (
        [found["without"]["photographs"] for name, found in sets.items() if ("/0/" in name) is is_free]
        for is_free in (True, False)
    )
    text = (
        f"In each of {len(sets)} sets, 0, 95 or 100 % of the images have the usual background of their class. Random backgrounds cost the models that were "
        f"finetuned on these sets {min(costs):.0f} to {max(costs):.0f} points of top-1. The rank correlation of this cost with the BG-Gap without a model is "
        f"{orders['bg_gap']:.2f}, and with the share of images whose class the background tells, {orders['background']:.2f}. "
        f'The verdict is "likely" for {biased.count("decides")} of the {len(biased)} sets with usual backgrounds; of the {len(free)} sets without, it is '
        f'"likely" or "may" for {free.count("decides") + free.count("partly") or "none"}.'
    )
    if imagen := benchmark("before_training").get("imagen"):
        known, told, gap = (Interval(**imagen[name]) for name in ("original", "background", "bg_gap"))
        text += (
            f" Of {imagen['images']} ordinary photographs of 38 classes, the classifier recognises {known} %. The background alone "
            f"tells the class for {told} % (chance {100 * imagen['background_chance']['mean']:.0f} %), and the BG-Gap is {gap} points: the verdict is "
            f'"{SAID[imagen["photographs"]]}".'
        )
    return text


def before_training_table() -> str:
    rows = []
    for name, found in benchmark("before_training")["sets"].items():
        source, rate, _ = name.split("/")
        cells = [str(Interval(**found["without"][measure])) for measure in ("background", "bg_gap")]
        rows.append([source, f"{100 * float(rate):.0f} %", *cells, f"{cost(found):.1f}"])
    head = [
        "objects",
        "usual background",
        "class told by the background",
        "BG-Gap without a model",
        "cost of random backgrounds",
    ]
    return Table("", head, rows).markdown()


def picture() -> Figure:
    """The cost of random backgrounds by the BG-Gap without a model."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.add_subplot()
    for source, (marker, inside) in {"emoji": ("o", "black"), "digits": ("s", "white")}.items():
        sets = [found for name, found in benchmark("before_training")["sets"].items() if name.startswith(source)]
        gaps = [Interval(**found["without"]["bg_gap"]) for found in sets]
        ends = [[100 * (gap.mean - gap.low) for gap in gaps], [100 * (gap.high - gap.mean) for gap in gaps]]
        places = [100 * gap.mean for gap in gaps], [*map(cost, sets)]
        axis.errorbar(*places, xerr=ends, fmt=marker, color="black", mfc=inside, label=source)
    axis.set_xlabel("BG-Gap of the photographs, without a model (points)")
    axis.set_ylabel("cost of random backgrounds\nfor the trained model (points)")
    axis.legend()
    return figure


BLOCKS: dict[str, Callable[[], str]] = {
    "before training": before_training,
    "before training by set": before_training_table,
}
