"""Conversion of the paper's sets from archives to parquet, with a check of every image."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from tqdm.auto import tqdm

from ..utils.lock import folder_lock
from .contact_sheet import save_contact_sheets
from .dataset_digest import row_digest
from .image_sets import features_of, find_set, open_source
from .mask_checks import mask_problem
from .options import PrepareOptions
from .parquet_writer import ShardWriter, read_settings
from .schema import decode


ROWS_PER_PART = 32
DecodedRow = tuple[dict, Image.Image | None]


def parts_of(rows: Iterator[dict]) -> Iterator[list[dict]]:
    """Rows in parts of 32."""
    while part := list(islice(rows, ROWS_PER_PART)):
        yield part


def write_rows(
    writer: ShardWriter | None,
    rows: Iterator[dict],
    skip_bad: bool,
    finish: Callable[[Iterator[DecodedRow]], list[dict]] = lambda decoded: [row for row, _ in decoded],
    total: int | None = None,
    parts: Callable[[Iterator[dict]], Iterator[list[dict]]] = parts_of,
) -> tuple[int, int] | None:
    """Write the rows of a [`Source`] that are not written yet, decoding every image once. `finish` returns the rows to
    write for each of the `parts`, one per source row. Launched processes share the parts; the files are the same as
    with one process.

    Args:
        writer: `None` outside the main process, which receives the rows of the others.

    Returns:
        Numbers of rows and rejected rows; `None` outside the main process.

    Raises:
        ValueError: a row, or every row, is unusable, or the source has changed since an interrupted run.
    """
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
            raise ValueError(f"{row['problem']} --skip_bad leaves such rows out, and lists them.")
        yield row, image


def prepare(options: PrepareOptions) -> str:
    """Write a set, see [`write_set`].

    Returns:
        Message about what was written.
    """
    counts = write_set(options)
    lines = [f"{split}: {kept:,} rows, {rejected:,} rejected" for split, (kept, rejected) in counts.items()]
    return "\n".join([*lines, f"{options.output_dir}: parquet, README.md and contact sheets"])


def _check_other_splits(folder: Path, chosen: str, options: dict) -> None:
    """Refuse a split with other options than those of the folder's other splits, which are loaded together; its images may come from
    another folder.

    Raises:
        ValueError: they differ.
    """
    for split, made in read_settings(folder).items():
        known = {key: value for key, value in made.items() if key not in ("set", "sources", "split", "imagenet")}
        asked = {key: value for key, value in options.items() if key not in ("split", "imagenet")}
        if split != chosen and "sources" in made and known != json.loads(json.dumps(asked)):
            raise ValueError(
                f"`{folder}` holds the split `{split}` made with {known or 'no options'}, and this one is asked for with "
                f"{asked or 'none'}: choose another output folder."
            )


def write_set(options: PrepareOptions) -> dict[str, tuple[int, int]]:
    """Write a set as parquet shards, with a card and a contact sheet; all of its splits, if it has several. Call it
    again to resume an interrupted run.

    Returns:
        Numbers of rows and rejected rows of each split.

    Raises:
        OSError, ValueError: as for [`load_image_set`], or every row is unusable, the source has changed since an
            interrupted run, or another process is writing to the folder.
    """
    name, of_the_set = options.set, options.of_the_set
    image_set = find_set(name, of_the_set)
    splits = [of_the_set]
    if len(image_set.splits) > 1 and options.split is None:
        splits = [of_the_set | {"split": split} for split in image_set.splits]
    counts = {}
    with folder_lock(options.output_dir, "prepare"):
        for chosen in splits:
            source = open_source(name, options.sources, chosen)
            public = {
                key: Path(value).name if isinstance(value, str) and Path(value).exists() else value
                for key, value in chosen.items()
            }
            split = chosen.get("split", image_set.splits[0])
            _check_other_splits(options.output_dir, split, public)
            writer = ShardWriter(
                options.output_dir,
                split,
                features_of(name, of_the_set),
                {"set": name, "sources": [Path(source).name for source in options.sources], **public},
                title=name,
                text=f"Prepared from the set of {image_set.origin}, whose terms hold for these images too.",
                rows_per_shard=options.rows_per_shard,
            )
            counts[writer.split] = write_rows(writer, source.rows(source.shards), options.skip_bad)
        save_contact_sheets(options.output_dir, list(counts))
    return counts
