"""Sets of the paper from their archives into parquet, with every image decoded once."""

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import ExifTags, Image, ImageOps
from tqdm.auto import tqdm

from .contact_sheet import save_contact_sheets
from .parquet_writer import ShardWriter
from .registry import features_of, get_image_set, open_source


ROWS_PER_PART = 32


def encode_png(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def decode(row: dict) -> tuple[dict, Image.Image | None, Image.Image | None]:
    """Read and decode a row once.

    Returns:
        The row, with the bytes of image and mask as they were and `problem` if one cannot be decoded; image and mask,
        `None` where there is none.
    """
    pictures = {"image": None, "mask": None}
    if "problem" in row:
        return row, None, None
    for column in pictures:
        if row.get(column) is None:
            continue
        path = row[column]["path"]
        try:
            content = row[column]["bytes"] if row[column]["bytes"] is not None else Path(path).read_bytes()
            pictures[column] = Image.open(io.BytesIO(content))
            pictures[column].load()
            if pictures[column].format == "BMP":  # what loaders write where they have to encode
                path, content = path and str(Path(path).with_suffix(".png")), encode_png(pictures[column])
            elif pictures[column].getexif().get(ExifTags.Base.Orientation, 1) != 1:
                pictures[column] = ImageOps.exif_transpose(pictures[column])  # as `datasets.Image` does
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            pictures[column] = None
            where = path if row[column]["bytes"] is None else row["file_name"]
            return {"file_name": row["file_name"], "problem": f"`{where}` cannot be decoded: {error}"}, None, None
        row = row | {column: {"bytes": content, "path": path and Path(path).name}}
    return row, pictures["image"], pictures["mask"]


def prepare(
    name: str, sources: list[str], output: Path, *, skip_bad: bool = False, rows_per_shard: int = 1000, **options
) -> dict[str, tuple[int, int]]:
    """Write a set as parquet shards, with a card and a contact sheet. What a kill cut off goes on when called again.

    Args:
        name: one of `image_sets()`. `paper-split` gives both of its parts.
        sources: where it is: a folder, a Hub id, one or more archives, or nothing for the set's place on the Hub.
        output: folder to write.
        skip_bad: reject rows that cannot be used, instead of raising.
        rows_per_shard: rows of a shard, at least.
        options: as [`load_image_set`] takes them.

    Returns:
        Number of rows and of rejected rows of each split.

    Raises:
        ValueError: a row cannot be used, or none can, or the source has changed since a kill, or as [`load_image_set`].
    """
    image_set = get_image_set(name, options)
    counts = {}
    parts = ("train", "validation") if name == "paper-split" and "split" not in options else (None,)
    for part in parts:
        chosen = options if part is None else options | {"split": part}
        split = chosen.get("split", image_set.split)
        source = open_source(name, sources, chosen)
        writer = ShardWriter(
            output,
            split,
            features_of(name, options),
            {"set": name, "sources": [Path(source).name for source in sources]}
            | {name: Path(value).name if Path(str(value)).exists() else value for name, value in chosen.items()},
            title=name,
            text=f"Prepared from the set of {image_set.origin}, whose terms hold for these images too.",
            rows_per_shard=rows_per_shard,
        )
        with (
            ThreadPoolExecutor() as pool,
            tqdm(desc=f"{name} ({split})", unit="image", initial=writer.position) as progress,
        ):
            rows = writer.unwritten(source.rows(source.shards))
            while window := list(islice(rows, ROWS_PER_PART)):
                window = [row for row, _, _ in pool.map(decode, window)]
                problems = [row["problem"] for row in window if "problem" in row]
                if problems and not skip_bad:
                    raise ValueError(f"{problems[0]}\n--skip_bad leaves such rows out, and lists them.")
                writer.write(window)
                progress.update(len(window))
        counts[split] = writer.finish()
    save_contact_sheets(output, list(counts))
    return counts
