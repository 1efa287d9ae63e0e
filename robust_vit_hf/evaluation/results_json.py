"""`results.json` of a command or a finetuning, and its tables as Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..results.markdown_latex import Table
from ..results.run_results import Run
from ..results.run_summary import summarize
from ..results.run_tables import tables_of
from ..utils.environment import environment
from ..utils.files import RESULTS_FILE, write_atomically, write_json
from ..utils.public_names import public_settings
from .before_after_figure import write_examples
from .session import Session


TABLES_FILE = "tables.md"


def write_results_json(
    session: Session, folder: Path, settings: dict, facts: dict, parts: Sequence[str | Table]
) -> str:
    """Write the results of a session: `facts` beside settings, versions, hardware, digests of the weights and class
    names, and tables with paragraphs between them, which are left out in LaTeX. Returns the Markdown."""
    results = {"settings": public_settings(settings), **environment(), **facts, "class_names": session.label_names}
    results["weights"] = {name: side.weights for name, side in session.sides.items()}
    write_json(folder / RESULTS_FILE, results)
    shown = [part if isinstance(part, str) else f"{part.title}:\n\n{part.markdown()}" for part in parts]
    markdown = "\n\n".join(shown) + "\n"
    write_atomically(folder / TABLES_FILE, markdown)
    write_atomically(folder / "tables.tex", "\n".join(part.latex() for part in parts if isinstance(part, Table)))
    return markdown


def write_finetuning_results(folder: Path, run: Run, session: Session, settings: dict) -> str:
    """Write the results of a run to an existing folder. Returns the first table, as Markdown."""
    write_examples(folder, run, session)
    tables, notes = tables_of(run), session.without_map
    facts = summarize(run) | {"tables": [asdict(table) for table in tables], "notes": notes}
    write_results_json(session, folder, settings, facts, [*notes, *tables])
    return tables[0].markdown()
