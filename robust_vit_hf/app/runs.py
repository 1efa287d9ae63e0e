"""Tables and plots of a finetuning and of an evaluation, from their folders."""

from dataclasses import dataclass
from pathlib import Path

from ..evaluation.finetuning_results import FIGURE_FILE, TABLE_FILE


@dataclass(frozen=True)
class Report:
    """Tables in Markdown, and plots, of a folder."""

    title: str
    tables: str
    plots: list[Path]


def find_reports(*folders: str | Path | None) -> list[Report]:
    """Reports of those folders that hold one: the output of `robust-vit train` or of `robust-vit evaluate`."""
    reports = []
    for folder in map(Path, filter(None, folders)):
        tables = [folder / name for name in (TABLE_FILE, "tables.md") if (folder / name).is_file()]
        if tables:
            plots = [folder / FIGURE_FILE] if (folder / FIGURE_FILE).is_file() else []
            plots += sorted((folder / "plots").glob("*/*.png"))
            text = "\n\n".join(path.read_text(encoding="utf-8") for path in tables)
            reports.append(Report(folder.resolve().name, text, plots))
    return reports
