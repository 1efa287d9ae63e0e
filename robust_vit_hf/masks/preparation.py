"""Masks for a data set that has none: parquet that `robust-vit train --dataset` takes."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import datasets
from PIL import Image
from tqdm.auto import tqdm

from ..data.contact_sheet import save_contact_sheets
from ..data.imagenet_classes import class_names, label_of_wnid
from ..data.layouts.folders import is_wnid
from ..data.masked_dataset import load_masked_dataset, undecoded_rows
from ..data.parquet_writer import ShardWriter
from ..data.preparation import ROWS_PER_PART, decode, encode_png
from ..data.registry import features_of, image_sets, open_source
from .result import MaskResult


Masker = Callable[[list[Image.Image], list[dict]], list[MaskResult]]

TEXT = {
    "tokencut": "Foreground masks by TokenCut (https://huggingface.co/papers/2202.11539), without annotation.",
    "grounded": "Foreground masks by Grounding DINO and SAM, prompted with names "
    "(https://huggingface.co/papers/2303.05499, https://huggingface.co/papers/2304.02643).",
    "coco": "Foreground masks from annotations in COCO's format.",
}


def prepare_masks(
    method: str,
    make_masker: Callable[[datasets.Features], Masker],
    images: str,
    splits: list[str],
    output_dir: Path,
    *,
    set_name: str | None = None,
    settings: dict | None = None,
    skip_bad: bool = False,
    rows_per_shard: int = 1000,
) -> dict[str, tuple[int, int]]:
    """Write images with masks as parquet shards, with a card and contact sheets. A run that was interrupted resumes when this
    is called again.

    Args:
        method: name of the mask maker, for the card.
        make_masker: gives the mask maker for images with these columns.
        images: where the images are, as for [`load_masked_dataset`]; their masks are not read.
        splits: splits to make masks for.
        set_name: read `images` as this set of the paper, unprepared.
        settings: what the masks depend on, as JSON values. A folder is continued with the same alone.
        skip_bad: reject images that cannot be read, instead of raising.
        rows_per_shard: rows of a shard, at least.

    Returns:
        Number of rows and of rejected rows of each split.

    Raises:
        ValueError: an image cannot be read, or the folder holds something else.
        FileNotFoundError: there are no such images.
    """
    counts = {}
    for split in splits:
        rows, columns, total = _open_images(images, split, set_name)
        masker = make_masker(columns)
        features = {"image": datasets.Image(), "mask": datasets.Image()}
        features |= {name: columns[name] for name in ("label",) if name in columns}
        features |= {name: datasets.Value("string") for name in ("file_name", "note")}
        described = {name: _described(value) for name, value in (settings or {}).items()}
        writer = ShardWriter(
            output_dir,
            split.partition("[")[0],  # a slice has the name of its split
            datasets.Features(features),
            {"method": method, "images": _described(images), "set": set_name, **described, "split": split},
            title=f"{Path(images).name}, masks by {method}",
            text=TEXT[method],
            rows_per_shard=rows_per_shard,
        )
        with (
            ThreadPoolExecutor() as pool,
            tqdm(desc=f"{method} ({split})", unit="image", total=total, initial=writer.position) as progress,
        ):
            rows = writer.unwritten(rows)
            while window := list(islice(rows, ROWS_PER_PART)):
                # The mask that a row may have is not wanted, and need not be decoded.
                decoded = pool.map(decode, [{**row, "mask": None} for row in window])
                rows_and_images = [(row, image) for row, image, _ in decoded]
                unreadable = [row["problem"] for row, image in rows_and_images if image is None and "problem" in row]
                if unreadable and not skip_bad:
                    raise ValueError(f"{unreadable[0]} --skip_bad leaves such images out, and lists them.")
                usable = [(row, image) for row, image in rows_and_images if image is not None]
                results = masker([image.convert("RGB") for _, image in usable], [row for row, _ in usable])
                made = {id(row): result for (row, _), result in zip(usable, results, strict=True)}
                writer.write([finished_row(row, made.get(id(row)), features) for row, _ in rows_and_images])
                progress.update(len(window))
        counts[writer.split] = writer.finish()
    save_contact_sheets(output_dir, list(counts))
    return counts


def prompts_of_labels(features: datasets.Features, prompts: Path | None) -> Callable[[int], list[str]]:
    """What to look for in an image of a label: the class name, or what the file of prompts says.

    Raises:
        ValueError: the labels have no names, or the file is no JSON object of lists.
    """
    label = features.get("label")
    if not isinstance(label, datasets.ClassLabel):
        raise ValueError(
            f"The images have labels of type {label}, expected a `ClassLabel` with names to prompt with: "
            '`dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    names = [class_names()[label_of_wnid()[name]] if is_wnid(name) else name for name in label.names]
    if prompts is None:
        return {label: [name] for label, name in enumerate(names)}.get
    try:
        given = json.loads(prompts.read_text())
        lists = [given.get(name, given.get(key)) for name, key in zip(names, label.names, strict=True)]
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f'`{prompts}` must be a JSON object such as {{"tench": ["head", "fins"]}}: {error}.'
        ) from error
    return dict(enumerate(lists)).get


def _open_images(
    images: str, split: str, set_name: str | None
) -> tuple[Iterator[dict], datasets.Features, int | None]:
    """Undecoded rows, their columns, and their number where it is known."""
    if set_name is not None:
        options = {"split": split} if "split" in image_sets()[set_name].options else {}
        source = open_source(set_name, [images], options)
        return source.rows(source.shards), features_of(set_name, options), None
    dataset = load_masked_dataset(images, split)
    return undecoded_rows(dataset), dataset.features, len(dataset)


def _described(value: object) -> object:
    """A setting as it may be published: without the folders of the machine, and with the digest of a file."""
    path = Path(str(value))
    if path.is_file():
        return f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    return path.name if path.exists() else value


def finished_row(row: dict, result: MaskResult | None, features: dict) -> dict:
    """Row to write: with its mask and note, and `problem` if it is to be rejected."""
    kept = {name: row.get(name) for name in features}
    if result is None:
        return kept | {"problem": row.get("problem", "image is missing")}
    mask = None if result.mask is None else {"bytes": encode_png(result.mask), "path": None}
    return kept | {"mask": mask, "note": result.note} | ({"problem": result.rejected} if result.rejected else {})
