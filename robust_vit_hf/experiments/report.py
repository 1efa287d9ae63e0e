"""The report of an experiment: the paper's tables, figures and findings from one file of results."""

from collections.abc import Sequence
from pathlib import Path

from ..evaluation.plots import save_figure
from ..utils.files import write_atomically
from .findings import findings, findings_table
from .paper_figures import class_change_figures, class_group_figure, size_figure
from .paper_tables import (
    Experiment,
    ablation_tables,
    accuracy_tables,
    class_group_tables,
    difference_table,
    seed_tables,
    segmentation_table,
)
from .results import RESULTS_TABLE, collect, read_results
from .selection import choose_learning_rates


def report(sources: Sequence[Path], output_dir: Path) -> str:
    """Write `report.md`, `report.tex` and the figures, PNG and PDF, of the runs of sweeps. What the runs do not have is left
    out. The same results give the same files.

    Args:
        sources: folders of sweeps, or of single points, whose results are collected into `results.parquet` in `output_dir`;
            or one such file.

    Returns:
        The tables, as Markdown.

    Raises:
        FileNotFoundError: there is no complete run.
        ValueError: the runs cannot be compared, or the file is of another version, see [`read_results`].
    """
    path = sources[0]
    if len(sources) > 1 or path.is_dir():
        path = output_dir / RESULTS_TABLE
        collect(sources, path)
    results = read_results(path)
    chosen, rates = choose_learning_rates(results)
    experiment = Experiment(chosen)
    tables = accuracy_tables(experiment) | segmentation_table(experiment) | ablation_tables(experiment)
    tables |= seed_tables(experiment) | class_group_tables(experiment) | difference_table(experiment)
    tables |= {"learning_rates": rates, "findings": findings_table(findings(experiment))}
    figures = {"figure_4": class_group_figure(experiment), "figure_7": size_figure(experiment)}
    figures |= class_change_figures(experiment, results.class_names)
    output_dir.mkdir(parents=True, exist_ok=True)
    markdown = "\n".join(f"## {table.title}\n\n{table.markdown()}\n" for table in tables.values())
    write_atomically(output_dir / "report.md", markdown)
    write_atomically(output_dir / "report.tex", "\n".join(table.latex() for table in tables.values()))
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, output_dir, name)
    return markdown
