"""Whether `diagnose` without a model orders photographs as the models that are trained on them
(before_training.json)."""

from collections.abc import Callable

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from robust_vit_hf.results.intervals import Interval
from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark, text


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
    imagen = benchmark("before_training")["imagen"]
    return text(
        "before-training",
        sets=len(sets),
        least=min(costs),
        most=max(costs),
        **orders,
        likely=biased.count("decides"),
        biased=len(biased),
        free=len(free),
        alarms=free.count("decides") + free.count("partly") or "none",
        images=imagen["images"],
        known=Interval(**imagen["original"]),
        told=Interval(**imagen["background"]),
        chance=100 * imagen["background_chance"]["mean"],
        gap=Interval(**imagen["bg_gap"]),
        verdict=SAID[imagen["photographs"]],
    )


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
