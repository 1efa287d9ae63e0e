"""Result files of a command: `results.json` and its tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..results.run_results import SetResult
from ..results.tables import Table, summarize, tables_of
from ..utils.environment import environment
from ..utils.files import RESULTS_FILE, write_atomically, write_json
from ..utils.privacy import public_settings
from .examples import write_before_after
from .session import Session


TABLES_FILE = "tables.md"


def write_results_json(
    session: Session, folder: Path, settings: dict, facts: dict, parts: Sequence[str | Table]
) -> str:
    """Write `facts` with settings and versions as JSON, and tables and paragraphs as Markdown. Returns the Markdown."""
    results = {"settings": public_settings(settings), **environment(), **facts, "class_names": session.label_names}
    results["weights"] = {name: side.weights for name, side in session.sides.items()}
    write_json(folder / RESULTS_FILE, results)
    shown = [part if isinstance(part, str) else f"{part.title}:\n\n{part.markdown()}" for part in parts]
    markdown = "\n\n".join(shown) + "\n"
    write_atomically(folder / TABLES_FILE, markdown)
    return markdown


def write_finetuning_results(
    folder: Path,
    results: Mapping[str, SetResult],
    session: Session,
    training_classes: Collection[int] | None = None,
) -> str:
    """Write results by set to an existing folder. Returns the first table, as Markdown."""
    write_before_after(folder, results, session)
    tables, notes = tables_of(results, training_classes), session.notes
    facts = summarize(results, training_classes) | {"tables": [asdict(table) for table in tables], "notes": notes}
    write_results_json(session, folder, session.settings, facts, [*notes, *tables])
    return tables[0].markdown()
