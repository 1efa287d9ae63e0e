"""The report of an experiment: the paper's tables, figures and findings from one file of results."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..evaluation.plots import save_figure
from ..evaluation.report import RESULTS_FILE
from ..utils.files import write_atomically
from .findings import findings, findings_table
from .page import PAGE_FILE, Picture, Section, add_gallery, class_changes_table, plot, write_page
from .paper_figures import class_change_figures, class_changes, class_group_figure, size_figure
from .paper_tables import (
    OURS,
    Experiment,
    ablation_tables,
    accuracy_tables,
    class_group_tables,
    difference_table,
    seed_tables,
    segmentation_table,
)
from .results import RESULTS_TABLE, collect, read_results
from .run_page import write_run_page
from .selection import choose_learning_rates
from .sweep import RUN


def report(sources: Sequence[Path], output_dir: Path, html: bool = False) -> str:
    """Write `report.md`, `report.tex` and the figures, PNG and PDF, of the runs of sweeps. What the runs do not have is left
    out. The same results give the same files.

    Args:
        sources: folders of sweeps, or of single points, whose results are collected into `results.parquet` in `output_dir`;
            or one such file; with `html`, also the folder of one run or evaluation.
        html: whether to write `report.html`, one file with tables, changes by class, plots and a gallery; of one run or
            evaluation, nothing else.

    Returns:
        The tables, as Markdown; of one run or evaluation, nothing.

    Raises:
        FileNotFoundError: there is no complete run.
        ValueError: the runs cannot be compared, or the file is of another version, see [`read_results`].
    """
    path = sources[0]
    if html and len(sources) == 1 and (path / RESULTS_FILE).is_file():
        write_run_page(path, output_dir / PAGE_FILE)
        return ""
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
    changes, names = class_changes(experiment), results.class_names.get(experiment.models[0], {})
    figures |= class_change_figures(changes, names)
    output_dir.mkdir(parents=True, exist_ok=True)
    markdown = "\n".join(f"## {table.title}\n\n{table.markdown()}\n" for table in tables.values())
    write_atomically(output_dir / "report.md", markdown)
    write_atomically(output_dir / "report.tex", "\n".join(table.latex() for table in tables.values()))
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, output_dir, name)
    if html:
        first = next(iter(experiment.of(OURS)), experiment.runs[0])
        sections = [
            Section("Findings", [tables.pop("findings")]),
            Section("Tables", list(tables.values())),
            Section("Classes", changes=class_changes_table(changes, names)),
            Section("Figures", plots=_plots(figures)),
            Section(f"Examples of {first.name}"),
        ]
        for source in sources:  # a sweep, or a point of one
            for point in (source / first.name, source):
                add_gallery(sections[-1], point / RUN)
        facts = {"models": ", ".join(experiment.models), "methods": ", ".join(experiment.methods)}
        filled = [section for section in sections if section.filled]
        write_page(output_dir / PAGE_FILE, "Report of an experiment", facts, filled)
    return markdown


def _plots(figures: dict[str, Figure | None]) -> list[Picture]:
    """Figures by name as pictures of a page."""
    captions = {
        "figure_4": "Figure 4: average change of the training classes and of the others, by set",
        "figure_7": "Figure 7: change of top-1 over the number of samples and of training classes",
        "figure_8_to_14_": "Figures 8 to 14: the most harmed and the most helped classes of ",
    }
    pictures = []
    for name, figure in figures.items():
        if figure is not None:
            start, caption = next(item for item in captions.items() if name.startswith(item[0]))
            caption += name.removeprefix(start)
            place = "wide" if start == "figure_8_to_14_" else ""
            pictures.append(plot(figure, caption, f"{caption}. The tables hold the values.", place))
    return pictures
