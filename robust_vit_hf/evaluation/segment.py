"""`robust-vit segment`: agreement of attribution maps with the masks of a set, as in the paper's Table 3."""

from dataclasses import asdict

import datasets

from ..data.benchmarks import benchmarks
from ..data.image_sets import load_image_set
from ..data.masked_dataset import check_columns, load_masked_dataset
from ..results.segmentation_tables import attribution_table
from ..utils.environment import environment
from ..utils.files import RESULTS_FILE, write_atomically, write_json
from ..utils.public_names import public_settings
from .measurements.attribution_agreement import Attribution
from .measurements.base import measure
from .options import SegmentOptions
from .relevance_examples import may_be_shown
from .relevance_figures import save_attribution_figure
from .session import open_session
from .sets import EvaluationSet


NUM_EXAMPLES = 8


def segment(options: SegmentOptions) -> str:
    """Measure how well relevance maps cover the object, for one model or two (before and after finetuning). Writes
    `results.json`, `table.md`, `table.tex` and `attribution.png` with the maps of a few images. Results already in the
    output folder are reused.

    Returns:
        The table as Markdown; an empty string outside the main process.

    Raises:
        ValueError: the set has no masks, or the models do not fit together.
        OSError: a model or set does not exist, or another process is writing to the output folder.
    """
    folder = options.output_dir
    with open_session(options, options.preset, folder, bf16=options.bf16, results_key="methods") as session:
        with session.accelerator.main_process_first():
            name, rows = _masked_set(options)
        session = session.with_sets({name: EvaluationSet(rows)})
        measured = measure(session, Attribution(options.batch_size, options.num_workers, tuple(options.methods)))[name]
        if not session.accelerator.is_main_process:
            return ""
        scores = {side: result.scores for side, result in measured.items()}
        paper_model = options.paper_model or session.paper_model
        table = attribution_table(scores, name, len(rows), paper_model if session.preset == "paper" else None)
        markdown = f"{table.title}:\n\n{table.markdown()}\n"
        settings = public_settings(asdict(options) | {"preset": session.preset})
        results = {"settings": settings, "paper_model": paper_model, **environment(), "scores": {name: scores}}
        write_json(folder / RESULTS_FILE, results)
        write_atomically(folder / "table.md", markdown)
        write_atomically(folder / "table.tex", table.latex())
        shown = rows.select(may_be_shown(rows).nonzero()[0])
        if count := min(NUM_EXAMPLES, len(shown)):
            examples = shown.select([index * len(shown) // count for index in range(count)])
            save_attribution_figure(session.sides, examples, options.methods, folder / "attribution.png")
    return f"\n{markdown}\nresults.json, table and attribution.png: {folder}"


def _masked_set(options: SegmentOptions) -> tuple[str, datasets.Dataset]:
    """Name and rows of the set: your own images, the sets of a benchmark that have masks, or a set of the paper."""
    if options.dataset is not None:
        rows = load_masked_dataset(options.dataset, options.split)
        check_columns(rows, options.split, needs_labels=False)
        return options.split, rows
    name, source = options.set
    if name in benchmarks():
        sets = benchmarks()[name].load_evaluation_sets(options.images_per_set).values()
        return name, datasets.concatenate_datasets([rows for rows in sets if "mask" in rows.column_names])
    return name, load_image_set(name, source)
