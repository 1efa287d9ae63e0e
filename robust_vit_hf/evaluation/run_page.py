"""The page of one run of `robust-vit train` or `improve`, or of one evaluation."""

from pathlib import Path

from ..results.html_page import Section, class_changes_table, write_page
from ..results.markdown_latex import Table
from ..results.plots import page_picture, run_figures
from ..utils.files import RESULTS_FILE, read_json
from .before_after_examples import galleries


FACTS = {"model": "model", "after finetuning": "compare", "data": "dataset"}  # options at the head of the page


def write_run_page(folder: Path, path: Path) -> None:
    """Write the page for an output folder of `robust-vit train`, `improve` or `evaluate`."""
    results = read_json(folder / RESULTS_FILE) or {}
    settings = results.get("settings") or {}
    if "training" in settings:  # of `train`; those of `improve` are in one level
        settings = settings["model"] | settings["data"]
    names = {int(label): name for label, name in results.get("class_names", {}).items()}
    parts = [(f"Protocol {name}", part, folder / name) for name, part in results.get("protocols", {}).items()]
    if "rows" in results:
        parts = [("Results", results, folder)]
    if not all("tables" in part for _, part, _ in parts) or not parts:
        raise ValueError(
            f"`{folder / RESULTS_FILE}` is not of `robust-vit train`, `improve` or `evaluate`, or of an earlier version: name the "
            "--output_dir of one of them."
        )
    sections = []
    for title, part, place in parts:
        changes = {}
        for name, of_set in part["class_changes"].items():
            changes[name] = {int(label): value for label, value in of_set.items()}
        plots = [
            page_picture(figure, caption, alt, "wide" if name.startswith("classes_") else "")
            for name, figure, caption, alt in run_figures(part | {"class_changes": changes}, names)
        ]
        tables = [Table(**table) for table in part["tables"]]
        notes = part.get("notes", [])  # not of earlier versions
        sections.append(Section(title, tables, plots, class_changes_table(changes, names), galleries(place), notes))
    facts = {name: settings.get(key) for name, key in FACTS.items()} | {"hardware": results.get("hardware")}
    facts |= {"versions": ", ".join(f"{name} {value}" for name, value in results.get("versions", {}).items())}
    write_page(path, "Report of a finetuning", {name: value for name, value in facts.items() if value}, sections)
