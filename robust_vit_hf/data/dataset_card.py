"""Dataset card (README.md) of images written as parquet: its splits, and why rows were rejected."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
from huggingface_hub import DatasetCardData
from pyarrow import parquet

from ..utils.files import write_atomically


CARD_FILE, REJECTED_FOLDER = "README.md", "rejected"
TEMPLATE = Path(__file__).with_name("dataset_card_template.md")


def write_card(
    folder: Path, title: str, text: str, columns: datasets.Features, splits: Mapping[str, Sequence[int]]
) -> None:
    """Write the card of a folder, with the numbers of rows and rejected rows of each complete split."""
    configurations = []
    for index, (name, place) in enumerate((("default", ""), ("rejected", f"{REJECTED_FOLDER}/"))):
        files = [{"split": split, "path": f"{place}{split}-*"} for split, counts in splits.items() if counts[index]]
        configurations += [{"config_name": name, "data_files": files}] if files else []
    card = TEMPLATE.read_text(encoding="utf-8").format(
        metadata=DatasetCardData(configs=configurations, tags=["robust-vit"]).to_yaml(),
        title=title,
        text=text,
        columns=", ".join(f"`{column}`" for column in columns if column != "image"),
        table="\n".join(f"| {split} | {kept} | {rejected} |" for split, (kept, rejected) in splits.items()),
        reasons=_reasons(folder),
    )
    write_atomically(folder / CARD_FILE, card)


def _reasons(folder: Path) -> str:
    """Table of the reasons of rejected rows, without names and numbers, the twenty most frequent; empty without any."""
    counts: Counter[str] = Counter()
    for path in (folder / REJECTED_FOLDER).glob("*.parquet"):
        problems = parquet.read_table(path, columns=["problem"])["problem"].to_pylist()
        counts.update(re.sub(r"`[^`]*`|'[^']*'|\d[\d.,]*", "…", problem) for problem in problems)
    if not counts:
        return ""
    rows = [f"| {reason.replace('|', ' ')} | {count} |" for reason, count in counts.most_common(20)]
    return "\n".join(["", "| reason of the rejection | rows |", "|---|---:|", *rows, ""])
