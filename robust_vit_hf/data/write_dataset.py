"""Writing of datasets as parquet: rows are decoded and checked once, in a file for each slice of source rows, and resumed."""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from pyarrow import parquet
from tqdm.auto import tqdm

from ..utils.files import atomic_file, check_no_pattern, read_json
from ..utils.stage import STAGE_FILE, Stage
from .dataset_card import CARD_FILE, REJECTED_FOLDER, save_contact_sheets, write_card
from .dataset_digest import row_digest
from .mask_files import mask_problem
from .schema import decode


MAX_BYTES = 64 * 2**20  # of a slice, after which it is written whatever its number of rows
DIGEST_KEY = b"robust_vit_hf.source"  # of a slice's source rows, in the metadata of its files


def made_from(folder: Path) -> dict:
    """Inputs recorded by [`SplitWriter`] in a folder, such as the `method` of masks or the name of a `set`; empty for others."""
    record = read_json(folder / STAGE_FILE) or {}
    if not record and (folder / "made_by.json").is_file():
        raise ValueError(f"`{folder}` was prepared by an earlier version: prepare it again, into another folder.")
    inputs = record.get("inputs", {})
    if inputs.get("command") not in ("data prepare", "masks"):  # which write splits
        return {}
    if "result" not in record:
        raise ValueError(f"`{folder}` is not complete: run `robust-vit {inputs['command']}` again.")
    return inputs


@dataclass(eq=False)
class SplitWriter:
    """Writes a split to the folder of a stage, for `datasets.load_dataset` and `push_to_hub`. The folder may hold other
    splits of the same inputs.

    Rows are added in source order. Those of a slice are written at once to files whose names are the range of source
    rows; a reopened writer goes on after the last slice. Rows with a `problem` go to the configuration `rejected`.
    """

    stage: Stage
    split: str
    features: datasets.Features
    _: KW_ONLY
    title: str  # of the dataset card
    text: str  # its first paragraph
    rows_per_file: int = 200  # source rows of a slice, unless these exceed 64 MiB
    selection: object = None  # rule by which the source rows of this split are selected

    def __post_init__(self):
        if not re.fullmatch(r"\w+(\.\w+)*", self.split):  # which `datasets` demands
            raise ValueError(
                f"`{self.split}` cannot name a split: give several one by one (`--split train validation`)."
            )
        check_no_pattern(self.stage.folder)  # could not be loaded
        self.splits = (self.stage.result() or {"splits": {}})["splits"]  # that are complete
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
        """Complete slices: the number of their first source row, that after their last, and the file of the rows that are kept.
        Those rejected, if any, are in another of its name, which is written first."""
        slices: list[tuple[int, int, Path]] = []
        for path in sorted(self.stage.folder.glob(f"{self.split}-*.parquet")):
            first, end = map(int, path.stem.split("-")[1:])
            if first != (slices[-1][1] if slices else 0):
                break
            slices.append((first, end, path))
        return slices

    @property
    def position(self) -> int:
        """Number of source rows that are written."""
        return max((end for _, end, _ in self.slices), default=0)

    def unwritten(self, rows: Iterator[dict]) -> Iterator[dict]:
        """Skip the source rows that are written, after comparing their digests."""
        change = None
        for first, end, path in self.slices:
            digest = parquet.read_schema(path).metadata.get(DIGEST_KEY, b"").decode()
            if change is None and self._digest(map(row_digest, islice(rows, end - first))) != digest:
                change = f"rows {first} to {end - 1} differ"
        if change is None and self.is_complete and next(rows, None) is not None:
            change = "it has more rows"
        if change is not None:
            raise ValueError(
                f"`{self.stage.folder}`: the source of `{self.split}` has changed: {change}. Delete the folder, or choose another."
            )
        return rows

    def written(self, columns: list[str], rejected: bool = False) -> list[dict]:
        """Values of columns of the rows in complete slices: of those kept, or of those rejected."""
        folder = self.stage.folder / (REJECTED_FOLDER if rejected else "")
        files = [folder / path.name for _, _, path in self.slices]
        return [
            row for path in files if path.is_file() for row in parquet.read_table(path, columns=columns).to_pylist()
        ]

    def write(self, rows: list[dict], digests: list[str]) -> None:
        """Add the next source rows, with encoded images and, if rejected, `problem`, and the [`row_digest`] of each to
        the slice, which is written if it has enough."""
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
        parts = {
            f"{REJECTED_FOLDER}/{name}": [row for row in self._rows if "problem" in row],
            name: [row for row in self._rows if "problem" not in row],  # last
        }
        for place, rows in parts.items():
            if rows or place == name:
                path, extra = self.stage.folder / place, {"problem": datasets.Value("string")} if place != name else {}
                schema = datasets.Features(self.features | extra).arrow_schema
                with atomic_file(path) as partial:
                    schema = schema.with_metadata(schema.metadata | metadata)
                    with parquet.ParquetWriter(partial, schema) as file:
                        if rows:  # `load_dataset` refuses empty row groups
                            file.write_table(pa.Table.from_pylist(rows, schema), row_group_size=32)
        self._rows, self._digests = [], []

    def finish(self) -> tuple[int, int]:
        """Write the last slice, card and contact sheets, and mark the split as complete. Returns the numbers of rows and
        rejected rows."""
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
            write_card(folder, self.title, self.text, self.features, splits)
            save_contact_sheets(folder, self.split)
            self.stage.finish({"splits": splits}, [CARD_FILE])
        return counts[0], counts[1]

    def _digest(self, digests: Iterable[str]) -> str:
        """Digest of source rows, their columns and selection."""
        return xxhash.xxh3_128_hexdigest("".join([repr((self.features, self.selection)), *digests]).encode())


ROWS_PER_PART = 32
DecodedRow = tuple[dict, Image.Image | None]


def parts_of(rows: Iterator[dict]) -> Iterator[list[dict]]:
    while part := list(islice(rows, ROWS_PER_PART)):
        yield part


def write_rows(
    writer: SplitWriter | None,
    rows: Iterator[dict],
    skip_bad: bool,
    finish: Callable[[Iterator[DecodedRow]], list[dict]] = lambda decoded: [row for row, _ in decoded],
    total: int | None = None,
    parts: Callable[[Iterator[dict]], Iterator[list[dict]]] = parts_of,
) -> tuple[int, int] | None:
    """Write the rows of a [`Source`] that are not written yet, decoding every image once. `finish` returns the rows to
    write for each of the `parts`, one per source row. Launched processes share the parts; the files are the same as
    with one process. Returns the numbers of rows and rejected rows; `None` where `writer` is, outside the main
    process."""
    state = PartialState()
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
        shared = parts(rows)
        while window := list(islice(shared, state.num_processes)):
            finished = []
            if state.process_index < len(window):
                finished = finish(_decoded(pool.map(decode, window[state.process_index]), skip_bad))
            finished = iter(gather_object(finished))
            if writer is not None:
                for part in window:
                    writer.write(list(islice(finished, len(part))), list(map(row_digest, part)))
            progress.update(sum(map(len, window)))
    return None if writer is None else writer.finish()


def _decoded(rows: Iterator[tuple], skip_bad: bool) -> Iterator[DecodedRow]:
    for row, image, mask in rows:
        if "mask" in row and image is not None and (problem := mask_problem(image, mask)):
            row, image = {"file_name": row["file_name"], "problem": f"`{row['file_name']}`: {problem}."}, None
        if "problem" in row and not skip_bad:
            raise ValueError(f"{row['problem'].rstrip('.')}. --skip_bad leaves such rows out, and lists them.")
        yield row, image
