"""Data sets written as parquet shards, row after row, so that a kill costs a part of a shard and no more."""

import io
import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image
from pyarrow import compute, parquet

from ..figures import save_contact_sheet
from ..files import whole_file, write_atomically


SETTINGS_FILE, REJECTED_FOLDER, PARTS_FOLDER = "made_by.json", "rejected", ".parts"
CARD = """---
{metadata}
---

# {title}

{text}

Images with {columns}, in the schema of [robust-vit-hf](https://huggingface.co/papers/2206.01161).

| split | rows | rejected |
|---|---:|---:|
{table}

`load_dataset(folder)` gives the rows, `load_dataset(folder, "rejected")` those that were left out, with the reason in
`problem`. How they were made stands in `{settings_file}`.
"""


class ShardWriter:
    """Writes one split of a data set into a folder that `datasets.load_dataset` and `push_to_hub` take.

    Rows come in the order of their source, in parts. Each part is a file at once; when they hold enough rows, they become
    a shard, named by the rows of the source that it covers. So a writer that is opened again knows where to go on. A row
    with a `problem` goes to the configuration `rejected` instead.

    Args:
        folder: where to; made if it does not exist. It may hold other splits.
        split: name of the split.
        features: columns of a row.
        settings: what the rows are made from, as JSON values. A folder is continued with the same alone.
        title, text: heading and first paragraph of the data set card.
        rows_per_shard: rows of a shard, at least.

    Raises:
        ValueError: the folder holds this split, made with other settings, or other files.
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
        made_by = folder / SETTINGS_FILE
        known = json.loads(made_by.read_text()) if made_by.is_file() else {}
        if not known and folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"`{folder}` holds other files. Choose another output folder, or delete it.")
        if known.get(split, settings) != json.loads(json.dumps(settings)):
            raise ValueError(
                f"`{folder}` holds the split `{split}` made with {json.dumps(known[split])}, now asked for with "
                f"{json.dumps(settings)}. Choose another output folder, or delete it."
            )
        for place in (folder / REJECTED_FOLDER, folder / PARTS_FOLDER / split):
            place.mkdir(parents=True, exist_ok=True)
        write_atomically(made_by, json.dumps(known | {split: settings}, indent=2) + "\n")
        self._drop_leftovers()

    @property
    def position(self) -> int:
        """Number of rows of the source that are written."""
        return max((end for _, end, _ in self._shards() + self._parts()), default=0)

    def write(self, rows: list[dict]) -> None:
        """Write the next rows of the source. They are on disk when this returns.

        Args:
            rows: images as dicts with `bytes` and `path`; a row to be rejected has `problem`, the reason.
        """
        first = self.position
        table = pa.Table.from_pylist(rows, schema=self.rejected_features.arrow_schema)
        with whole_file(self.folder / PARTS_FOLDER / self.split / f"{first}-{first + len(rows)}.parquet") as partial:
            parquet.write_table(table, partial)
        if sum(end - start for start, end, _ in self._parts()) >= self.rows_per_shard:
            self._make_shard()

    def finish(self) -> tuple[int, int]:
        """Write what is left of the last shard.

        Returns:
            Number of rows, and of rejected rows, of this split.
        """
        if self._parts():
            self._make_shard()
        for place in (self.folder / PARTS_FOLDER / self.split, self.folder / PARTS_FOLDER):
            if not any(place.iterdir()):
                place.rmdir()
        return self._write_card()[self.split]

    def _write_card(self) -> dict[str, tuple[int, int]]:
        """Write the card of all splits. Returns the number of rows and of rejected rows of each."""
        counts = {}
        for split in json.loads((self.folder / SETTINGS_FILE).read_text()):
            counts[split] = tuple(
                sum(parquet.read_metadata(path).num_rows for path in place.glob(f"{split}-*.parquet"))
                for place in (self.folder, self.folder / REJECTED_FOLDER)
            )
        configurations = [
            {"config_name": name, "data_files": [{"split": split, "path": f"{place}{split}-*"} for split in splits]}
            for name, place, splits in (
                ("default", "", [split for split in counts if counts[split][0]]),
                ("rejected", f"{REJECTED_FOLDER}/", [split for split in counts if counts[split][1]]),
            )
            if splits
        ]
        card = CARD.format(
            metadata=DatasetCardData(configs=configurations, tags=["robust-vit"]).to_yaml(),
            title=self.title,
            text=self.text,
            columns=", ".join(f"`{column}`" for column in self.features if column != "image"),
            table="\n".join(f"| {split} | {kept} | {rejected} |" for split, (kept, rejected) in counts.items()),
            settings_file=SETTINGS_FILE,
        )
        DatasetCard(card)  # raises where the metadata are no YAML
        write_atomically(self.folder / "README.md", card)
        return counts

    def _make_shard(self) -> None:
        """Join the parts. The shard of kept rows comes last: while it is missing, nothing of this counts."""
        parts = self._parts()
        table = pa.concat_tables([parquet.read_table(path) for _, _, path in parts])
        name = f"{self.split}-{parts[0][0]:09d}-{parts[-1][1]:09d}.parquet"
        is_kept = compute.is_null(table["problem"])
        rejected = table.filter(compute.invert(is_kept)).replace_schema_metadata(
            self.rejected_features.arrow_schema.metadata
        )
        if rejected.num_rows:
            with whole_file(self.folder / REJECTED_FOLDER / name) as partial:
                parquet.write_table(rejected, partial)
        kept = table.filter(is_kept).drop_columns("problem").cast(self.features.arrow_schema)
        with whole_file(self.folder / name) as partial:
            # Small row groups, since images are read one by one.
            parquet.write_table(
                kept.replace_schema_metadata(self.features.arrow_schema.metadata), partial, row_group_size=100
            )
        self._drop_leftovers()
        self._write_card()

    def _drop_leftovers(self) -> None:
        """Delete what a finished shard holds already, and what was being written at a kill."""
        covered = max((end for _, end, _ in self._shards()), default=0)
        for _, end, path in self._parts():
            if end <= covered:
                path.unlink()
        for place in (self.folder, self.folder / REJECTED_FOLDER, self.folder / PARTS_FOLDER / self.split):
            for path in place.glob("*.partial"):
                path.unlink()

    def _shards(self) -> list[tuple[int, int, Path]]:
        return self._ranges(self.folder, rf"{re.escape(self.split)}-(\d+)-(\d+)\.parquet")

    def _parts(self) -> list[tuple[int, int, Path]]:
        return self._ranges(self.folder / PARTS_FOLDER / self.split, r"(\d+)-(\d+)\.parquet")

    @staticmethod
    def _ranges(place: Path, pattern: str) -> list[tuple[int, int, Path]]:
        """First row, end and path of files, in order."""
        found = ((re.fullmatch(pattern, path.name), path) for path in place.glob("*.parquet"))
        return sorted((int(match[1]), int(match[2]), path) for match, path in found if match)


def save_contact_sheets(folder: Path, splits: list[str], count: int = 24) -> None:
    """Write `contact_sheet_<split>.png`, rows from all over a split to look at, and the same of the rejected rows.

    Args:
        folder: what [`ShardWriter`] wrote.
        count: number of rows of a sheet, at most.
    """
    for split in splits:
        for place, name in ((folder, split), (folder / REJECTED_FOLDER, f"{split}_rejected")):
            rows = [row for row in sample_rows(sorted(place.glob(f"{split}-*.parquet")), count) if row["image"]]
            examples = [
                (*(_picture(row.get(column)) for column in ("image", "mask")), row.get("problem") or row["file_name"])
                for row in rows
            ]
            if examples:
                save_contact_sheet(examples, folder / f"contact_sheet_{name}.png")


def sample_rows(shards: list[Path], count: int) -> list[dict]:
    """At most `count` rows at equal distances, without reading the others' row groups."""
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


def _picture(encoded: dict | None) -> Image.Image | None:
    return None if encoded is None else Image.open(io.BytesIO(encoded["bytes"]))
