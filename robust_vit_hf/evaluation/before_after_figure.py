"""`before_after.png` of a run, and other figures of examples with their relevance maps before and after finetuning."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..results.run_results import Run
from ..utils.plotting import PICTURE_AXES, plain
from .before_after_examples import (
    EXAMPLES_FILE,
    KINDS,
    NUM_EXAMPLES,
    Example,
    draw,
    explain,
    rows_of_kind,
    save_examples,
)
from .session import Session


FIGURE_FILE = "before_after.png"
NUM_SHOWN = 4  # images in a group of the figure
NUM_CANDIDATES = 60  # corrected images searched for the largest drop of relevance on the background


def write_examples(folder: Path, run: Run, session: Session) -> None:
    """Write the examples of a run to an existing folder, and a figure of some of them."""
    sets = session.sets
    found = {kind: rows_of_kind(kind, run.sets, sets) for kind in KINDS}
    masked = {name: rows for name, rows in found["corrected"].items() if "mask" in sets[name].dataset.column_names}
    candidates = draw(masked, NUM_CANDIDATES, seed=0)
    drawn = {kind: draw(rows, NUM_EXAMPLES, seed=0) for kind, rows in found.items()}
    wanted = list(dict.fromkeys([*candidates, *chain.from_iterable(drawn.values())]))
    by_image = dict(zip(wanted, explain(wanted, session, run.sets), strict=True))
    examples = {kind: [by_image[image] for image in images] for kind, images in drawn.items()}
    if any(examples.values()):
        save_examples(examples, folder / EXAMPLES_FILE)
    # Both shares are unknown where a mask is empty.
    complete = [by_image[image] for image in candidates if len(by_image[image].background) == 2]
    ranked = sorted(complete, key=lambda example: example.background["after"] - example.background["before"])
    groups = {f"Corrected, of {len(ranked)} those whose\nrelevance left the background most": ranked[:NUM_SHOWN]}
    titles = {"corrected": "Corrected", "broken": "Got worse"}
    if not drawn["corrected"] and not drawn["broken"]:
        titles = {"unchanged": "No prediction changed"}
    for kind, title in titles.items():
        total = sum(map(len, found[kind].values()))
        groups[f"{title}, of {total}\ndrawn at random (seed 0)"] = examples[kind][:NUM_SHOWN]
    if any(groups.values()):
        before_after_figure([groups]).savefig(folder / FIGURE_FILE, dpi=90)


def before_after_figure(
    rows: Sequence[Mapping[str, Sequence[Example]]], targets: Sequence[str] = ("predicted", "true")
) -> Figure:
    """Images with their relevance maps before and after, one column each; examples by title are side by side in a row. With both
    targets, maps of the class `true` are shown only where the prediction is wrong. Examples of one side have its confidence too; of
    models without maps, predictions are named."""
    rows = [{title: examples for title, examples in row.items() if examples} for row in rows]
    rows = [row for row in rows if row]
    shown = [example for row in rows for examples in row.values() for example in examples]
    sides = max(len(example.predicted) for example in shown)
    lines = sides + len(targets) if any(example.maps for example in shown) else 1  # pictures of a column
    columns = [[max(len(examples), 3) for examples in row.values()] for row in rows]  # space for the title
    height = 1.8 * lines if lines > 1 else 2.4  # of a row: without maps, the image's caption names the predictions
    figure = Figure((1.45 * max(map(sum, columns)), height * len(rows)), layout="constrained")
    bands = figure.subfigures(len(rows), 1, squeeze=False, hspace=0.02)[:, 0]
    for band, widths, row in zip(bands, columns, rows, strict=True):
        rest = [max(map(sum, columns)) - sum(widths)]  # padding, so that all pictures have the same size
        shares = [width for width in widths + rest if width]
        parts = np.atleast_1d(band.subfigures(1, len(shares), width_ratios=shares, wspace=0.03))
        for part, width, (title, examples) in zip(parts, widths, row.items(), strict=False):
            part.suptitle(plain(title), fontweight="bold", fontsize=9)
            axes = part.subplots(lines, width, squeeze=False, subplot_kw=PICTURE_AXES)
            for column, example in enumerate(examples):
                caption = [example.set_name, example.label]
                for side, predicted in example.predicted.items():
                    caption += [] if (side, "predicted") in example.maps else [f"{side}: {predicted}"]
                pictures = [("\n".join(caption), example.image)]
                for (side, target), picture in example.maps.items():
                    predicted = example.predicted[side]
                    is_new = target == "predicted" or len(targets) == 1 or predicted != example.label
                    if target in targets and is_new:
                        named = predicted if target == "predicted" else example.label
                        named += f", {example.confidence[side]:.0%}" if sides == 1 else ""
                        pictures.append((f"{side}, {target}:\n{named}", picture))
                for axis, (caption, picture) in zip(axes[:, column], pictures, strict=False):
                    axis.imshow(picture)
                    axis.set_title(plain(caption), fontsize=8)
    return figure
