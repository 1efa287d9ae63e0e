"""Make foreground masks for images that have none: a data set that `trainer/train.py --dataset` takes.

    python trainer/prepare_masks.py tokencut --images sets/split --output sets/split-tokencut --split train validation
    python trainer/prepare_masks.py grounded --images sets/split --output sets/split-sam --prompts parts.json
    python trainer/prepare_masks.py coco --images photos --output photos-masks --annotations instances.json

TokenCut needs no annotation, Grounding DINO with SAM the names of classes or of their parts, COCO files boxes or polygons.
The output is sharded parquet with a data set card, a contact sheet to look at, and the rejected masks with their reasons
beside it. A run that was cut off goes on where it stopped when it is started again.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import datasets
import torch
from tqdm.auto import tqdm

from robust_vit_hf import load_masked_dataset
from robust_vit_hf.data import image_sets
from robust_vit_hf.data.imagenet import is_wnid
from robust_vit_hf.data.imagenet_classes import class_names, label_of_wnid
from robust_vit_hf.data.masked import undecoded_rows
from robust_vit_hf.data.prepare import ROWS_PER_PART, decode, encode_png
from robust_vit_hf.data.sets import features_of, open_source
from robust_vit_hf.data.shards import ShardWriter, save_contact_sheets


EMOJI_SHIFT = "emoji-shift"
TEXT = {
    "tokencut": "Foreground masks by TokenCut (https://huggingface.co/papers/2202.11539), without annotation.",
    "grounded": "Foreground masks by Grounding DINO and SAM, prompted with names "
    "(https://huggingface.co/papers/2303.05499, https://huggingface.co/papers/2304.02643).",
    "coco": "Foreground masks from annotations in COCO's format.",
}


def make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--images", required=True, help="images: prepared set, parquet, image folder, Hub id, or `emoji-shift`"
    )
    common.add_argument("--set", choices=list(image_sets()), help="read them as this set of the paper, unprepared")
    common.add_argument("--split", nargs="+", default=["train"], help="splits to make masks for")
    common.add_argument("--output", type=Path, required=True, help="folder to write; an unfinished one goes on")
    common.add_argument("--skip_bad", action="store_true", help="leave out images that cannot be read, and list them")
    common.add_argument("--rows_per_shard", type=int, default=1000)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = parser.add_subparsers(dest="method", required=True)
    method = methods.add_parser("tokencut", parents=[common], help="what stands out in the features of a ViT")
    method.add_argument(
        "--model", default="facebook/dino-vitb16", help="self-supervised ViT, or `emoji-shift` for the bundled DINOv2"
    )
    method.add_argument("--batch_size", type=int, default=16, help="images in a forward pass")
    method.add_argument("--min_side", type=int, default=224, help="smaller images are enlarged for a finer patch grid")
    method.add_argument(
        "--min_pixels", type=int, default=520, help="smaller masks are rejected; RobustViT's limit by default"
    )
    method.add_argument("--coarse", action="store_true", help="unions of patches, without the bilateral solver")
    method = methods.add_parser("grounded", parents=[common], help="what the name of the class, or of its parts, says")
    method.add_argument("--detector", default="IDEA-Research/grounding-dino-tiny")
    method.add_argument("--segmenter", default="facebook/sam-vit-base")
    method.add_argument("--prompts", type=Path, help="JSON: class name or wnid to a list of names, such as of parts")
    method.add_argument("--box_threshold", type=float, default=0.3)
    method = methods.add_parser("coco", parents=[common], help="boxes and polygons that you have")
    method.add_argument("--annotations", type=Path, required=True, help="COCO JSON")
    method.add_argument("--category", help="the only category that is foreground; all by default")
    return parser


def open_images(arguments: argparse.Namespace, split: str) -> tuple[Iterator[dict], datasets.Features, int | None]:
    """Undecoded rows, their columns, and their number where it is known."""
    if arguments.set is not None:
        options = {"split": split} if "split" in image_sets()[arguments.set].options else {}
        source = open_source(arguments.set, [arguments.images], options)
        return source.rows(source.shards), features_of(arguments.set, options), None
    if arguments.images == EMOJI_SHIFT:
        from robust_vit_hf.emoji_shift import load_finetuning_splits

        dataset = dict(zip(("train", "validation"), load_finetuning_splits(5), strict=True))[split]
    else:
        dataset = load_masked_dataset(arguments.images, split)
    return undecoded_rows(dataset), dataset.features, len(dataset)


def names_of_labels(features: datasets.Features, prompts: Path | None) -> Callable[[int], list[str]]:
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
        raise ValueError(f'`{prompts}` is no JSON object such as {{"tench": ["head", "fins"]}}: {error}.') from error
    return dict(enumerate(lists)).get


def make_masker(arguments: argparse.Namespace, features: datasets.Features):
    """The mask maker that was asked for, on the accelerator if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if arguments.method == "coco":
        from robust_vit_hf.masks.coco import CocoAnnotations

        return CocoAnnotations(arguments.annotations, arguments.category)
    if arguments.method == "grounded":
        from robust_vit_hf.masks.grounded import GroundedSegmentation

        return GroundedSegmentation.from_pretrained(
            names_of_labels(features, arguments.prompts),
            arguments.detector,
            arguments.segmenter,
            device,
            box_threshold=arguments.box_threshold,
        )
    from robust_vit_hf.masks.tokencut import TokenCut

    settings = {
        "batch_size": arguments.batch_size,
        "min_pixels": arguments.min_pixels,
        "min_side": arguments.min_side,
        "refine": not arguments.coarse,
    }
    if arguments.model == EMOJI_SHIFT:
        from robust_vit_hf.emoji_shift import load_backbone

        return TokenCut(load_backbone().eval().to(device), **settings)
    return TokenCut.from_pretrained(arguments.model, device, **settings)


