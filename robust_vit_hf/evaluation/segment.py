"""`robust-vit segment`: agreement of attribution maps with the masks of a set, as in the paper's Table 3."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import pandas as pd
import torch

from ..data import emoji_shift
from ..data.find_images import find_images
from ..data.image_sets import load_image_set
from ..data.known_sets import BUNDLED_BENCHMARK
from ..data.schema import may_be_shown
from ..data.transforms import denormalize, segmentation_transform
from ..metrics import relevance_segmentation
from ..models.image_processors import squash_resample
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..results.tables import attribution_table
from ..utils.images import overlay, save_picture_grid
from .options import SegmentOptions
from .session import (
    Measurement,
    Session,
    Side,
    TransformedRows,
    batch_outputs,
    measure,
    open_session,
    write_results_json,
)
from .sets import EvaluationSet


FIGURE_FILE = "attribution.png"
NUM_EXAMPLES = 8


def segment(options: SegmentOptions) -> str:
    """Measure how well relevance maps cover the object, for one model or two, and write tables and figures."""
    folder = options.output_dir
    models = options.model, options.compare, options.protocol
    with open_session(*models, folder, bf16=options.bf16, passes=options.passes) as session:
        session.check_maps()
        with session.accelerator.main_process_first():
            name, rows = _masked_set(options)
        session = session.with_sets({name: EvaluationSet(rows)})
        measured = measure(session, Attribution(tuple(options.methods)))[name]
        if not session.accelerator.is_main_process:
            return ""
        scores = {side: attribution_scores(of_side, options.methods) for side, of_side in measured.items()}
        table = attribution_table(scores, name, len(rows))
        settings = asdict(options) | {"protocol": session.protocol}
        facts = {"scores": {name: scores}, "num_images": len(rows)}
        markdown = write_results_json(session, folder, settings, facts, [table])
        write_attribution_figure(session, rows, options.methods, folder / FIGURE_FILE)
    return f"\n{markdown}\nresults.json, tables and {FIGURE_FILE}: {folder}"


def _masked_set(options: SegmentOptions) -> tuple[str, datasets.Dataset]:
    if options.dataset is not None:
        return options.split, find_images(options.dataset, options.split, ("mask",)).rows
    name, source = options.named_set
    if name == BUNDLED_BENCHMARK:
        sets = emoji_shift.load_evaluation_sets(options.images_per_set).values()
        return name, datasets.concatenate_datasets([rows for rows in sets if "mask" in rows.column_names])
    return name, load_image_set(name, source)


def write_attribution_figure(session: Session, rows: datasets.Dataset, methods: Sequence[str], path: Path) -> None:
    """Write a figure of a few images that may be published, evenly spaced in the set."""
    shown = may_be_shown(rows).nonzero()[0]
    count = min(NUM_EXAMPLES, len(shown))
    if not count:
        return
    examples = rows.select([shown[index * len(shown) // count] for index in range(count)])
    # Each image as the model sees it, its mask, and the map of the predicted class by model and attribution method.
    columns: list[tuple[str, torch.Tensor]] = []
    for name, side in session.sides.items():
        transform = segmentation_transform(side.processor, squash_resample(side.processor))
        batch = examples.select_columns(["image", "mask"]).with_transform(transform)[:]
        pixel_values, masks = torch.stack(batch["pixel_values"]), torch.stack(batch["mask"])
        images = denormalize(pixel_values, side.processor)
        columns = columns or [("image", images), ("mask", masks.expand_as(images))]
        for method in methods:
            with torch.no_grad():
                output = ATTRIBUTION_METHODS[method](side.model, pixel_values.to(session.accelerator.device))
            caption = f"{method}\n{name}" if len(session.sides) > 1 else method
            columns.append((caption, overlay(images, output.relevance.cpu())))
    grid = [[(name, pictures[row].permute(1, 2, 0).numpy()) for name, pictures in columns] for row in range(count)]
    save_picture_grid(grid, path)


@dataclass(frozen=True)
class Attribution(Measurement):
    """Maps of the predicted class and masks of squashed images (Table 3 of the paper): `mask_pixels`, and for each
    method what [`relevance_segmentation.of_map`] returns."""

    methods: tuple[str, ...] = tuple(ATTRIBUTION_METHODS)

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str) -> pd.DataFrame:
        side.model.eval()
        transform = segmentation_transform(side.processor, squash_resample(side.processor))
        loader = session.loader(TransformedRows(rows.dataset.select_columns(["image", "mask"]), transform))
        parts = []

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
            methods = [ATTRIBUTION_METHODS[method] for method in self.methods]
            outputs = [method(side.model, batch["pixel_values"], check_finite=False) for method in methods]
            maps = (output.relevance for output in outputs)
            return [output.logits for output in outputs], (batch["mask"], *maps)

        for _, _, (masks, *maps) in batch_outputs(loader, compute, rows.dataset, session.accelerator, title):
            reduced = [relevance_segmentation.reduce(of_method, masks) for of_method in maps]
            part = {method: of["predictions"] for method, of in zip(self.methods, reduced, strict=True)}
            parts.append(pd.DataFrame(part | {"mask_pixels": reduced[0]["references"]}))
        return pd.concat(parts, ignore_index=True)


def attribution_scores(table: pd.DataFrame, methods: Sequence[str]) -> dict[str, dict]:
    """Scores by method, from a table of [`Attribution`]."""
    return {method: relevance_segmentation.scores(table[method].tolist(), table["mask_pixels"]) for method in methods}
