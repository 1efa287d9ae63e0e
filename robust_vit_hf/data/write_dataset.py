"""Writing of datasets as parquet, slice by slice, with a card and contact sheets."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub import DatasetCardData
from PIL import Image
from pyarrow import parquet
from tqdm.auto import tqdm

from ..utils.files import atomic_file, check_no_pattern, read_json, write_atomically
from ..utils.stage import STAGE_FILE, Stage
from .contact_sheets import save_contact_sheets
from .dataset_digest import row_digest
from .mask_checks import mask_problem
from .schema import decode


MAX_BYTES = 64 * 2**20  # of images, after which a slice is written whatever its number of rows
DIGEST_KEY = b"robust_vit_hf.source"  # of a slice's source rows, in the metadata of its files
ROWS_PER_PART = 32  # rows that one process decodes and finishes together
CARD_FILE, REJECTED_FOLDER = "README.md", "rejected"
# In cards (https://huggingface.co/docs/hub/datasets-cards): tasks by column, and size categories by their upper limit.
TASKS = {"label": "image-classification", "mask": "image-segmentation"}
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
DecodedRow = tuple[dict, Image.Image | None]


def made_from(folder: Path) -> dict:
    """Return the inputs that [`SplitWriter`] recorded in a folder; empty for other folders. Incomplete or old folders are rejected."""
    record = read_json(folder / STAGE_FILE) or {}
    inputs = record.get("inputs", {})
    of_splits = inputs.get("command") in ("data prepare", "masks")
    if (of_splits and "result" not in record) or (folder / "made_by.json").is_file():
        raise ValueError(f"`{folder}` is not complete, or of an earlier version: run again the command that made it.")
    return inputs if of_splits else {}


@dataclass(eq=False)
class SplitWriter:
    """Writes a split to the folder of a stage. Each slice of source rows is written at once, to files named by its range. A reopened
    writer goes on after the last slice. Rows with a `problem` go to the configuration `rejected`.

    Args:
        stage: stage of the folder, with all inputs that the rows depend on.
        features: columns of the rows that are kept.
        text: first paragraph of the card, after its `title`.
        rows_per_file: number of source rows of a slice; fewer if their images exceed 64 MiB.
        facts: further metadata of the card, such as `license`, which is `unknown` by default.
    """

    stage: Stage
    split: str
    features: datasets.Features
    _: KW_ONLY
    title: str
    text: str
    rows_per_file: int = 200
    selection: object = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not re.fullmatch(r"\w+(\.\w+)*", self.split):  # as `datasets` requires
            raise ValueError(f"`{self.split}` cannot name a split: give several as `--split train validation`.")
        check_no_pattern(self.stage.folder)  # `datasets` could not load it
        self.splits = (self.stage.result() or {"splits": {}})["splits"]  # complete splits, with their numbers of rows
        self.is_complete = self.split in self.splits
        self.stage.begin()
        self._rows: list[dict] = []
        self._digests: list[str] = []
        complete = {path.name for _, _, path in self.slices}
        for place in (self.stage.folder, self.stage.folder / REJECTED_FOLDER):
            for path in place.glob(f"{self.split}-*.parquet"):
                if path.name not in complete:  # left by a kill between the two files of a slice
                    path.unlink()

    @property
    def slices(self) -> list[tuple[int, int, Path]]:
        """Complete slices: the first source row, the row after the last, and the file of the rows that are kept."""
        slices: list[tuple[int, int, Path]] = []
        for path in sorted(self.stage.folder.glob(f"{self.split}-*.parquet")):
            first, end = map(int, path.stem.split("-")[1:])
            if first != (slices[-1][1] if slices else 0):
                break
            slices.append((first, end, path))
        return slices

    @property
    def position(self) -> int:
        return max((end for _, end, _ in self.slices), default=0)

    def unwritten(self, rows: Iterator[dict]) -> Iterator[dict]:
        """Skip the source rows that are written already, after comparing their digests."""
        change = None
        for first, end, path in self.slices:
            digest = parquet.read_schema(path).metadata.get(DIGEST_KEY, b"").decode()
            if change is None and self._digest(map(row_digest, islice(rows, end - first))) != digest:
                change = f"rows {first} to {end - 1} differ, because of other files or of options that choose them"
        if change is None and self.is_complete and next(rows, None) is not None:
            change = "it has more rows"
        if change is not None:
            where = f"`{self.stage.folder}`: the source of `{self.split}`"
            raise ValueError(f"{where} has changed: {change}. Delete the folder, or choose another.")
        return rows

    def written(self, columns: list[str], rejected: bool = False) -> list[dict]:
        """Read columns of the rows in complete slices: of the rows that were kept, or of those that were `rejected`."""
        folder = self.stage.folder / (REJECTED_FOLDER if rejected else "")
        files = filter(Path.is_file, (folder / path.name for _, _, path in self.slices))
        return [row for file in files for row in parquet.read_table(file, columns=columns).to_pylist()]

    def write(self, rows: list[dict], digests: list[str]) -> None:
        """Add the next source rows and their digests to the slice, which is written when it is large enough."""
        self._rows += rows
        self._digests += digests
        pictures = [value for row in self._rows for value in row.values() if isinstance(value, dict)]
        num_bytes = sum(len(picture["bytes"] or b"") for picture in pictures)
        if len(self._rows) >= self.rows_per_file or num_bytes >= MAX_BYTES:
            self._write_slice()

    def _write_slice(self) -> None:
        first = self.position
        name = f"{self.split}-{first:09d}-{first + len(self._rows):09d}.parquet"
        metadata = {DIGEST_KEY: self._digest(self._digests).encode()}
        rejected = [row for row in self._rows if "problem" in row]
        if rejected:  # before the file of the kept rows, with which the slice is complete
            with_problem = datasets.Features(self.features | {"problem": datasets.Value("string")})
            _write_file(self.stage.folder / REJECTED_FOLDER / name, rejected, with_problem, metadata)
        kept = [row for row in self._rows if "problem" not in row]
        _write_file(self.stage.folder / name, kept, self.features, metadata)
        self._rows, self._digests = [], []

    def finish(self) -> tuple[int, int]:
        """Write the last slice, and mark the split as complete. Returns the numbers of kept and of rejected rows."""
        if self._rows:
            self._write_slice()
        folder = self.stage.folder
        counts = [
            sum(parquet.read_metadata(path).num_rows for path in place.glob(f"{self.split}-*.parquet"))
            for place in (folder, folder / REJECTED_FOLDER)
        ]
        if not counts[0]:
            problems = [row["problem"] for row in self.written(["problem"], rejected=True)]
            first = next(iter(problems), "the source has no images")
            raise ValueError(f"`{folder}`: the split `{self.split}` has no rows, {counts[1]:,} were rejected: {first}")
        if not self.is_complete:
            splits = self.splits | {self.split: counts}
            self._write_card(splits)
            save_contact_sheets(folder, self.split, REJECTED_FOLDER)
            self.stage.finish({"splits": splits}, [CARD_FILE])
        return counts[0], counts[1]

    def _write_card(self, splits: dict[str, list[int]]) -> None:
        configurations = []
        for index, (name, place) in enumerate((("default", ""), ("rejected", f"{REJECTED_FOLDER}/"))):
            files = [{"split": split, "path": f"{place}{split}-*"} for split in splits if splits[split][index]]
            configurations += [{"config_name": name, "data_files": files}] if files else []
        kept = sum(count for count, _ in splits.values())
        facts = {"license": "unknown", "pretty_name": self.title, "configs": configurations, "tags": ["robust-vit"]}
        facts["task_categories"] = [task for column, task in TASKS.items() if column in self.features] or None
        facts["size_categories"] = [next((size for limit, size in SIZES.items() if kept < limit), "10M<n<100M")]
        card = TEMPLATE.read_text(encoding="utf-8").format(
            metadata=DatasetCardData(**{**facts, **self.facts}).to_yaml(),
            title=self.title,
            text=self.text,
            columns=", ".join(f"`{column}`" for column in self.features if column != "image"),
            table="\n".join(f"| {split} | {kept} | {rejected} |" for split, (kept, rejected) in splits.items()),
            reasons=_reasons(self.stage.folder / REJECTED_FOLDER),
        )
        write_atomically(self.stage.folder / CARD_FILE, card)

    def _digest(self, digests: Iterable[str]) -> str:
        return xxhash.xxh3_128_hexdigest("".join([repr((self.features, self.selection)), *digests]).encode())


def _write_file(path: Path, rows: list[dict], features: datasets.Features, metadata: dict) -> None:
    schema = features.arrow_schema
    schema = schema.with_metadata(schema.metadata | metadata)
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
    if writer is not None:
        rows = writer.unwritten(rows)
    (position,) = broadcast_object_list([writer and writer.position])
    if writer is None:
        rows = islice(rows, position, None)
    title = writer and f"{writer.title} ({writer.split})"
    with (
        ThreadPoolExecutor() as pool,
        tqdm(desc=title, unit="image", total=total, initial=position, disable=writer is None) as progress,
    ):
        shared = (parts or parts_of)(rows)
        while window := list(islice(shared, state.num_processes)):
            finished = []
            if state.process_index < len(window):
                finished = finish(_decoded(pool.map(read, window[state.process_index]), skip_bad))
            finished = iter(gather_object(finished))
            if writer is not None:
                for part in window:
                    writer.write(list(islice(finished, len(part))), list(map(row_digest, part)))
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


def _reasons(folder: Path) -> str:
    """How to load the rejected rows, and a table of the twenty most frequent reasons, with names and numbers replaced by `…`."""
    counts: Counter[str] = Counter()
    for path in folder.glob("*.parquet"):
        problems = parquet.read_table(path, columns=["problem"])["problem"].to_pylist()
        counts.update(re.sub(r"`[^`]*`|'[^']*'|\d[\d.,]*", "…", problem) for problem in problems)
    rows = [f"| {reason.replace('|', ' ')} | {count} |" for reason, count in counts.most_common(20)]
    told = f'`load_dataset(folder, "{REJECTED_FOLDER}")` loads the rejected rows, with the reason in `problem`.'
    return "\n".join(["", "| reason of the rejection | rows |", "|---|---:|", *rows, "", told, ""]) if rows else ""
