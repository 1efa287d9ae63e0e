"""Result files of a command: `results.json`, its tables, and the page of one run."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..results.html_page import PAGE_FILE, Section, class_changes_table, write_page
from ..results.plots import page_picture, run_figures
from ..results.run_results import Run
from ..results.summary import summarize, tables_of
from ..results.tables import Table
from ..utils.environment import environment
from ..utils.files import RESULTS_FILE, read_json, write_atomically, write_json
from ..utils.privacy import public_settings
from .examples import galleries, write_examples
from .options import PageOptions
from .session import Session


TABLES_FILE = "tables.md"


def write_results_json(
    session: Session, folder: Path, settings: dict, facts: dict, parts: Sequence[str | Table]
) -> str:
    """Write `facts` with settings and versions as JSON, and tables and paragraphs as Markdown and LaTeX. Returns the Markdown."""
    results = {"settings": public_settings(settings), **environment(), **facts, "class_names": session.label_names}
    results["weights"] = {name: side.weights for name, side in session.sides.items()}
    write_json(folder / RESULTS_FILE, results)
    shown = [part if isinstance(part, str) else f"{part.title}:\n\n{part.markdown()}" for part in parts]
    markdown = "\n\n".join(shown) + "\n"
    write_atomically(folder / TABLES_FILE, markdown)
    write_atomically(folder / "tables.tex", "\n".join(part.latex() for part in parts if isinstance(part, Table)))
    return markdown


def write_finetuning_results(folder: Path, run: Run, session: Session) -> str:
    """Write the results of a run to an existing folder. Returns the first table, as Markdown."""
    write_examples(folder, run, session)
    tables, notes = tables_of(run), session.notes
    facts = summarize(run) | {"tables": [asdict(table) for table in tables], "notes": notes}
    write_results_json(session, folder, session.settings, facts, [*notes, *tables])
    return tables[0].markdown()


def write_page_of(options: PageOptions) -> str:
    """Write `report.html` for an output folder of `robust-vit train`, `improve` or `evaluate`; return its path."""
    folder, path = options.source, options.output_dir / PAGE_FILE
    results = read_json(folder / RESULTS_FILE) or {}
    settings = results.get("settings") or {}
    if "training" in settings:  # `train` groups its settings
        settings = settings["model"] | settings["data"]
    names = {int(label): name for label, name in results.get("class_names", {}).items()}
    parts = [(f"Protocol {name}", part, folder / name) for name, part in results.get("protocols", {}).items()]
    if "rows" in results:
        parts = [("Results", results, folder)]
    if not all("tables" in part for _, part, _ in parts) or not parts:
        raise ValueError(
            f"`{folder / RESULTS_FILE}` has no results of this version of `robust-vit train`, `improve` or `evaluate`: give their --output_dir."
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
        notes = part.get("notes", [])  # earlier versions wrote none
        sections.append(Section(title, tables, plots, class_changes_table(changes, names), galleries(place), notes))
    facts = {
        "model": settings.get("model"),
        "after finetuning": settings.get("compare"),
        "data": settings.get("dataset"),
        "hardware": results.get("hardware"),
        "versions": ", ".join(f"{name} {value}" for name, value in results.get("versions", {}).items()),
    }
    write_page(path, "Report of a finetuning", {name: value for name, value in facts.items() if value}, sections)
    return f"Open {path} in a browser."
