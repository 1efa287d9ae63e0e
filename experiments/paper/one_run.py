"""The results of one run beside the published figures: `python -m experiments published`."""

from pathlib import Path

from robust_vit_hf.data.known_sets import PAPER_SETS
from robust_vit_hf.results.run_results import Run
from robust_vit_hf.results.set_tables import SEGMENTATION, attribution_table
from robust_vit_hf.results.tables import Table
from robust_vit_hf.utils.files import RESULTS_FILE, read_json

from ..sweeps.collect_runs import read_sets
from ..sweeps.results import Results
from .options import PublishedOptions
from .published_tables import accuracy_tables, class_group_tables, published_rows


def published(options: PublishedOptions) -> str:
    """Tables of a run with the published figures of its model, as Markdown.

    Raises:
        ValueError: the folder is of another command, or the paper has no figures of the model.
    """
    folder, results = options.source, read_json(options.source / RESULTS_FILE) or {}
    if (model := results.get("paper_model")) is None:
        raise ValueError(
            f"`{folder / RESULTS_FILE}` names no model of the paper: give an output folder of `robust-vit evaluate` or `segment`, of a "
            "registered model or with --paper_model."
        )
    if "scores" in results:
        tables = [segmentation_table(results, model)]
    else:
        tables = [table for protocol in results["protocols"] for table in _tables(folder, results, protocol, model)]
    return "\n".join(f"{table.title}:\n\n{table.markdown()}\n" for table in tables)


def _tables(folder: Path, results: dict, protocol: str, model: str) -> list[Table]:
    sets = {name: result for name, result in read_sets(folder / protocol, None).items() if name in PAPER_SETS}
    classes = results["training_classes"]
    run = Results([Run(sets, None if classes is None else frozenset(classes), model=model)])
    return [*accuracy_tables(run, protocol).values(), *class_group_tables(run, protocol).values()]


def segmentation_table(results: dict, model: str) -> Table:
    """Table 3 from `results.json` of `robust-vit segment`: each measured row, and the published ones of attention × gradient."""
    ((name, scores),) = results["scores"].items()
    table = attribution_table(scores, name, results["num_images"])
    columns = [(name, (score,)) for score in SEGMENTATION]
    rows = [
        published_rows([f"gae, {version}, published"], model, "paper", version, columns)
        for version in ("original", "finetuned")
    ]
    return Table(f"Table 3: {table.title}", table.head, [*table.rows, *(row for version in rows for row in version)])
