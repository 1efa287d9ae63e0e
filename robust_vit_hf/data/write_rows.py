"""Writing of the rows of a source: decoded and checked once, in parts that launched processes share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from tqdm.auto import tqdm

from .dataset_digest import row_digest
from .mask_checks import mask_problem
from .schema import decode
from .split_writer import SplitWriter


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
