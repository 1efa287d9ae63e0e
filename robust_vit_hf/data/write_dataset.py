"""Writing of datasets as parquet, file by file, with a card and contact sheets."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub import DatasetCardData
from PIL import Image
from pyarrow import parquet
from tqdm.auto import tqdm

from ..utils.files import atomic_file, check_no_pattern, read_json, write_atomically, write_json
from .contact_sheets import save_contact_sheets
from .mask_checks import mask_problem
from .schema import decode


MAX_BYTES = 64 * 2**20  # of images, after which a file is written whatever its number of rows
ROWS_PER_PART = 32  # rows that one process decodes and finishes together
CARD_FILE, REJECTED_FOLDER = "README.md", "rejected"
RECORD_FILE = "made_from.json"  # inputs of a written dataset, and the source and numbers of rows of each split
TASKS = {"label": "image-classification", "mask": "image-segmentation"}  # in cards, by column
TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
DecodedRow = tuple[dict, Image.Image | None]


def made_from(folder: Path) -> dict:
    """Return the inputs that [`SplitWriter`] recorded in a folder; empty for other folders. An incomplete one is rejected."""
    record = read_json(folder / RECORD_FILE) or {"inputs": {}, "splits": {}}
    if record["splits"] and not any("kept" in split for split in record["splits"].values()):
        raise ValueError(f"`{folder}` is not complete: run again the command that made it.")
    return record["inputs"]


@dataclass(eq=False)
class SplitWriter:
    """Writes a split of a dataset, in files named by the range of their source rows. A writer of a split that was begun goes on
    after the last file. Rows with a `problem` go to the configuration `rejected`.

    Args:
        inputs: JSON values on which the rows of all splits depend.
        source: identifies the source rows of this split.
        features: columns of the rows that are kept.
        text: first paragraph of the card, after its `title`.
        rows_per_file: number of source rows of a file; fewer if their images exceed 64 MiB.
        facts: further metadata of the card, such as `license`, which is `unknown` by default.

    Raises:
        ValueError: the folder holds other files, or was made from other inputs or images.
    """

    folder: Path
    inputs: dict[str, Any]
    split: str
    source: str
    features: datasets.Features
    _: KW_ONLY
    title: str
    text: str
    rows_per_file: int = 200
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not re.fullmatch(r"\w+(\.\w+)*", self.split):  # as `datasets` requires
            raise ValueError(f"`{self.split}` cannot name a split: give several as `--split train validation`.")
        check_no_pattern(self.folder)  # `datasets` could not load it
        record, given = read_json(self.folder / RECORD_FILE), json.loads(json.dumps(self.inputs))
        if record is None and any(self.folder.glob("*.*")):
            raise ValueError(f"`{self.folder}` holds other files: choose another --output_dir.")
        if record is None or not any(self.folder.glob("*.parquet")):
            record = {"inputs": given, "splits": {}}
        self.record, known = record, record["inputs"]
        differing = [name for name in known | given if known.get(name) != given.get(name)]
        if not self.files:
            record["splits"][self.split] = {"source": self.source}
        if record["splits"][self.split]["source"] != self.source:
            differing.append(f"images of `{self.split}`")
        if differing:
            raise ValueError(
                f"`{self.folder}` was made from other inputs, which differ in: {', '.join(differing)}. Choose another "
                "--output_dir, or delete the folder."
            )
        write_json(self.folder / RECORD_FILE, record)
        for path in self._rejected:
            if not (self.folder / path.name).is_file():  # left by a kill between the two files of a range
                path.unlink()
        self._rows: list[dict] = []

    @property
    def files(self) -> list[Path]:
        """Files of the rows that are kept."""
        return sorted(self.folder.glob(f"{self.split}-*.parquet"))

    @property
    def _rejected(self) -> list[Path]:
        return sorted((self.folder / REJECTED_FOLDER).glob(f"{self.split}-*.parquet"))

    @property
    def position(self) -> int:
        """Number of source rows that are written."""
        return max((int(path.stem.split("-")[2]) for path in self.files), default=0)

    def write(self, rows: list[dict]) -> None:
        """Add rows, one for each of the next source rows. A file is written when there are enough of them."""
        self._rows += rows
        pictures = [value for row in self._rows for value in row.values() if isinstance(value, dict)]
        num_bytes = sum(len(picture["bytes"] or b"") for picture in pictures)
        if len(self._rows) >= self.rows_per_file or num_bytes >= MAX_BYTES:
            self._write_files()

    def _write_files(self) -> None:
        first = self.position
        name = f"{self.split}-{first:09d}-{first + len(self._rows):09d}.parquet"
        rejected = [row for row in self._rows if "problem" in row]
        if rejected:  # before the file of the kept rows, with which the range is complete
            with_problem = datasets.Features(self.features | {"problem": datasets.Value("string")})
            _write_file(self.folder / REJECTED_FOLDER / name, rejected, with_problem)
        _write_file(self.folder / name, [row for row in self._rows if "problem" not in row], self.features)
        self._rows = []

    def finish(self) -> tuple[int, int]:
        """Write the last file, and mark the split as complete. Returns the numbers of kept and of rejected rows."""
        if self._rows:
            self._write_files()
        kept, problems = sum(parquet.read_metadata(path).num_rows for path in self.files), _problems(self._rejected)
        if not kept:
            first = next(iter(problems), "the source has no images")
            raise ValueError(
                f"`{self.folder}`: the split `{self.split}` has no rows, {len(problems):,} were rejected: {first}"
            )
        if "kept" not in self.record["splits"][self.split]:
            self.record["splits"][self.split] |= {"kept": kept, "rejected": len(problems)}
            self._write_card()
            save_contact_sheets(self.folder, self.split, REJECTED_FOLDER)
            write_json(self.folder / RECORD_FILE, self.record)
        return kept, len(problems)

    def _write_card(self) -> None:
        splits = {name: split for name, split in self.record["splits"].items() if "kept" in split}
        configurations = []
        for name, count, place in (("default", "kept", ""), ("rejected", "rejected", f"{REJECTED_FOLDER}/")):
            files = [{"split": split, "path": f"{place}{split}-*"} for split, of in splits.items() if of[count]]
            configurations += [{"config_name": name, "data_files": files}] if files else []
        facts = {"license": "unknown", "pretty_name": self.title, "configs": configurations, "tags": ["robust-vit"]}
        facts["task_categories"] = [task for column, task in TASKS.items() if column in self.features] or None
        card = TEMPLATE.read_text(encoding="utf-8").format(
            metadata=DatasetCardData(**{**facts, **self.facts}).to_yaml(),
            title=self.title,
            text=self.text,
            columns=", ".join(f"`{column}`" for column in self.features if column != "image"),
            table="\n".join(f"| {split} | {of['kept']} | {of['rejected']} |" for split, of in splits.items()),
            reasons=_reasons(self.folder / REJECTED_FOLDER),
        )
        write_atomically(self.folder / CARD_FILE, card)


def _write_file(path: Path, rows: list[dict], features: datasets.Features) -> None:
    schema = features.arrow_schema
    with atomic_file(path) as partial, parquet.ParquetWriter(partial, schema) as file:
        if rows:  # `load_dataset` rejects empty row groups
            file.write_table(pa.Table.from_pylist(rows, schema), row_group_size=32)


def write_rows(
    writer: SplitWriter | None,
    rows: Iterator[dict],
    skip_bad: bool,
    finish: Callable[[Iterator[DecodedRow]], list[dict]] = lambda decoded: [row for row, _ in decoded],
    total: int | None = None,
    parts: Callable[[Iterator[dict]], Iterator[list[dict]]] | None = None,
    shorter_side: int | None = None,
) -> tuple[int, int] | None:
    """Write the rows of a [`Source`] that are not written yet, and decode every image once. All processes share the work.

    Args:
        writer: writer of the split; `None` outside the main process.
        rows: all source rows, in order, with undecoded images; `total` is their number, if known.
        skip_bad: whether to reject rows that cannot be used, instead of raising an error.
        finish: returns the rows to write, one for each decoded row of a part.
        parts: cuts the rows into parts; by default [`parts_of`].
        shorter_side: length in pixels of the shorter side, to which larger images are reduced; by default, none are.

    Returns:
        The numbers of kept and of rejected rows; `None` outside the main process.
    """
    state, read = PartialState(), partial(decode, shorter_side=shorter_side)
    (position,) = broadcast_object_list([writer and writer.position])
    title = writer and f"{writer.title} ({writer.split})"
    with (
        ThreadPoolExecutor() as pool,
        tqdm(desc=title, unit="image", total=total, initial=position, disable=writer is None) as progress,
    ):
        shared = (parts or parts_of)(islice(rows, position, None))
        while window := list(islice(shared, state.num_processes)):
            finished = []
            if state.process_index < len(window):
                finished = finish(_decoded(pool.map(read, window[state.process_index]), skip_bad))
            finished = iter(gather_object(finished))
            if writer is not None:
                for part in window:
                    writer.write(list(islice(finished, len(part))))
            progress.update(sum(map(len, window)))
    return None if writer is None else writer.finish()


def parts_of(rows: Iterator[dict]) -> Iterator[list[dict]]:
    while part := list(islice(rows, ROWS_PER_PART)):
        yield part


def _decoded(rows: Iterator[tuple], skip_bad: bool) -> Iterator[DecodedRow]:
    for row, image, mask in rows:
        if "mask" in row and image is not None and (problem := mask_problem(image, mask)):
            row, image = {"file_name": row["file_name"], "problem": f"`{row['file_name']}`: {problem}."}, None
        if "problem" in row and not skip_bad:
            raise ValueError(f"{row['problem'].rstrip('.')}. --skip_bad leaves such rows out, and lists them.")
        yield row, image


def _problems(files: list[Path]) -> list[str]:
    return [
        problem for path in files for problem in parquet.read_table(path, columns=["problem"])["problem"].to_pylist()
    ]


def _reasons(folder: Path) -> str:
    """How to load the rejected rows, and a table of the twenty most frequent reasons, with names and numbers as `…`."""
    problems = _problems(sorted(folder.glob("*.parquet")))
    counts = Counter(re.sub(r"`[^`]*`|'[^']*'|\d[\d.,]*", "…", problem) for problem in problems)
    rows = [f"| {reason.replace('|', ' ')} | {count} |" for reason, count in counts.most_common(20)]
    told = f'`load_dataset(folder, "{REJECTED_FOLDER}")` loads the rejected rows, with the reason in `problem`.'
    return "\n".join(["", "| reason of the rejection | rows |", "|---|---:|", *rows, "", told, ""]) if rows else ""
