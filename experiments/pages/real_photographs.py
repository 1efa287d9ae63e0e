"""Masks, maps, verdicts and improvements on real photographs: tables of experiments/photographs.md and
architectures.md."""

from collections.abc import Callable, Mapping

from robust_vit_hf.results.intervals import Difference, Interval
from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark, commits_of, text


MAKERS = {"dinov2": "default", "dinov2, confirmed": "default, only masks not in doubt", "tokencut": "TokenCut"}
MEASURES = {
    "original": "`original`",
    "mixed_same": "`mixed_same`",
    "mixed_rand": "`mixed_rand`",
    "bg_gap": "BG-Gap",
    "composing": "loss from composing",
    "donor_rate": "predicted as the class of the background",
    "estimate": "estimate on random backgrounds",
}
DIFFERENCES = ("bg_gap", "composing")
BOTH_SHOW = "the confirmed photographs, and on which ISNet shows something"
COMPARED = ("bg_gap", "mixed_rand", "donor_rate")
# By kind of test photographs: the accuracy for whose change the verdict of `improve` gives an interval.
PROMISED = {"among these classes": "usual", "usual background": "usual", "another of the planted backgrounds": "other"}
TITLES = {
    "photographs as they are": "original photographs",
    "another of the planted backgrounds": "a random planted background",
}


def part(name: str) -> dict[str, dict]:
    return {title: of for title, of in benchmark("real_photographs").get(name, {}).items() if title != "made with"}


def masks() -> str:
    rows = []
    for images, of_images in part("masks").items():
        for maker, measured in of_images.items():
            shares = (f"{100 * measured[name]:.1f}" for name in ("iou", "below 0.3", "inverted"))
            seconds = f"{measured['seconds']:.2f}" if "seconds" in measured else ""
            rows.append([images, MAKERS[maker], str(measured["images"]), *shares, seconds])
    head = ["photographs", "masks", "images", "IoU", "below 0.3", "inverted", "seconds"]
    return Table("", head, rows).markdown()


def class_maps() -> str:
    """How well the maps of CNNs and ViTs show the object."""
    rows = []
    for model, scores in benchmark("class_maps")["scores"].items():
        name, _, head = model.partition(", ")
        made = ["only the centre", "–", "–"] if name == "centre" else [scores["map"], name, head or "its own head"]
        rows.append([*made, *(f"{100 * scores[key]:.0f}" for key in ("pointing_game", "mean_iou"))])
    return Table("", ["map", "model", "head", "maximum on the object", "mIoU"], rows).markdown()


def verdicts() -> str:
    rows = []
    for masks, measured in part("verdicts").items():
        confirmed = "only photographs whose default mask is not in doubt"
        title = masks.removesuffix(" alone").replace("the confirmed photographs", confirmed)
        rows.append([title, str(measured["composed"]), *(_shown(name, measured) for name in MEASURES)])
    of_masks = [part("verdicts")[f"{name}, {BOTH_SHOW}"] for name in ("dinov2", "ISNet")]
    apart = [
        f"{MEASURES[name]} by {100 * abs(of_masks[0][name]['mean'] - of_masks[1][name]['mean']):.1f}"
        for name in COMPARED
    ]
    table = Table("", ["masks", "composed", *MEASURES.values()], rows).markdown()
    differences = ", ".join(apart)
    return f"{table}\n\nIn the last two rows, both makers show an object. Their figures differ: {differences} points."


def _shown(name: str, measured: Mapping[str, dict]) -> str:
    if name not in measured:
        return "–"
    return str((Difference if name in DIFFERENCES else Interval)(**measured[name]))


def improved() -> str:
    rows, held = [], []
    runs = {f"planted background, {name}": run for name, run in part("planted").items()}
    runs |= {f"planted background, DINOv2-S, {name}": run for name, run in part("finetuned").items()}
    for title, run in (part("classes") | part("classes, trained") | runs).items():
        places = [place for place in run.get("before", ()) if place != "estimate"]
        for place in places:
            before, after = (100 * run[side][place] for side in ("before", "after"))
            shown = TITLES.get(place, place)
            promised = Difference(**run[PROMISED[place]]) if place in PROMISED else None
            if promised is not None:
                held.append(100 * promised.low <= after - before <= 100 * promised.high)
            cells = (f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}", str(promised or ""))
            rows.append([title, run["outcome"], shown, *cells])
    table = Table("", ["run", "outcome", "photographs", "before", "after", "change", "promised"], rows).markdown()
    return (
        f"{table}\n\nOf {len(held)} changes that were promised with an interval, {sum(held)} lie in it. Some of these "
        "intervals are very wide, and efforts that chose the same layer count twice."
    )


def times() -> str:
    rows = []
    for size, commands in part("times").items():
        for command, measured in commands.items():
            told = measured["estimate"].partition("about ")[2].partition(" in all")[0]
            rows.append([size, command, f"{measured['seconds']:.0f}", told or "–", f"{measured['megabytes']:.0f}"])
    table = Table("", ["photographs", "command", "seconds", "estimated", "memory, MB"], rows)
    commits = commits_of("real_photographs")
    return f"{table.markdown()}\n\nThe parts of this page were measured with several commits: {commits}."


def in_short() -> str:
    """A sentence on a real model for the README."""
    run = next(of for title, of in part("classes").items() if title.startswith("150 classes"))
    known, others = (
        f"from {100 * run['before'][place]:.1f} to {100 * run['after'][place]:.1f} %"
        for place in ("among these classes", "850 others")
    )
    planted, lost = part("planted")["quick"], Interval(**part("verdicts")["dinov2"]["bg_gap"])
    other, original = (
        f"from {100 * planted['before'][place]:.0f} to {100 * planted['after'][place]:.0f} %"
        for place in ("another of the planted backgrounds", "photographs as they are")
    )
    return text(
        "real-photographs-in-short",
        lost=lost,
        outcome=run["outcome"],
        known=known,
        others=others,
        planted_outcome=planted["outcome"],
        other=other,
        original=original,
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "masks of photographs": masks,
    "class maps": class_maps,
    "verdicts of photographs": verdicts,
    "improved photographs": improved,
    "times of photographs": times,
    "real photographs in short": in_short,
}
