"""Blocks on photographs that were taken elsewhere."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from robust_vit_hf.improvement.choice import OUTCOMES
from robust_vit_hf.results.intervals import Difference
from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark


NAMES = {"vit": "DINOv2-S", "cnn": "EfficientNet-Lite0"}
GRADED = "-graded-"  # in the names of models of which some training photographs were taken elsewhere
FEW = 0.03  # a change, as a fraction, that a verdict should find


def name_of(model: str) -> str:
    kind, seed = model.partition(GRADED)[0].split("-")
    return f"{NAMES[kind]}, seed {seed}"


def top1(found: Mapping[str, Sequence]) -> float:
    """Mean over the classes. Earlier results have the numbers of right photographs and of all instead of each."""
    return float(np.mean([of.count("1") / len(of) if isinstance(of, str) else of[0] / of[1] for of in found.values()]))


def arms() -> str:
    """Top-1 at the usual places and elsewhere, before and after, by model and arm."""
    rows = []
    for model, by_arm in sorted(benchmark("elsewhere").items()):
        for arm, found in by_arm.items() if GRADED not in model else ():
            if arm == "original":
                continue
            sides = zip(
                *([100 * top1(of[place]) for place in ("aligned", "a")] for of in (by_arm["original"], found)),
                strict=True,
            )
            changes = (f"{before:.1f} → {after:.1f}" for before, after in sides)
            said = str(Difference(**found["other"])) if "other" in found else "–"
            rows.append([name_of(model), arm.replace("quick", "`improve`").replace("_", " "), *changes, said])
    head = ["model", "changed by", "usual places", "elsewhere", "said of other backgrounds, by composites"]
    return Table("", head, rows).markdown()


def told() -> list[dict]:
    """What `improve --effort quick` says of each model, beside the changes that were measured, as fractions."""
    runs = []
    for model, by_arm in sorted(benchmark("elsewhere").items()):
        found = by_arm["quick"]
        before, after = ([top1(of[place]) for place in ("aligned", "a")] for of in (by_arm["original"], found))
        usual, elsewhere = np.subtract(after, before).tolist()
        share = found.get("share", 0.5)
        told = {name: Difference(**found[name]) for name in ("usual", "change") if name in found}
        run = {"model": model, "outcome": found["outcome"], "before": before, "usual": usual, "elsewhere": elsewhere}
        runs.append(run | {"share": share, "change": (1 - share) * usual + share * elsewhere, "told": told})
    return runs


def verdicts() -> str:
    rows = []
    for run in told():
        part = run["model"].partition(GRADED)[2]
        said = run["told"]["change"] if "change" in run["told"] else "–"
        shown = (f"{100 * value:+.1f}" for value in (run["usual"], run["elsewhere"], run["change"]))
        before = (f"{100 * value:.1f}" for value in run["before"])
        rows.append(
            [
                name_of(run["model"]),
                f"{int(part)} %" if part else "0 %, all",
                *before,
                *shown,
                f"{said}",
                run["outcome"],
            ]
        )
    head = [
        "model",
        "training photographs from elsewhere",
        "usual places",
        "elsewhere",
        "change at the usual places",
        "elsewhere",
        "at half of each",
        "said of half of each",
        "outcome",
    ]
    return Table("", head, rows).markdown()


def changes() -> str:
    runs = [run for run in told() if GRADED not in run["model"]]
    texts = []
    for place, name in enumerate(("elsewhere", "usual")):
        before = [run["before"][1 - place] for run in runs]
        after = [value + run[name] for value, run in zip(before, runs, strict=True)]
        shown = (", ".join(f"{100 * value:.0f}" for value in values) for values in (before, after))
        texts.append("from {} to {} %".format(*shown))
    outcomes = " and ".join(f"`{outcome}`" for outcome in dict.fromkeys(run["outcome"] for run in runs))
    return (
        "**On photographs that were taken elsewhere, little.** BAR has photographs of six actions, each at one place. "
        f"We trained {len(runs)} models on them, ran `improve`, and tested on photographs of the same actions at other "
        f"places. There, top-1 changed {texts[0]}, and at the usual places {texts[1]}. `improve` called them {outcomes}, "
        "so it said to keep the original models. [The measurement](docs/results.md#photographs-taken-elsewhere)."
    )


def in_short() -> str:
    """How often each outcome is said, and is false."""
    runs = told()
    said = Counter(run["outcome"] for run in runs)
    counts = ", ".join(f"`{outcome}` {said[outcome]}" for outcome in OUTCOMES if said[outcome])
    false = sum(run["outcome"] == "better" and run["change"] <= 0 for run in runs)
    gains = [run for run in runs if run["change"] >= FEW]
    found = sum(run["outcome"] == "better" for run in gains)
    held = {
        name: [of["told"][name].low <= of[name] <= of["told"][name].high for of in runs if name in of["told"]]
        for name in ("usual", "change")
    }
    intervals = ", and ".join(
        f"the interval of {text} {sum(held[name])} of {len(held[name])}"
        for name, text in (
            ("usual", "the change at the usual places held"),
            ("change", "the change at half of each held"),
        )
    )
    return (
        f"Of {len(runs)} models, the outcomes are: {counts}. False `better`: {false} of {said['better']}. Models that "
        f"gain at least {100 * FEW:.0f} points where half of the photographs are from elsewhere: {len(gains)}, of which "
        f"{found} are called `better`. Of the changes that were measured, {intervals}."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "photographs taken elsewhere": arms,
    "verdicts on photographs taken elsewhere": verdicts,
    "errors on photographs taken elsewhere": in_short,
    "elsewhere in short": changes,
}
