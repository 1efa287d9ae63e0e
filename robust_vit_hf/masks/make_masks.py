"""Masks for a dataset without masks, written as parquet for `robust-vit train --dataset`."""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from transformers.utils import logging

from ..data.contact_sheet import save_contact_sheets
from ..data.find_images import find_images, split_names
from ..data.image_sets import features_of, open_source
from ..data.imagenet_classes import class_names, label_of_wnid
from ..data.known_sets import KNOWN_SETS
from ..data.parquet_writer import ShardWriter
from ..data.prepare import DecodedRow, write_rows
from ..data.schema import encode_image, undecoded_rows
from ..models.model_digest import model_digest
from ..models.model_names import MODELS
from ..utils.files import check_output_dir
from ..utils.images import to_rgb
from ..utils.lock import folder_lock
from .grounded import GroundedSegmentation
from .mask_result import MaskResult
from .options import CocoOptions, GroundedOptions, MasksOptions, Sam3Options, TokenCutOptions
from .per_class import PerClass
from .tokencut import TokenCut


logger = logging.get_logger(__name__)

FULL = 0.95  # share of an image above which a mask leaves no background to train on
Masker = Callable[[list[Image.Image], list[dict]], list[MaskResult]]

TEXT = {
    "tokencut": "Foreground masks by TokenCut (https://huggingface.co/papers/2202.11539), without annotation.",
    "grounded": "Foreground masks by Grounding DINO and SAM, prompted with names "
    "(https://huggingface.co/papers/2303.05499, https://huggingface.co/papers/2304.02643).",
    "sam3": "Foreground masks by SAM 3, prompted with names (https://huggingface.co/papers/2511.16719).",
    "coco": "Foreground masks from annotations in COCO's format.",
}


def prepare_masks(options: MasksOptions) -> str:
    """Write images with masks, see [`write_masks`].

    Returns:
        Message about what was written; an empty string outside the main process.
    """
    counts = write_masks(options)
    lines = [f"{split}: {kept:,} masks, {rejected:,} rejected" for split, (kept, rejected) in counts.items()]
    written = f"{options.output_dir}: parquet, README.md, and contact sheets to look at"
    return "\n".join([*lines, written]) if counts else ""


