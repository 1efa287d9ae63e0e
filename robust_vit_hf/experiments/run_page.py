"""The page of one run of `robust-vit train`, or of one evaluation."""

from pathlib import Path

from ..evaluation.plots import accuracy_figure, class_figure, curve_figure
from ..evaluation.report import RESULTS_FILE
from ..evaluation.tables import calibration_table, class_group_table, main_table, paper_tables
from ..utils.files import read_json
from .page import Section, add_gallery, class_changes_table, plot, write_page


def write_run_page(folder: Path, path: Path) -> None:
    """Write the page of the results in a folder: tables, changes by class, plots, and the gallery of its examples.

    Args:
        folder: `output_dir` of `robust-vit train` or `evaluate`.

    Raises:
        ValueError: its `results.json` is of neither.
    """
    results = read_json(folder / RESULTS_FILE)
    settings = results.get("settings") or {}
    names = {int(label): name for label, name in results.get("class_names", {}).items()}
    if "protocols" in results:
        facts = {"model": settings.get("model"), "after finetuning": settings.get("compare")}
        parts = {f"Protocol {name}": part for name, part in results["protocols"].items()}
        folders = [folder / name for name in results["protocols"]]
        protocols = list(results["protocols"])
    elif "rows" in results:
        facts = {"model": settings.get("model", {}).get("model"), "data": settings.get("data", {}).get("dataset")}
        parts, folders, protocols = {"Results": results}, [folder], [None]
    else:
        raise ValueError(
            f"`{folder / RESULTS_FILE}` is not of `robust-vit train` or `evaluate`: name the --output_dir of one of them."
        )
    sections = []
    for (title, part), place, protocol in zip(parts.items(), folders, protocols, strict=True):
        rows, groups = part["rows"], part["class_groups"]
        tables = [main_table(rows)]
        if protocol is not None:
            tables += paper_tables(rows, protocol, results["paper_model"])
        tables += [calibration_table(rows), class_group_table(groups)]
        section = Section(title, [table for table in tables if table is not None])
        changes = {
            name: {int(label): value for label, value in of_set.items()}
            for name, of_set in part.get("class_changes", {}).items()
        }
        section.changes = class_changes_table(changes, names)
        if any(row["top1_before"] is not None for row in rows):
            alt = "Bars of top-1 for each set and model; the first table holds the values."
            section.plots.append(plot(accuracy_figure(rows), "Top-1 of each set", alt))
        for name, of_set in changes.items():
            if figure := class_figure(of_set, names, name):
                alt = "Bars of the change of each class; the table of changes by class holds the values."
                section.plots.append(plot(figure, f"Most harmed and most helped classes of {name}", alt, "wide"))
        for name, curves in part.get("curves", {}).items():
            alt = f"Lines of top-1 over {', '.join(curves)}."
            section.plots.append(plot(curve_figure(curves, name), f"Top-1 of {name} over its factors", alt))
        add_gallery(section, place)
        sections.append(section)
    facts |= {"hardware": results.get("hardware")}
    facts |= {"versions": ", ".join(f"{name} {value}" for name, value in results.get("versions", {}).items())}
    write_page(path, "Report of a finetuning", {name: value for name, value in facts.items() if value}, sections)
