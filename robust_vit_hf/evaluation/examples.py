"""Examples of images before and after finetuning with their relevance maps: their choice, their file, their galleries and their figure."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, product, zip_longest
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import parquet as pq
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.auto import tqdm

from ..data.schema import may_be_shown
from ..data.transforms import denormalize
from ..relevance.layer_cam import LAYER_CAM, RELEVANCE, class_map
from ..results.html_page import Gallery, Picture, data_url
from ..results.run_results import Run, SetResult
from ..utils.files import atomic_file
from ..utils.images import PICTURE_AXES, overlay, plain, to_webp
from .session import Session
from .sets import EvaluationSet


EXAMPLES_FILE = "examples.parquet"
# Kinds of examples, and the rule of each.
KINDS = {
    "corrected": "the prediction is wrong before the finetuning and right after it",
    "broken": "the prediction is right before the finetuning and wrong after it",
    "unchanged": "the prediction is the same before and after the finetuning",
}
NUM_EXAMPLES = 8  # examples of each kind in the file
FIGURE_FILE = "before_after.png"
NUM_SHOWN = 4  # images in a group of the figure
NUM_CANDIDATES = 60  # corrected images searched for the largest drop of relevance on the background
_PICTURES = ("image", "before_predicted", "before_true", "after_predicted", "after_true")
FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("kind", "set", "label", "predicted_before", "predicted_after", "map")}
    | {"row": datasets.Value("int64")}
    | {f"background_{side}": datasets.Value("float64") for side in ("before", "after")}
    | {name: datasets.Image() for name in _PICTURES}
)


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
    """Labelled images by set that may be published, of sets with one class per image: those of one of [`KINDS`] (`None` for all), and of these
    `classes` (all by default)."""
    rows = {}
    for name, result in results.items():
        if result.classes is not None and result.by_class:
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
    in_turn = chain.from_iterable(zip_longest(*shuffled))
    return [pair for pair in in_turn if pair is not None][:count]


def draw_by_kind(
    results: Mapping[str, SetResult], sets: Mapping[str, EvaluationSet]
) -> dict[str, list[tuple[str, int]]]:
    return {kind: draw(rows_of_kind(kind, results, sets), NUM_EXAMPLES, seed=0) for kind in KINDS}


def explain(
    images: Sequence[tuple[str, int]],
    session: Session,
    results: Mapping[str, SetResult],
    sides: Collection[str] = ("before", "after"),
) -> list[Example]:
    """Maps of images for the predicted and the true class; only predictions if the models have no maps, or maps of two kinds."""
    class_names, examples = session.label_names, []

    @cache  # the geometry of a processor may have to be measured
    def transformed(name: str, side: str) -> datasets.Dataset:
        rows = session.sets[name]
        return rows.dataset.with_transform(rows.transform(session.sides[side].processor))

    for name, index in tqdm(images, desc="examples", unit="image", disable=len(images) < 2):
        label, example = int(results[name].classes[index]), None
        for side in sides:
            model, processor = session.sides[side].model, session.sides[side].processor
            row = transformed(name, side)[index]
            predicted, device = int(results[name].sides[side].predictions[index, 0]), next(model.parameters()).device
            targets = [predicted] if predicted == label else [predicted, label]
            pixel_values = row["pixel_values"].expand(len(targets), -1, -1, -1)
            picture = denormalize(pixel_values, processor)
            if example is None:
                example = Example(name, index, class_names[label], to_pil_image(picture[0]), map_name=session.map_name)
            example.predicted[side] = class_names[predicted]
            if session.map_name is None:
                continue
            model.eval()
            with torch.no_grad():
                output = class_map(model, pixel_values.to(device), torch.tensor(targets, device=device))
            relevance = output.relevance.cpu()
            shown = [to_pil_image(picture_of_target) for picture_of_target in overlay(picture, relevance)]
            example.maps[side, "predicted"], example.maps[side, "true"] = shown[0], shown[-1]
            example.confidence[side] = output.logits[0].softmax(dim=0)[predicted].item()
            if "mask" in row and row["mask"].any():
                inside, outside = (relevance[0] * row["mask"]).sum(), (relevance[0] * (1 - row["mask"])).sum()
                example.background[side] = (outside / relevance[0].sum().clamp_min(1e-6)).item()
                example.coverage[side] = (inside / row["mask"].sum().clamp_min(1e-6)).item()
        examples.append(example)
    return examples


def save_examples(examples: Mapping[str, Sequence[Example]], path: Path) -> None:
    rows = []
    for kind, of_kind in examples.items():
        for example in of_kind:
            row = {"kind": kind, "set": example.set_name, "row": example.row, "label": example.label}
            row["map"] = example.map_name
            row["image"] = to_webp(example.image)
            for side, predicted in example.predicted.items():
                row |= {f"predicted_{side}": predicted, f"background_{side}": example.background.get(side)}
                for target in ("predicted", "true") if predicted != example.label else ("predicted",):
                    if (picture := example.maps.get((side, target))) is not None:
                        row[f"{side}_{target}"] = to_webp(picture)
            rows.append(row)
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, FEATURES.arrow_schema), partial)


def galleries(folder: Path) -> list[Gallery]:
    """The examples saved by a run or an evaluation, for a page; empty without any."""
    if not (folder / EXAMPLES_FILE).is_file():
        return []
    filled = []
    rows = pq.read_table(folder / EXAMPLES_FILE).to_pylist()
    for kind, rule in KINDS.items():
        if examples := [_pictures(row) for row in rows if row["kind"] == kind]:
            filled.append(Gallery(kind.capitalize(), f"Images drawn at random, of which {rule}.", examples))
    return filled


def _pictures(row: dict) -> tuple[str, list[Picture]]:
    image = data_url("webp", row["image"]["bytes"])
    of_cam = row.get("map") == LAYER_CAM  # files of earlier versions do not name it
    map_name, prefix = (LAYER_CAM, f"{LAYER_CAM} ") if of_cam else ("Relevance", "")
    pictures = [Picture(row["label"], f"Image of the class {row['label']}.", image)]
    for side, target in product(("before", "after"), ("predicted", "true")):
        if (picture := row[f"{side}_{target}"]) is not None:
            name = row[f"predicted_{side}"] if target == "predicted" else row["label"]
            alt = f"{map_name} map {side} the finetuning, of the {target} class {name}."
            caption, source = f"{prefix}{side}, {target}: {name}", data_url("webp", picture["bytes"])
            pictures.append(Picture(caption, alt, source, f"{side}-{target}"))
    caption = f"{row['set']}, row {row['row']}"
    if None in (row["before_predicted"], row["after_predicted"]):  # no map, whose caption would name the class
        caption += f". Predicted: {row['predicted_before']} before, {row['predicted_after']} after"
    before, after = row["background_before"], row["background_after"]
    if None not in (before, after):
        caption += f". {map_name} of the predicted class on the background: {before:.0%} before, {after:.0%} after"
    return caption, pictures


def write_examples(folder: Path, run: Run, session: Session) -> None:
    """Write the examples of a run to an existing folder, and a figure of some of them."""
    corrected = rows_of_kind("corrected", run.sets, session.sets)
    masked = {name for name, rows in session.sets.items() if "mask" in rows.dataset.column_names}
    candidates = draw({name: rows for name, rows in corrected.items() if name in masked}, NUM_CANDIDATES, seed=0)
    drawn = draw_by_kind(run.sets, session.sets)
    images = list(dict.fromkeys([*candidates, *chain.from_iterable(drawn.values())]))
    by_image = dict(zip(images, explain(images, session, run.sets), strict=True))
    examples = {kind: [by_image[image] for image in images] for kind, images in drawn.items()}
    if any(examples.values()):
        save_examples(examples, folder / EXAMPLES_FILE)
    # Both shares are unknown where a mask is empty.
    complete = [by_image[image] for image in candidates if len(by_image[image].background) == 2]
    ranked = sorted(complete, key=lambda example: example.background["after"] - example.background["before"])
    rule = f"Corrected, of {len(ranked)} those whose\n{session.map_name} left the background most"
    groups = {rule: ranked[:NUM_SHOWN]}
    titles = {"corrected": "Corrected", "broken": "Got worse"}
    if not drawn["corrected"] and not drawn["broken"]:
        titles = {"unchanged": "No prediction changed"}
    for kind, title in titles.items():
        total = sum(map(len, rows_of_kind(kind, run.sets, session.sets).values()))
        groups[f"{title}, of {total}\ndrawn at random (seed 0)"] = examples[kind][:NUM_SHOWN]
    if any(groups.values()):
        before_after_figure([groups]).savefig(folder / FIGURE_FILE, dpi=90)


def before_after_figure(
    rows: Sequence[Mapping[str, Sequence[Example]]], targets: Sequence[str] = ("predicted", "true")
) -> Figure:
    """Images with their maps before and after, for the predicted class and, where the prediction is wrong, for the true one."""
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
