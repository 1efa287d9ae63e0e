"""Tables and plots of finetuning runs and evaluations."""

from dataclasses import dataclass
from pathlib import Path

from ..evaluation.finetuning_results import FIGURE_FILE
from ..evaluation.write_results import TABLES_FILE


@dataclass(frozen=True)
class Report:
    """Markdown tables and plots from a folder."""

    title: str
    tables: str
    plots: list[Path]


def find_reports(*folders: str | Path | None) -> list[Report]:
    """Reports of the folders that hold output of `robust-vit train` or `robust-vit evaluate`."""
    reports = []
    for folder in map(Path, filter(None, folders)):
        if (folder / TABLES_FILE).is_file():
            plots = [folder / FIGURE_FILE] if (folder / FIGURE_FILE).is_file() else []
            plots += sorted((folder / "plots").glob("*/*.png"))
            text = (folder / TABLES_FILE).read_text(encoding="utf-8")
            reports.append(Report(folder.resolve().name, text, plots))
    return reports
