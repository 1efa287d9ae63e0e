"""Resumable writing of datasets as parquet shards."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import xxhash
from huggingface_hub import DatasetCard, DatasetCardData
from pyarrow import compute, parquet

from ..utils.cache import check_no_pattern
from ..utils.files import atomic_file, read_json, write_atomically, write_json
from .dataset_digest import row_digest


SETTINGS_FILE, REJECTED_FOLDER, PARTS_FOLDER, CONTACT_SHEET = "made_by.json", "rejected", ".parts", "contact_sheet"
# Keys of a finished split's source rows in its record, and of their digests in each file's metadata.
SOURCE_KEY, DIGESTS_KEY = "source_rows", b"robust_vit_hf.source_rows"
MAX_SHARD_BYTES = 500 * 2**20
CARD = """---
{metadata}
---

# {title}

{text}

Images with {columns}, in the schema of [robust-vit-hf](https://huggingface.co/papers/2206.01161).

| split | rows | rejected |
|---|---:|---:|
{table}
{reasons}
`load_dataset(folder)` gives the rows, `load_dataset(folder, "rejected")` those that were left out, with the reason in
`problem`. `{settings_file}` records how they were made.
"""


def read_settings(folder: Path) -> dict[str, dict]:
    """Recorded settings of each split; empty for a folder not written by [`ShardWriter`]."""
    made_by = read_json(folder / SETTINGS_FILE) or {}
    return {split: {k: v for k, v in made.items() if k != SOURCE_KEY} for split, made in made_by.items()}


class ShardWriter:
    """Writes one split of a dataset to a folder for `datasets.load_dataset` and `push_to_hub`.

    Rows are added in parts, in source order. Each part is written to a file immediately, and parts with enough rows
    are joined to a shard, whose name records its range of source rows. A reopened writer thus knows its position. Rows
    with a `problem` go to the configuration `rejected`.

    Args:
        folder: output folder. It may hold other splits.
        settings: settings that the rows depend on, as JSON values. A folder can only be continued with the same
            settings.
        title, text: heading and first paragraph of the dataset card.
        rows_per_shard: minimum number of source rows in a shard, unless these exceed 500 MiB.

    Raises:
        ValueError: the folder holds other files, or this split with other settings; or `split` cannot name a split.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        features: datasets.Features,
        settings: dict,
        *,
        title: str,
        text: str,
        rows_per_shard: int = 1000,
    ):
        self.folder, self.split, self.rows_per_shard = folder, split, rows_per_shard
        self.title, self.text = title, text
        self.features = features
        self.rejected_features = datasets.Features(features | {"problem": datasets.Value("string")})
        if not re.fullmatch(r"\w+(\.\w+)*", split):  # which `datasets` demands
            raise ValueError(
                f"`{split}` is no name of a split, so that nobody could load what is written: give one split, or "
                "several one by one (`--split train validation`)."
            )
        known = read_settings(folder)
        if not known and any(not path.name.endswith((".partial", ".lock")) for path in folder.glob("*")):
            raise ValueError(f"`{folder}` holds other files. Choose another output folder, or delete it.")
        if known.get(split, settings) != json.loads(json.dumps(settings)):
            raise ValueError(
                f"`{folder}` holds the split `{split}` made with {json.dumps(known[split])}, now asked for with "
                f"{json.dumps(settings)}. Choose another output folder, or delete it."
            )
        folder.mkdir(parents=True, exist_ok=True)
        check_no_pattern(folder)  # could not be loaded
        if split not in known:
            write_json(folder / SETTINGS_FILE, (read_json(folder / SETTINGS_FILE) or {}) | {split: settings})
        for place in (folder / REJECTED_FOLDER, folder / PARTS_FOLDER / split):
            place.mkdir(parents=True, exist_ok=True)
        self._drop_leftovers()
        # Parts also hold rows of a rejected shard if the shard of kept rows is missing.
        for first, _, _ in self._parts()[:1]:
            for start, _, path in self._shards():
                if start >= first:
                    path.unlink()

    @property
    def position(self) -> int:
        """Number of source rows written."""
        return max((end for _, end, _ in self._shards() + self._parts()), default=0)

    def unwritten(self, rows: Iterator[dict]) -> Iterator[dict]:
        """Skip the source rows already written, after comparing each with its recorded digest.

        Raises:
            ValueError: the source has changed: a row differs or is missing, or a finished split has additional ones.
                The message names the first differing row, or the numbers of rows.
        """
        finished = SOURCE_KEY in read_json(self.folder / SETTINGS_FILE)[self.split]
        changed = f"`{self.folder}`: the source of the split `{self.split}` has changed since it was written"
        remedy = "Delete the folder, or choose another."
        digests, num_rows = self.digests(), 0
        for digest, row in zip(digests, rows, strict=False):
            if digest != row_digest(row):
                raise ValueError(f"{changed}: row {num_rows}, now `{row['file_name']}`, differs. {remedy}")
            num_rows += 1
        if finished:
            num_rows += sum(1 for _ in rows)
        if num_rows < len(digests) or (finished and num_rows > len(digests)):
            raise ValueError(f"{changed}: {len(digests):,} rows were written, the source has {num_rows:,}. {remedy}")
        return rows

    def digests(self) -> list[str]:
        """Digests of the written source rows, in order."""
        digests = []
        for first, end, path in self._shards() + self._parts():
            schema = parquet.read_schema(path)
            of_file = schema.metadata.get(DIGESTS_KEY, b"").decode().split()
            columns = datasets.Features.from_arrow_schema(schema)
            columns.pop("problem", None)
            if first != len(digests) or len(of_file) != end - first or columns != self.features:
                raise ValueError(
                    f"`{path}` does not continue the split `{self.split}` of this source: it has other columns or classes, or was "
                    "written by an earlier version. Delete the folder, or choose another."
                )
            digests += of_file
        return digests

    def kept(self, column: str) -> list:
        """Values of a column in the written, not rejected rows."""
        values = []
        for *_, path in self._shards() + self._parts():
            is_kept = compute.field("problem").is_null() if "problem" in parquet.read_schema(path).names else None
            values += parquet.read_table(path, columns=[column], filters=is_kept)[column].to_pylist()
        return values

    def write(self, rows: list[dict], digests: list[str]) -> None:
        """Write the next source rows, with encoded images.

        Args:
            rows: rejected rows have `problem`, the reason.
            digests: [`row_digest`] of each source row.
        """
        first = self.position
        schema = self.rejected_features.arrow_schema
        table = pa.Table.from_pylist(rows, schema=_with_digests(schema, digests))
        with atomic_file(self.folder / PARTS_FOLDER / self.split / f"{first}-{first + len(rows)}.parquet") as partial:
            parquet.write_table(table, partial)
        parts = self._parts()
        num_bytes = sum(path.stat().st_size for *_, path in parts)
        if first + len(rows) - parts[0][0] >= self.rows_per_shard or num_bytes >= MAX_SHARD_BYTES:
            self._make_shard()

    def finish(self) -> tuple[int, int]:
        """Write the last shard and the card. Returns the numbers of rows and rejected rows of this split.

        Raises:
            ValueError: there are no rows, or all are rejected.
        """
        if self._parts():
            self._make_shard(last=True)
        for *_, part in self._parts():  # with only rejected rows, now in their own shard
            part.unlink()
        for place in (self.folder / PARTS_FOLDER / self.split, self.folder / PARTS_FOLDER):
            if not any(place.iterdir()):
                place.rmdir()
        kept, rejected = self._write_card()[self.split]
        if not kept:
            reasons = "the source has no images"
            if rejected:
                (row, *_) = sample_rows(sorted((self.folder / REJECTED_FOLDER).glob(f"{self.split}-*")), 1)
                reasons = f"all {rejected:,} were rejected, the first for: {row['problem']}"
            raise ValueError(f"`{self.folder}`: the split `{self.split}` has no rows: {reasons}.")
        made_by, digests = read_json(self.folder / SETTINGS_FILE), self.digests()
        source = {"count": len(digests), "digest": xxhash.xxh3_64_hexdigest("".join(digests).encode())}
        if made_by[self.split].get(SOURCE_KEY) != source:
            made_by[self.split][SOURCE_KEY] = source
            write_json(self.folder / SETTINGS_FILE, made_by)
        return kept, rejected

    def _write_card(self) -> dict[str, tuple[int, int]]:
        """Write the card of all splits. Returns the numbers of rows and rejected rows of each."""
        places = {"default": "", "rejected": f"{REJECTED_FOLDER}/"}
        counts = {
            split: tuple(
                sum(parquet.read_metadata(path).num_rows for path in self.folder.glob(f"{place}{split}-*.parquet"))
                for place in places.values()
            )
            for split in read_settings(self.folder)
        }
        configurations = []
        for index, (name, place) in enumerate(places.items()):
            files = [{"split": split, "path": f"{place}{split}-*"} for split in counts if counts[split][index]]
            configurations += [{"config_name": name, "data_files": files}] if files else []
        card = CARD.format(
            metadata=DatasetCardData(configs=configurations, tags=["robust-vit"]).to_yaml(),
            title=self.title,
            text=self.text,
            columns=", ".join(f"`{column}`" for column in self.features if column != "image"),
            table="\n".join(f"| {split} | {kept} | {rejected} |" for split, (kept, rejected) in counts.items()),
            reasons=self._reasons(),
            settings_file=SETTINGS_FILE,
        )
        DatasetCard(card)  # checks the metadata
        file = self.folder / "README.md"
        if not file.is_file() or file.read_text() != card:  # a copy in the cache of `datasets` belongs to its time
            write_atomically(file, card)
        return counts

    def _reasons(self) -> str:
        """Table of the reasons of rejected rows, without names and numbers, the most frequent first; empty without any."""
        counts: Counter[str] = Counter()
        for path in (self.folder / REJECTED_FOLDER).glob("*.parquet"):
            problems = parquet.read_table(path, columns=["problem"])["problem"].to_pylist()
            counts.update(re.sub(r"`[^`]*`|'[^']*'|\d[\d.,]*", "…", problem) for problem in problems)
        if not counts:
            return ""
        rows = [f"| {reason.replace('|', ' ')} | {count} |" for reason, count in counts.most_common(20)]
        return "\n".join(["", "| reason of the rejection | rows |", "|---|---:|", *rows, ""])

    def _make_shard(self, last: bool = False) -> None:
        """Join the parts to shards, kept rows last: until that shard exists, the parts hold the rows. Parts without
        kept rows wait for one unless `last`, since `load_dataset` refuses empty shards."""
        parts = self._parts()
        problems = [parquet.read_table(path, columns=["problem"])["problem"] for *_, path in parts]
        num_kept = sum(column.null_count for column in problems)
        if not num_kept and not last:
            return
        name = f"{self.split}-{parts[0][0]:09d}-{parts[-1][1]:09d}.parquet"
        if num_kept < sum(map(len, problems)):
            self._join(parts, self.folder / REJECTED_FOLDER / name, self.rejected_features, compute.is_valid)
        if num_kept:
            self._join(parts, self.folder / name, self.features, compute.is_null)
        self._drop_leftovers()
        if not (self.folder / "README.md").is_file():
            self._write_card()  # so that finished shards load even after an interrupt

    @staticmethod
    def _join(parts: list[tuple[int, int, Path]], path: Path, features: datasets.Features, wanted: Callable) -> None:
        """Write the rows of the parts whose `problem` is `wanted`."""
        digests = [parquet.read_schema(part).metadata[DIGESTS_KEY].decode() for *_, part in parts]
        schema = _with_digests(features.arrow_schema, digests)
        with atomic_file(path) as partial, parquet.ParquetWriter(partial, schema) as writer:
            for *_, part in parts:  # one by one to save memory
                table = parquet.read_table(part)
                writer.write_table(table.filter(wanted(table["problem"])).select(schema.names).cast(schema))

    def _drop_leftovers(self) -> None:
        """Delete parts of finished shards, and incomplete files of an interrupted run."""
        covered = max((end for _, end, path in self._shards() if path.parent == self.folder), default=0)
        for _, end, path in self._parts():
            if end <= covered:
                path.unlink()
        for place in (self.folder, self.folder / REJECTED_FOLDER, self.folder / PARTS_FOLDER / self.split):
            for path in place.glob("*.partial"):
                path.unlink()

    def _shards(self) -> list[tuple[int, int, Path]]:
        """Shards of kept rows, and of rejected rows if none in the range were kept."""
        pattern = rf"{re.escape(self.split)}-(\d+)-(\d+)\.parquet"
        found = {
            (first, end): path
            for place in (self.folder / REJECTED_FOLDER, self.folder)
            for first, end, path in self._ranges(place, pattern)
        }
        return sorted((first, end, path) for (first, end), path in found.items())

    def _parts(self) -> list[tuple[int, int, Path]]:
        return self._ranges(self.folder / PARTS_FOLDER / self.split, r"(\d+)-(\d+)\.parquet")

    @staticmethod
    def _ranges(place: Path, pattern: str) -> list[tuple[int, int, Path]]:
        """First row, end and path of files, in order."""
        found = ((re.fullmatch(pattern, path.name), path) for path in place.glob("*.parquet"))
        return sorted((int(match[1]), int(match[2]), path) for match, path in found if match)


def _with_digests(schema: pa.Schema, digests: list[str]) -> pa.Schema:
    return schema.with_metadata({**schema.metadata, DIGESTS_KEY: " ".join(digests)})


def sample_rows(shards: list[Path], count: int) -> list[dict]:
    """At most `count` evenly spaced rows, without reading other row groups."""
    groups = [
        (shard, group, parquet.read_metadata(shard).row_group(group).num_rows)
        for shard in shards
        for group in range(parquet.read_metadata(shard).num_row_groups)
    ]
    total, first, rows = sum(size for *_, size in groups), 0, []
    wanted = [index * total // count for index in range(count)] if total > count else list(range(total))
    for shard, group, size in groups:
        inside = [index - first for index in wanted if first <= index < first + size]
        if inside:
            rows += parquet.ParquetFile(shard).read_row_group(group).take(inside).to_pylist()
        first += size
    return rows
