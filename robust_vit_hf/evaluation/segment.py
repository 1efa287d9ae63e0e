"""`robust-vit segment`: agreement of attribution maps with the masks of a set, as in the paper's Table 3."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import torch

from ..data import emoji_shift
from ..data.find_images import find_images
from ..data.image_sets import load_image_set
from ..data.known_sets import BUNDLED_BENCHMARK
from ..data.schema import may_be_shown
from ..data.transforms import denormalize, segmentation_transform
from ..metrics.streaming import RelevanceSegmentation
from ..models.image_processors import squash_resample
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..results.set_tables import attribution_table
from ..utils.images import overlay, save_picture_grid
from ..utils.stage import Stage
from .measurement import Measured, Measurement, TransformedRows, batch_outputs, measure
from .options import SegmentOptions
from .results_files import write_results_json
from .session import Models, Session, Side, open_session
from .sets import EvaluationSet


FIGURE_FILE = "attribution.png"
NUM_EXAMPLES = 8


def segment(options: SegmentOptions) -> str:
    """Measure how well relevance maps cover the object, for one model or two, and write tables and figures."""
    folder = options.output_dir
    stage = Stage(folder, {"command": "segment"})
    models = Models(options.model, options.compare, options.protocol)
    with open_session(models, stage, bf16=options.bf16, passes=options.passes) as session:
        session.check_maps()
        with session.accelerator.main_process_first():
            name, rows = _masked_set(options)
        session = session.with_sets({name: EvaluationSet(rows)})
        measured = measure(session, Attribution(tuple(options.methods)))[name]
        if not session.accelerator.is_main_process:
            return ""
        scores = {side: result.scores for side, result in measured.items()}
        table = attribution_table(scores, name, len(rows))
        settings = asdict(options) | {"protocol": session.protocol}
        facts = {"scores": {name: scores}, "num_images": len(rows)}
        markdown = write_results_json(session, folder, settings, facts, [table])
        write_attribution_figure(session, rows, options.methods, folder / FIGURE_FILE)
    return f"\n{markdown}\nresults.json, tables and {FIGURE_FILE}: {folder}"


def _masked_set(options: SegmentOptions) -> tuple[str, datasets.Dataset]:
    if options.dataset is not None:
        return options.split, find_images(options.dataset, options.split, ("mask",)).rows
    name, source = options.set
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
    """Scores by attribution method, for maps of the predicted class on squashed images (Table 3 of the paper)."""

    methods: tuple[str, ...] = tuple(ATTRIBUTION_METHODS)

    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        side.model.eval()
        transform = segmentation_transform(side.processor, squash_resample(side.processor))
        loader = session.loader(TransformedRows(rows.dataset.select_columns(["image", "mask"]), transform))
        scores = {method: RelevanceSegmentation() for method in self.methods}

        def compute(batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
            methods = [ATTRIBUTION_METHODS[method] for method in self.methods]
            outputs = [method(side.model, batch["pixel_values"], check_finite=False) for method in methods]
            maps = (output.relevance for output in outputs)
            return [output.logits for output in outputs], (batch["mask"], *maps)

        for _, _, (masks, *maps) in batch_outputs(loader, compute, rows.dataset, session.accelerator, title):
            for metric, of_method in zip(scores.values(), maps, strict=True):
                metric.update(of_method, masks)
        return Measured(scores={method: metric.compute() for method, metric in scores.items()})
