"""Examples of images before and after finetuning with their relevance maps: their choice and their figure."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.auto import tqdm

from ..data.schema import may_be_shown
from ..data.transforms import denormalize
from ..relevance.layer_cam import LAYER_CAM, RELEVANCE, class_map
from ..results.run_results import SetResult
from ..utils.files import atomic_file
from ..utils.images import PICTURE_AXES, overlay, plain
from .session import Session
from .sets import EvaluationSet


# Kinds of examples, and the rule of each.
KINDS = {
    "corrected": "the prediction is wrong before the finetuning and right after it",
    "broken": "the prediction is right before the finetuning and wrong after it",
    "unchanged": "the prediction is the same before and after the finetuning",
}
FIGURE_FILE = "before_after.png"
NUM_SHOWN = 4  # images in a group of the figure
NUM_CANDIDATES = 60  # corrected images searched for the largest drop of relevance on the background


@dataclass(frozen=True)
class Example:
    """An image with its predictions and, if the models have maps of the kind `map_name`, with maps."""

    set_name: str
    row: int
    label: str
    image: Image.Image  # the preprocessed input of the original model, in RGB
    predicted: dict[str, str] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    maps: dict[tuple[str, str], Image.Image] = field(default_factory=dict)  # by side and target (`predicted`, `true`)
    map_name: str | None = RELEVANCE
    # Of the map of the predicted class, by side: its share outside the mask, and its mean inside; empty without a mask.
    background: dict[str, float] = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=dict)


def rows_of_kind(
    kind: str | None,
    results: Mapping[str, SetResult],
    sets: Mapping[str, EvaluationSet],
    classes: Collection[int] | None = None,
) -> dict[str, list[int]]:
    """Labelled images by set that may be published, of sets with one class per image: those of one of [`KINDS`] (`None`
    for all), and of these `classes` (all by default)."""
    rows = {}
    for name, result in results.items():
        if result.by_class:
            chosen = may_be_shown(sets[name].dataset) & (result.usable if kind is None else is_of_kind(kind, result))
            if classes is not None:
                chosen &= result.in_classes(list(classes))
            rows[name] = np.flatnonzero(chosen).tolist()
    return rows


def is_of_kind(kind: str, result: SetResult) -> np.ndarray:
    right, right_after = result.correct("before"), result.correct("after")
    best, best_after = (result.sides[side].predictions[:, 0] for side in ("before", "after"))
    chosen = {"corrected": ~right & right_after, "broken": right & ~right_after, "unchanged": best == best_after}
    return chosen[kind] & result.usable


def draw(rows: Mapping[str, Sequence[int]], count: int, seed: int) -> list[tuple[str, int]]:
    """Draw at most `count` pairs of set and row, from the sets in turn. A larger `count` draws the same pairs first."""
    shuffled = [
        [(name, row) for row in np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(of_set).tolist()]
        for name, of_set in rows.items()
    ]
    return [pair for pair in chain.from_iterable(zip_longest(*shuffled)) if pair][:count]


def explain(
    images: Sequence[tuple[str, int]],
    session: Session,
    results: Mapping[str, SetResult],
    sides: Collection[str] = ("before", "after"),
) -> list[Example]:
    """Maps of images for the predicted and the true class; only predictions if models have no maps, or of two kinds."""
    class_names, examples, (first, *_) = session.label_names, [], sides

    @cache  # the geometry of a processor may have to be measured
    def transformed(name: str, side: str) -> datasets.Dataset:
        rows = session.sets[name]
        return rows.dataset.with_transform(rows.transform(session.sides[side].processor))

    for name, index in tqdm(images, desc="examples", unit="image", disable=len(images) < 2):
        label = int(results[name].classes[index])
        (seen,) = denormalize(transformed(name, first)[index]["pixel_values"][None], session.sides[first].processor)
        example = Example(name, index, class_names[label], to_pil_image(seen), map_name=session.map_name)
        for side in sides:
            model, processor = session.sides[side].model, session.sides[side].processor
            row = transformed(name, side)[index]
            predicted, device = int(results[name].sides[side].predictions[index, 0]), next(model.parameters()).device
            targets = [predicted] if predicted == label else [predicted, label]
            pixel_values = row["pixel_values"].expand(len(targets), -1, -1, -1)
            picture = denormalize(pixel_values, processor)
            example.predicted[side] = class_names[predicted]
            if session.map_name is None:
                continue
            model.eval()
            with torch.no_grad():
                output = class_map(model, pixel_values.to(device), torch.tensor(targets, device=device))
            relevance = output.relevance.cpu()
            shown = [to_pil_image(picture_of_target) for picture_of_target in overlay(picture, relevance)]
            example.maps[side, "predicted"], example.maps[side, "true"] = shown[0], shown[-1]
            example.confidence[side] = output.logits.softmax(dim=1)[0, predicted].item()
            if "mask" in row and row["mask"].any():
                inside, outside = (relevance[0] * row["mask"]).sum(), (relevance[0] * (1 - row["mask"])).sum()
                example.background[side] = (outside / relevance[0].sum().clamp_min(1e-6)).item()
                example.coverage[side] = (inside / row["mask"].sum().clamp_min(1e-6)).item()
        examples.append(example)
    return examples


def write_before_after(folder: Path, results: Mapping[str, SetResult], session: Session) -> None:
    """Write a figure of images before and after the finetuning to a folder, if there are any that may be published."""
    rows = {kind: rows_of_kind(kind, results, session.sets) for kind in KINDS}
    masked = {name for name, of_set in session.sets.items() if "mask" in of_set.dataset.column_names}
    candidates = {name: of_set for name, of_set in rows["corrected"].items() if name in masked}
    explained = explain(draw(candidates, NUM_CANDIDATES, seed=0), session, results)
    # Both shares are unknown where a mask is empty.
    complete = [example for example in explained if len(example.background) == 2]
    ranked = sorted(complete, key=lambda example: example.background["after"] - example.background["before"])
    rule = f"Corrected, of {len(ranked)} those whose\n{session.map_name} left the background most"
    groups = {rule: ranked[:NUM_SHOWN]}
    changed = {"corrected": "Corrected", "broken": "Got worse"}
    if not any(of_set for kind in changed for of_set in rows[kind].values()):
        changed = {"unchanged": "No prediction changed"}
    for kind, title in changed.items():
        total = sum(map(len, rows[kind].values()))
        drawn = draw(rows[kind], NUM_SHOWN, seed=0)
        groups[f"{title}, of {total}\ndrawn at random (seed 0)"] = explain(drawn, session, results)
    if any(groups.values()):
        with atomic_file(folder / FIGURE_FILE) as partial:
            before_after_figure([groups]).savefig(partial, dpi=90, format="png")


def before_after_figure(
    rows: Sequence[Mapping[str, Sequence[Example]]], targets: Sequence[str] = ("predicted", "true")
) -> Figure:
    """Images with their maps before and after, for the predicted class and, where that is wrong, for the true one."""
    rows = [{title: examples for title, examples in row.items() if examples} for row in rows]
    rows = [row for row in rows if row]
    shown = [example for row in rows for examples in row.values() for example in examples]
    sides = max(len(example.predicted) for example in shown)
    lines = sides + len(targets) if any(example.maps for example in shown) else 1  # pictures in a column
    columns = [[max(len(examples), 3) for examples in row.values()] for row in rows]  # space for the title
    height = 1.8 * lines if lines > 1 else 2.4  # height of a row; without maps, captions name the predictions
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
                prefix = f"{LAYER_CAM} " if example.map_name == LAYER_CAM else ""
                for (side, target), picture in example.maps.items():
                    predicted = example.predicted[side]
                    is_new = target == "predicted" or len(targets) == 1 or predicted != example.label
                    if target in targets and is_new:
                        named = predicted if target == "predicted" else example.label
                        named += f", {example.confidence[side]:.0%}" if sides == 1 else ""
                        pictures.append((f"{prefix}{side}, {target}:\n{named}", picture))
                for axis, (caption, picture) in zip(axes[:, column], pictures, strict=False):
                    axis.imshow(picture)
                    size = 6.5 if caption.startswith(LAYER_CAM) else 8  # no wider than the picture
                    axis.set_title(plain(caption), fontsize=size)
    return figure
