"""The page of one run of `robust-vit train` or `improve`, or of one evaluation."""

from pathlib import Path

from ..results.html_page import Gallery, Section, class_changes_table, write_page
from ..results.markdown_latex import Table
from ..results.plots import page_picture, run_figures
from ..utils.files import RESULTS_FILE, read_json
from .before_after_examples import galleries


def write_run_page(folder: Path, path: Path) -> None:
    """Write the page for an output folder of `robust-vit train`, `improve` or `evaluate`."""
    results = read_json(folder / RESULTS_FILE) or {}
    settings = results.get("settings") or {}
    names = {int(label): name for label, name in results.get("class_names", {}).items()}
    parts = []
    if "protocols" in results:
        facts = {"model": settings.get("model"), "after finetuning": settings.get("compare")}
        parts = [(f"Protocol {name}", part, folder / name) for name, part in results["protocols"].items()]
    elif "rows" in results:
        if "training" in settings:  # of `train`; those of `improve` are in one level
            settings = settings["model"] | settings["data"]
        facts = {"model": settings.get("model"), "data": settings.get("dataset")}
        parts = [("Results", results, folder)]
    if not all("tables" in part for _, part, _ in parts) or not parts:
        raise ValueError(
            f"`{folder / RESULTS_FILE}` is not of `robust-vit train`, `improve` or `evaluate`, or of an earlier version: name the "
            "--output_dir of one of them."
        )
    sections = [_section(title, part, names, galleries(place)) for title, part, place in parts]
    facts |= {"hardware": results.get("hardware")}
    facts |= {"versions": ", ".join(f"{name} {value}" for name, value in results.get("versions", {}).items())}
    write_page(path, "Report of a finetuning", {name: value for name, value in facts.items() if value}, sections)


def _section(title: str, part: dict, names: dict[int, str], of_examples: list[Gallery]) -> Section:
    """Section of the results of a run, or of an evaluation under one protocol."""
    changes = {
        name: {int(label): value for label, value in of_set.items()} for name, of_set in part["class_changes"].items()
    }
    plots = [
        page_picture(figure, caption, alt, "wide" if name.startswith("classes_") else "")
        for name, figure, caption, alt in run_figures(part | {"class_changes": changes}, names)
    ]
    tables = [Table(**table) for table in part["tables"]]
    return Section(title, tables, plots, class_changes_table(changes, names), of_examples)