def make_masks(arguments: argparse.Namespace, split: str) -> tuple[int, int]:
    """Make the masks of one split. Returns the number of rows and of rejected rows."""
    rows, columns, total = open_images(arguments, split)
    masker = make_masker(arguments, columns)
    features = {"image": datasets.Image(), "mask": datasets.Image()}
    features |= {name: columns[name] for name in ("label",) if name in columns}
    features |= {name: datasets.Value("string") for name in ("file_name", "note")}
    settings = {
        name: described(value)
        for name, value in vars(arguments).items()
        if name not in ("output", "split", "skip_bad", "rows_per_shard", "batch_size")
    } | {"split": split}
    writer = ShardWriter(
        arguments.output,
        split.partition("[")[0],  # a slice has the name of its split
        datasets.Features(features),
        settings,
        title=f"{Path(arguments.images).name}, masks by {arguments.method}",
        text=TEXT[arguments.method],
        rows_per_shard=arguments.rows_per_shard,
    )
    with (
        ThreadPoolExecutor() as pool,
        tqdm(desc=f"{arguments.method} ({split})", unit="image", total=total, initial=writer.position) as progress,
    ):
        rows = writer.unwritten(rows)
        while window := list(islice(rows, ROWS_PER_PART)):
            # The mask that a row may have is not wanted, and need not be decoded.
            rows_and_images = [
                (row, image) for row, image, _ in pool.map(decode, [{**row, "mask": None} for row in window])
            ]
            unreadable = [row["problem"] for row, image in rows_and_images if image is None and "problem" in row]
            if unreadable and not arguments.skip_bad:
                raise ValueError(f"{unreadable[0]}\n--skip_bad leaves such images out, and lists them.")
            usable = [(row, image) for row, image in rows_and_images if image is not None]
            results = masker([image.convert("RGB") for _, image in usable], [row for row, _ in usable])
            made = {id(row): result for (row, _), result in zip(usable, results, strict=True)}
            writer.write([finished_row(row, made.get(id(row)), features) for row, _ in rows_and_images])
            progress.update(len(window))
    return writer.finish()


def described(value: object) -> object:
    """An option as it may be shared: without the folders of this machine, and with the digest of a file."""
    path = Path(str(value))
    if path.is_file():
        return f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    return path.name if path.exists() else value


def finished_row(row: dict, result, features: dict) -> dict:
    """Row to write: with its mask and note, and `problem` if it is to be rejected."""
    kept = {name: row.get(name) for name in features}
    if result is None:
        return kept | {"problem": row.get("problem", "image is missing")}
    mask = None if result.mask is None else {"bytes": encode_png(result.mask), "path": None}
    return kept | {"mask": mask, "note": result.note} | ({"problem": result.rejected} if result.rejected else {})


def main(argv: list[str]) -> None:
    arguments = make_parser().parse_args(argv)
    counts = {split.partition("[")[0]: make_masks(arguments, split) for split in arguments.split}
    save_contact_sheets(arguments.output, list(counts))
    for split, (kept, rejected) in counts.items():
        print(f"{split}: {kept:,} masks, {rejected:,} rejected")
    print(f"{arguments.output}: parquet, README.md, and contact sheets to look at")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
