"""`python -m experiments sis`: sufficient input subsets of one or two models on sets of images, as in the paper's
Figure 5."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import numpy as np
import torch

from robust_vit_hf.data.classes import class_index
from robust_vit_hf.data.find_images import find_images
from robust_vit_hf.data.known_sets import IMAGES_PER_SET
from robust_vit_hf.data.schema import may_be_shown
from robust_vit_hf.data.transforms import denormalize
from robust_vit_hf.evaluation.session import Session, open_session, write_results_json
from robust_vit_hf.evaluation.sets import EvaluationSet, load_evaluation_sets
from robust_vit_hf.models.image_processors import Protocol
from robust_vit_hf.results.tables import Table, percent
from robust_vit_hf.utils.images import save_picture_grid

from .input_subsets import Subsets, concatenate, summarize
from .options import SubsetOptions


NUM_EXAMPLES = 4


def find_subsets(options: SubsetOptions) -> str:
    """Find sufficient input subsets of one model or two (before and after finetuning), in one process. Writes
    `results.json`, `tables.md`, `sis.png` and the subsets of each batch, which are not computed again."""
    folder = options.output_dir
    models = options.model, options.compare, options.protocol
    with open_session(*models, folder, bf16=options.bf16) as session:
        targets = tuple(class_index(name, session.classes) for name in options.classes)
        session = session.with_sets(_load_sets(options, session.protocol))
        chosen = {name: _evenly_spaced(name, rows, options) for name, rows in session.sets.items()}
        session = replace(session, sets=chosen)
        step = options.pixels_per_step
        subsets = Subsets(options.batch_size, targets=targets, threshold=options.threshold, pixels_per_step=step)
        found = {
            name: {side: subsets.find(of, rows, session, f"{name}, {side}") for side, of in session.sides.items()}
            for name, rows in session.sets.items()
        }
        measured = {name: {side: subsets.columns(of) for side, of in sides.items()} for name, sides in found.items()}
        scores = {name: {side: summarize(of) for side, of in sides.items()} for name, sides in measured.items()}
        if len(measured) > 1:
            parts = {side: [of[side] for of in measured.values()] for side in session.sides}
            scores["all"] = {side: summarize(concatenate(of_side)) for side, of_side in parts.items()}
        table = subsets_table(scores, options.threshold)
        settings = asdict(options) | {"protocol": session.protocol}
        markdown = write_results_json(session, folder, settings, {"scores": scores}, [table])
        examples: list[list[tuple[str, np.ndarray]]] = []
        for name, rows in session.sets.items():
            shown = may_be_shown(rows.dataset).nonzero()[0].tolist()
            for index in shown[: NUM_EXAMPLES - len(examples)]:
                examples.append(_pictures(session, subsets, name, index, found[name]))
        if examples:
            save_picture_grid(examples, folder / "sis.png")
    return f"\n{markdown}\nresults.json, tables, sis.png and the subsets of each batch: {folder}"


def _load_sets(options: SubsetOptions, protocol: Protocol) -> dict[str, EvaluationSet]:
    """Load the named sets, your own dataset under the name of its split, and image files as `images`."""
    loaded, own = load_evaluation_sets(options.named_sets, protocol, IMAGES_PER_SET), {}
    if options.dataset is not None:
        images = find_images(options.dataset, options.split, () if options.classes else ("label",))
        rows = images.rows
        if options.classes and "label" in rows.column_names:
            rows = rows.remove_columns("label")  # which may be unknown, or of other classes
        own[images.name] = EvaluationSet.of(rows, source=options.dataset)
    if options.images:
        files = datasets.Dataset.from_dict({"image": [str(path) for path in options.images]})
        own["images"] = EvaluationSet.of(files.cast_column("image", datasets.Image()))
    if taken := own.keys() & loaded.keys():
        raise ValueError(f"`{taken.pop()}` names two of the sets: measure one at a time.")
    return loaded | own


def _evenly_spaced(name: str, rows: EvaluationSet, options: SubsetOptions) -> EvaluationSet:
    """Subset of `num_images` evenly spaced images, only labelled ones if labels are needed."""
    needs_labels = not options.classes
    if needs_labels and (not rows.accepted or not rows.by_class):
        raise ValueError(f"An image of `{name}` has no label, or several: name the classes to explain by --classes.")
    usable = [index for index in range(len(rows.dataset)) if not needs_labels or rows.accepted[index]]
    count = min(options.num_images, len(usable))
    chosen = [usable[number * len(usable) // count] for number in range(count)]
    accepted = rows.accepted and [rows.accepted[index] for index in chosen]
    return replace(rows, dataset=rows.dataset.select(chosen), accepted=accepted)


def subsets_table(scores: dict[str, dict[str, dict]], threshold: float) -> Table:
    """Table of [`summarize`] by set and side, in per cent."""
    columns = {
        "subset found": "found",
        "pixels": "size",
        "on the foreground": "foreground",
        "(of the image)": "image_foreground",
        "probability": "confidence",
        "with neighbours": "revealed",
        "all masked": "all_masked",
    }
    rows = []
    for name, of_sides in scores.items():
        for side, summary in of_sides.items():
            values = (percent(summary.get(key)) for key in columns.values())
            rows.append([f"{name}, {side}", str(summary["pairs"]), *values])
    title = f"Sufficient input subsets at a probability of {threshold:g}, in per cent"
    return Table(title, ["set, model", "pairs", *columns], rows)


def _pictures(
    session: Session, subsets: Subsets, name: str, index: int, found: Mapping[str, Path]
) -> list[tuple[str, np.ndarray]]:
    """Row of the figure: captioned pictures of an image and its subsets, as the model sees them."""
    rows, seen = session.sets[name], {}
    image = rows.dataset.select([index]).select_columns("image")
    processors = {side: of.processor for side, of in session.sides.items()}
    for side, processor in processors.items():  # which may see images of another size
        seen[side] = torch.stack(image.with_transform(rows.transform(processor))[:]["pixel_values"])
    label = session.classes[rows.accepted[index][0]] if rows.accepted and rows.accepted[index] else ""
    pictures = [(f"{name}\n{label}", denormalize(seen["before"], processors["before"]))]
    for number, (row, target) in enumerate(subsets.pairs(rows)):
        for side, folder in found.items() if row == index else ():
            subset, columns = subsets.subset(folder, number), subsets.columns(folder)
            size = f"{100 * subset.float().mean():.1f} % of pixels" if columns["found"][number] else "none found"
            caption = f"{session.classes[target]}, {side}\n{size}: {100 * columns['confidence'][number]:.0f} %"
            pictures.append((caption, denormalize(seen[side] * subset, processors[side])))
    return [(caption, picture[0].permute(1, 2, 0).numpy()) for caption, picture in pictures]
