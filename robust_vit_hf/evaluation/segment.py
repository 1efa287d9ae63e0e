"""`robust-vit segment`: agreement of attribution maps with the masks of a set, as in the paper's Table 3."""

from dataclasses import asdict

import datasets

from ..data.benchmarks import benchmarks
from ..data.find_images import find_images
from ..data.image_sets import load_image_set
from ..results.segmentation_tables import attribution_table
from ..utils.stage import Stage
from .attribution_figure import FIGURE_FILE, write_attribution_figure
from .measurements.attribution_agreement import Attribution
from .measurements.base import measure
from .options import SegmentOptions
from .results_json import write_results_json
from .session import open_session
from .sets import EvaluationSet


def segment(options: SegmentOptions) -> str:
    """Measure how well relevance maps cover the object, for one model or two (before and after finetuning). Writes
    `results.json`, `tables.md`, `tables.tex` and `attribution.png` with the maps of a few images. Results already in the
    output folder are reused."""
    folder = options.output_dir
    stage = Stage(folder, {"command": "segment"})
    with open_session(options, options.preset, stage, bf16=options.bf16) as session:
        session.check_maps()
        with session.accelerator.main_process_first():
            name, rows = _masked_set(options)
        session = session.with_sets({name: EvaluationSet(rows)})
        measured = measure(session, Attribution(options.batch_size, options.num_workers, tuple(options.methods)))[name]
        if not session.accelerator.is_main_process:
            return ""
        scores = {side: result.scores for side, result in measured.items()}
        paper_model = options.paper_model or session.paper_model
        table = attribution_table(scores, name, len(rows), paper_model if session.preset == "paper" else None)
        settings = asdict(options) | {"preset": session.preset}
        facts = {"paper_model": paper_model, "scores": {name: scores}}
        markdown = write_results_json(session, folder, settings, facts, [table])
        write_attribution_figure(session, rows, options.methods, folder / FIGURE_FILE)
    return f"\n{markdown}\nresults.json, tables and {FIGURE_FILE}: {folder}"


def _masked_set(options: SegmentOptions) -> tuple[str, datasets.Dataset]:
    """Name and rows of the set: your own images, the sets of a benchmark that have masks, or a set of the paper."""
    if options.dataset is not None:
        return options.split, find_images(options.dataset, options.split, ("mask",)).rows
    name, source = options.set
    if name in benchmarks():
        sets = benchmarks()[name].evaluation_sets(options.images_per_set).values()
        return name, datasets.concatenate_datasets([rows for rows in sets if "mask" in rows.column_names])
    return name, load_image_set(name, source)
