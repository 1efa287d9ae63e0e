"""The results of one run next to the published figures: `python -m experiments published`."""

from dataclasses import replace
from pathlib import Path

from robust_vit_hf.data.known_sets import PAPER_SETS
from robust_vit_hf.models.model_names import MODELS, find_model
from robust_vit_hf.results.run_results import PREDICTIONS_FILE
from robust_vit_hf.results.tables import MEASURES, SEGMENTATION, Table, attribution_table, reliance_tables
from robust_vit_hf.utils.files import RESULTS_FILE, read_json

from ..sweeps.collect_runs import read_sets
from ..sweeps.results import Results
from ..sweeps.runs import Run
from .options import PublishedOptions
from .published_tables import accuracy_tables, class_group_tables, published_models, published_rows


def published(options: PublishedOptions) -> str:
    """Tables of a run with the published figures of its model, as Markdown.

    Raises:
        ValueError: the folder is of another command, or the paper has no figures of the model.
    """
    folder, results = options.source, read_json(options.source / RESULTS_FILE) or {}
    name = results.get("settings", {}).get("model")
    registered = name and find_model(name)
    model = options.paper_model or (registered and MODELS[registered].paper_name)
    if not model:
        raise ValueError(
            f"`{folder / RESULTS_FILE}` names no model of the paper: give an output folder of `robust-vit "
            "evaluate` or `segment`, of a "
            "registered model or with --paper_model."
        )
    if "scores" in results:
        tables = [segmentation_table(results, model)]
    else:
        of_protocols = (evaluation_tables(folder, results, protocol, model) for protocol in results["protocols"])
        tables = [table for of_protocol in of_protocols for table in of_protocol]
    return "\n".join(f"{table.title}:\n\n{table.markdown()}\n" for table in tables)


def evaluation_tables(folder: Path, results: dict, protocol: str, model: str) -> list[Table]:
    """Tables 1, 2, 10 and 11, and Object Focus, of an evaluation under a protocol.

    Args:
        folder: output folder of `robust-vit evaluate`.
        results: its `results.json`.
        model: the paper's name of it.
    """
    classes = results["training_classes"]
    sets = read_sets(folder / protocol / PREDICTIONS_FILE, True)
    run = Run(sets, None if classes is None else frozenset(classes), model=model)
    in_paper = Results([replace(run, sets={name: of_set for name, of_set in sets.items() if name in PAPER_SETS})])
    tables = [*accuracy_tables(in_paper, protocol).values(), *class_group_tables(in_paper, protocol).values()]
    for table in reliance_tables(sets):
        known = published_models("object_focus").get(model)
        shown = [known is not None and "imagenet-1k" in MEASURES[measure] for measure, *_ in table.rows]
        rows = [[*row, f"{known:.1f}" if show else "–"] for row, show in zip(table.rows, shown, strict=True)]
        tables.append(Table(table.title, [*table.head, "published, before"], rows))
    return tables


def segmentation_table(results: dict, model: str) -> Table:
    """Table 3 from `results.json` of `robust-vit segment`, with the published rows of attention × gradient below those
    measured."""
    ((name, scores),) = results["scores"].items()
    table = attribution_table(scores, name, results["num_images"])
    columns, rows = [(name, (score,)) for score in SEGMENTATION], []
    for row in table.rows:
        rows.append(row)
        method, _, version = row[0].partition(", ")
        if method == "gae":
            rows += published_rows([f"{row[0]}, published"], model, "paper", version, columns)
    return Table(f"Table 3: {table.title}", table.head, rows)