def make_masker(
    options: TokenCutOptions | GroundedOptions | Sam3Options | CocoOptions, features: datasets.Features
) -> Masker:
    """Mask maker of a method for images with the given columns, on the accelerator if available.

    Raises:
        OSError, ValueError: a model or file does not exist, or the labels have no names for prompts.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if isinstance(options, CocoOptions):
        from .coco import CocoAnnotations

        return CocoAnnotations(options.annotations, options.category)
    if isinstance(options, GroundedOptions):
        return GroundedSegmentation.from_pretrained(
            prompts_of_labels(features, options.prompts),
            options.detector,
            options.segmenter,
            device,
            box_threshold=options.box_threshold,
        )
    if isinstance(options, Sam3Options):
        try:
            from .sam3 import ConceptSegmentation
        except ImportError as error:  # the lowest transformers that is allowed may not have it
            raise ValueError(
                f"This release of transformers has no SAM 3: `pip install -U transformers`. ({error})"
            ) from error

        prompts = prompts_of_labels(features, options.prompts)
        return ConceptSegmentation.from_pretrained(prompts, options.model, device, threshold=options.threshold)
    settings = {name: getattr(options, name) for name in ("batch_size", "min_pixels", "min_side", "released")}
    settings["refine"] = not options.coarse
    registered = MODELS.get(options.model)
    if registered is not None and registered.load_backbone is not None:
        return TokenCut(registered.load_backbone().to(device), **settings)
    return TokenCut.from_pretrained(options.model, device, **settings)


def write_masks(options: MasksOptions, make_masker: Callable[..., Masker] = make_masker) -> dict[str, tuple[int, int]]:
    """Write images with masks as parquet shards, with a card and contact sheets. Call it again with the same options
    to resume an interrupted run. Launched processes share the images, and the first one writes.

    A warning names classes with fewer than `per_class` masks.

    Args:
        make_masker: returns the mask maker. Digests of its `models` by name, if any, are added to the settings, and
            all rows pass through its `claimed`, if any, in every process.

    Returns:
        Numbers of rows and rejected rows of each split; empty outside the main process.

    Raises:
        ValueError: an image cannot be read, the folder holds something else or is within that of the images, splits
            are joined (`train+validation`), or `per_class` is used without labels or with several processes.
        FileNotFoundError: the images do not exist.
    """
    output_dir, per_class = options.output_dir, options.per_class
    check_output_dir(output_dir, options.images)
    described = {name: _described(value) for name, value in options.of_the_method.items()}
    # The first process compares finished rows with the source, and writes the last shards, while the others wait.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))
    if per_class is not None and state.num_processes > 1:
        raise ValueError(
            "--per_class decides by the masks of a class whether it needs another image, so it works in one process: "
            "leave out `accelerate launch`."
        )
    counts = {}
    with folder_lock(output_dir, "prepare") if state.is_main_process else nullcontext():
        for split in options.split or ["train" if options.set is None else KNOWN_SETS[options.set].splits[0]]:
            with state.main_process_first():  # it unpacks and caches
                rows, columns, total = _open_images(options.images, split, options.set)
            if per_class is not None and "int" not in str(getattr(columns.get("label"), "dtype", "")):
                raise ValueError(
                    f"--per_class counts the masks of each class, but the images have labels of type {columns.get('label')}: "
                    "give images with a column `label` of integers, such as folders of classes, or leave it out."
                )
            features = {"image": datasets.Image(), "mask": datasets.Image()}
            features |= {name: columns[name] for name in ("label", "group", "openly_licensed") if name in columns}
            features |= dict.fromkeys(("file_name", "note"), datasets.Value("string"))
            masker = make_masker(options, columns)
            finish = partial(_with_masks, masker=masker, features=features)
            writer = None
            if state.is_main_process:
                models = {name: model_digest(model) for name, model in getattr(masker, "models", {}).items()}
                writer = ShardWriter(
                    output_dir,
                    "+".join(split_names(split)),  # slices are named after their split
                    datasets.Features(features),
                    {
                        "method": options.METHOD,
                        "images": _described(options.images),
                        "set": options.set,
                        **described,
                        **({"digests": models} if models else {}),
                        "per_class": per_class,
                        "split": split,
                    },
                    title=f"{Path(options.images).name}, masks by {options.METHOD}",
                    text=TEXT[options.METHOD],
                    rows_per_shard=options.rows_per_shard,
                )
            # Annotations are of one image among all rows, of which this process makes the masks of a part.
            rows = getattr(masker, "claimed", iter)(rows)
            # Existing masks need not be decoded.
            rows = ({name: value for name, value in row.items() if name != "mask"} for row in rows)
            if per_class is None:
                written = write_rows(writer, rows, options.skip_bad, finish, total)
                if writer is not None:
                    counts[writer.split] = written
                continue
            chosen = PerClass(per_class, writer)
            finish = chosen.counting(finish)
            counts[writer.split] = write_rows(writer, chosen.rows(rows), options.skip_bad, finish, parts=chosen.parts)
            if lacking := chosen.lacking():
                names = getattr(columns["label"], "names", None)
                classes = ", ".join(
                    f"`{names[label] if names else label}` {count}" for label, count in lacking.items()
                )
                logger.warning(
                    f"Classes of `{writer.split}` that ran out of images before they had {per_class} masks: {classes}. "
                    "Give more images of them, or train with fewer."
                )
        if state.is_main_process:
            save_contact_sheets(output_dir, list(counts))
    return counts


def _open_images(
    images: str, split: str, set_name: str | None
) -> tuple[Iterable[dict], datasets.Features, int | None]:
    """Rows with undecoded images, their columns, and their number if known."""
    if set_name is None:
        rows = find_images(images, split).rows
        return undecoded_rows(rows), rows.features, len(rows)
    kind = KNOWN_SETS[set_name]
    if split not in kind.splits:
        raise ValueError(f"`--set {set_name}` has the splits {', '.join(kind.splits)}, but --split is `{split}`.")
    options = {"split": split} if "split" in kind.options else {}
    source = open_source(set_name, [images], options)
    return source.rows(source.shards), features_of(set_name, options), None


def prompts_of_labels(features: datasets.Features, prompts: Path | None) -> Callable[[int], list[str]]:
    """Function that returns the prompt names of a label: those in the prompts file, or the class name where it has
    none, without underscores and synonyms. The file may have either form of a name.

    Raises:
        ValueError: the labels have no names, the file is not a JSON object, or it has another class, or no list of names for one.
    """
    label = features.get("label")
    if not isinstance(label, datasets.ClassLabel):
        raise ValueError(
            f"The images have labels of type {label}, expected a `ClassLabel` with names to prompt with: "
            '`dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    names = [class_names()[label_of_wnid()[name]] if name in label_of_wnid() else name for name in label.names]
    texts = [name.replace("_", " ").split(",")[0].strip() or name for name in names]  # `great_white_shark, man-eater`
    if prompts is None:
        return {label: [text] for label, text in enumerate(texts)}.get
    try:
        given = json.loads(prompts.read_text(encoding="utf-8-sig"))
        unknown = given.keys() - {*texts, *names, *label.names}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(
            f'`{prompts}` must be a JSON object in UTF-8 such as {{"tench": ["head", "fins"]}}: {error}.'
        ) from error
    if unknown:
        raise ValueError(
            f"`{prompts}` names {len(unknown)} classes that the images do not have, such as `{min(unknown)}`: expected names such as "
            f"`{names[0]}`."
        )
    forms = zip(names, label.names, texts, strict=True)
    lists = [next((given[form] for form in of_label if form in given), [of_label[-1]]) for of_label in forms]
    for name, found in zip(names, lists, strict=True):
        if (
            not isinstance(found, list)
            or not found
            or not all(isinstance(text, str) and text.strip(" .") for text in found)
        ):
            raise ValueError(
                f"`{prompts}` has {json.dumps(found)} for `{name}`: expected a list of names that are not empty."
            )
    return dict(enumerate(lists)).get


def _described(value: object) -> object:
    """Publishable setting: without local folders, and with the digest of a file."""
    path = Path(str(value))
    if path.is_file():
        return f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    return path.name if path.exists() else str(value) if isinstance(value, Path) else value


def _with_masks(decoded: Iterable[DecodedRow], masker: Masker, features: dict) -> list[dict]:
    """Rows to write, with mask and note, and `problem` if rejected."""
    decoded = list(decoded)
    usable = [(row, image) for row, image in decoded if image is not None]
    results = masker([to_rgb(image) for _, image in usable], [row for row, _ in usable])
    result_of = {id(row): result for (row, _), result in zip(usable, results, strict=True)}
    return [_finished(row, result_of.get(id(row)), features) for row, _ in decoded]


def _finished(row: dict, result: MaskResult | None, features: dict) -> dict:
    kept = {name: row.get(name) for name in features}
    if result is None:
        return kept | {"problem": row.get("problem", "image is missing")}
    mask = None if result.mask is None else encode_image(result.mask, file_format="PNG")
    problem = result.rejected or (result.mask and _unfit(result.mask))
    return kept | {"mask": mask, "note": result.note} | ({"problem": problem} if problem else {})


def _unfit(mask: Image.Image) -> str | None:
    """Why a mask tells nothing about object and background, whatever made it, or `None`."""
    share = np.count_nonzero(np.asarray(mask)) / (mask.width * mask.height)
    if not share:
        return "the mask is empty"
    return f"the mask covers {share:.0%} of the image" if share > FULL else None
