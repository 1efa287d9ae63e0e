"""`robust-vit masks`: masks for a dataset without masks, written as parquet for `robust-vit train --dataset`."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from PIL import Image
from pyarrow import parquet as pq
from transformers.utils import logging

from ..data.dataset_digest import dataset_identity
from ..data.find_images import find_images, split_names
from ..data.image_sets import open_source
from ..data.known_sets import KNOWN_SETS
from ..data.mask_checks import uninformative_mask
from ..data.schema import undecoded_rows
from ..data.write_dataset import ROWS_PER_PART, DecodedRow, SplitWriter, made_from, write_rows
from ..models.loading import model_digest
from ..utils.cache import Cache
from ..utils.files import check_output_dir
from ..utils.images import encode_image, to_rgb
from ..utils.options import names_of
from ..utils.privacy import is_hub_id
from .alpha import make_alpha_masks
from .by_names import ConceptSegmentation, GroundedSegmentation, prompts_of_labels
from .foreground_layer import ConfirmedMasks
from .options import (
    AlphaOptions,
    CocoOptions,
    Dinov2Options,
    GroundedOptions,
    MasksOptions,
    RembgOptions,
    Sam3Options,
    TokenCutOptions,
)
from .tokencut import MaskResult, TokenCut


logger = logging.get_logger(__name__)

Masker = Callable[[list[Image.Image], list[dict]], list[MaskResult]]

TEXT = {
    "dinov2": "Foreground masks by a linear layer on the features of DINOv2-S, which was trained without masks; those with which TokenCut "
    "(https://huggingface.co/papers/2202.11539) does not agree have the reason in the column `doubt`.",
    "tokencut": "Foreground masks by TokenCut (https://huggingface.co/papers/2202.11539), without annotation.",
    "grounded": "Foreground masks by Grounding DINO and SAM, prompted with names "
    "(https://huggingface.co/papers/2303.05499, https://huggingface.co/papers/2304.02643).",
    "sam3": "Foreground masks by SAM 3, prompted with names (https://huggingface.co/papers/2511.16719).",
    "rembg": "Foreground masks by a background remover of rembg (https://github.com/danielgatis/rembg).",
    "alpha": "Foreground masks from the transparency of the images.",
    "coco": "Foreground masks from annotations in COCO's format.",
}
KEPT = ("label", "group", "openly_licensed")  # columns of the images, if they have them


def make_masker(
    options: Dinov2Options | GroundedOptions | Sam3Options | RembgOptions | AlphaOptions | CocoOptions,
    features: datasets.Features,
) -> Masker:
    """Return the mask maker of a method for images with the given columns, on the accelerator if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if isinstance(options, CocoOptions):
        from .coco import CocoAnnotations

        return CocoAnnotations(options.annotations, options.category)
    if isinstance(options, AlphaOptions):
        return make_alpha_masks
    if isinstance(options, RembgOptions):
        from .background_remover import background_remover

        return background_remover(options.model)
    if isinstance(options, Dinov2Options):
        settings = {name: getattr(options, name) for name in ("batch_size", "min_pixels", "min_side")}
        if not isinstance(options, TokenCutOptions):
            return ConfirmedMasks.from_pretrained(options.model, device, **settings)
        settings |= {"refine": not options.coarse, "released": options.released}
        return TokenCut.from_pretrained(options.model, device, **settings)
    prompts = prompts_of_labels(features, options.prompts)
    if isinstance(options, Sam3Options):
        return ConceptSegmentation.from_pretrained(prompts, options.model, device, threshold=options.threshold)
    models = (options.detector, options.segmenter, device)
    return GroundedSegmentation.from_pretrained(prompts, *models, box_threshold=options.box_threshold)


def prepare_masks(options: MasksOptions, make_masker: Callable[..., Masker] = make_masker) -> str:
    """Write images with masks as parquet, with a card and contact sheets, or resume an interrupted run.
    Launched processes share the images, and the first one writes: it returns what was written."""
    check_output_dir(options.output_dir, options.images)
    # The first process compares finished rows with the source, and writes the last slice, while the others wait.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(hours=12))
    title, lines = f"{Path(options.images).name}, masks by {options.method}", []
    with Cache(options.output_dir / "cache").lock():
        for split in options.split or ["train" if options.set is None else KNOWN_SETS[options.set].splits[0]]:
            with state.main_process_first():  # it unpacks and caches
                if options.set is None:
                    images = find_images(options.images, split).rows
                    rows, columns, total = undecoded_rows(images), images.features, len(images)
                    identity = dataset_identity(images)
                else:
                    of_set = {} if split == KNOWN_SETS[options.set].splits[0] else {"split": split}
                    source = open_source(options.set, [options.images], of_set)
                    rows, columns, total, identity = iter(source), source.features, None, source.identity
            is_countable = "int" in str(getattr(columns.get("label"), "dtype", "")) and state.num_processes == 1
            if options.per_class is not None and not is_countable:
                raise ValueError(
                    "--per_class needs a single process (no `accelerate launch`), and images with a column `label` of integers, such as folders of classes."
                )
            masker = make_masker(options, columns)
            name = "+".join(split_names(split))  # slices are named after their split
            if counted := write_split(options, name, identity, rows, columns, masker, title, total):
                lines.append(f"{name}: {counted[0]:,} with masks, {counted[1]:,} rejected")
    written = f"{options.output_dir}: parquet, README.md, and contact sheets to look at"
    return "\n".join([*lines, written]) if lines else ""


def write_split(
    options: MasksOptions,
    split: str,
    identity: str,
    rows: Iterable[dict],
    columns: datasets.Features,
    masker: Masker | None,
    title: str,
    total: int | None = None,
    kept: Sequence[str] = KEPT,
    shorter_side: int | None = None,
) -> tuple[int, int] | None:
    """Write one split of images with masks to the output folder, see [`prepare_masks`].

    Args:
        identity: identifies the rows.
        rows: rows with undecoded images and `file_name`; `total` is their number, if known. If all have masks, `masker` may be `None`.
        columns: columns of the rows; those named in `kept` are written too.
        shorter_side: length in pixels of the shorter side, to which larger images are reduced; by default, none are.
    """
    features = {"image": datasets.Image(), "mask": datasets.Image()}
    features |= {name: columns[name] for name in kept if name in columns}
    texts = ("file_name", "note", "doubt") if options.method == "dinov2" else ("file_name", "note")
    features |= dict.fromkeys(texts, datasets.Value("string"))
    writer, finish = None, partial(_with_masks, masker=masker, features=features)
    if PartialState().is_main_process:
        inputs = _inputs(options, masker) if masker else made_from(options.output_dir)
        inputs |= {"shorter_side": shorter_side} if shorter_side else {}
        writer = SplitWriter(
            options.output_dir,
            inputs,
            split,
            f"{identity}, {options.per_class or 'all'} of each class",
            datasets.Features(features),
            title=title,
            text=TEXT[options.method],
            rows_per_file=options.rows_per_shard,
            facts={
                "annotations_creators": "found" if options.method in ("alpha", "coco") else "machine-generated",
                "source_datasets": [f"extended|{options.images}" if is_hub_id(options.images) else "extended"],
            },
        )
    # Checked among all rows, since this process makes the masks of only a part of them.
    claimed = getattr(masker, "claimed", iter)(rows)
    rows = ({name: row[name] for name in row if name != "mask"} for row in claimed)  # former masks need not be decoded
    if options.per_class is None or writer is None:
        return write_rows(writer, rows, options.skip_bad, finish, total, shorter_side=shorter_side)
    chosen = PerClass(options.per_class, writer)
    finish = partial(chosen.counted, finish)
    counts = write_rows(writer, chosen.rows(rows), options.skip_bad, finish, parts=chosen.parts)
    if lacking := [label for label in sorted(chosen.labels - {None}) if chosen.kept[label] < options.per_class]:
        names = getattr(columns["label"], "names", None)
        classes = ", ".join(f"`{names[label] if names else label}` {chosen.kept[label]}" for label in lacking)
        logger.warning(
            f"Classes of `{split}` with fewer than {options.per_class} masks, since they have no more images: {classes}. "
            "Give more images of them, or train with fewer masks."
        )
    return counts


class PerClass:
    """Selection of the rows of classes that have fewer than `number` masks yet."""

    def __init__(self, number: int, writer: SplitWriter):
        self.number, self.kept, self.labels = number, Counter(), set()
        tables = [pq.read_table(path, columns=["file_name", "label"]).to_pylist() for path in writer.files]
        self.written = Counter((row["file_name"], row["label"]) for rows in tables for row in rows)

    def rows(self, rows: Iterator[dict]) -> Iterator[dict]:
        for row in rows:
            label = row.get("label")
            self.labels.add(label)
            if self.kept[label] < self.number:
                yield row
                if self.written[row["file_name"], label]:
                    self.written[row["file_name"], label] -= 1
                    self.kept[label] += 1

    def parts(self, rows: Iterator[dict]) -> Iterator[list[dict]]:
        """Cut the rows into parts. The masks of a part are counted before the next part begins."""
        part, asked = [], Counter()
        for row in rows:
            label = row.get("label")
            if len(part) == ROWS_PER_PART or self.kept[label] < self.number <= self.kept[label] + asked[label]:
                yield part
                part, asked = [], Counter()
            if self.kept[label] < self.number:
                part.append(row)
                asked[label] += 1
        if part:
            yield part

    def counted(
        self, finish: Callable[[Iterator[DecodedRow]], list[dict]], decoded: Iterator[DecodedRow]
    ) -> list[dict]:
        """Finish rows by `finish`, see [`write_rows`], and count their masks."""
        rows = finish(decoded)
        self.kept.update(row["label"] for row in rows if "problem" not in row)
        return rows


def _with_masks(decoded: Iterable[DecodedRow], masker: Masker, features: dict) -> list[dict]:
    decoded = list(decoded)
    usable = [(row, image) for row, image in decoded if image is not None]
    results, finished = iter(masker([to_rgb(image) for _, image in usable], [row for row, _ in usable])), []
    for row, image in decoded:
        kept, problem = {name: row.get(name) for name in features}, row.get("problem", "image is missing")
        if image is not None:
            result = next(results)
            mask = None if result.mask is None else encode_image(result.mask, file_format="PNG")
            problem = result.rejected or (result.mask and uninformative_mask(result.mask))
            kept |= {"mask": mask, "note": result.note, "doubt": result.doubt}
        finished.append(kept | ({"problem": problem} if problem else {}))
    return finished


def _inputs(options: MasksOptions, masker: Masker) -> dict:
    models = {name: model_digest(model) for name, model in getattr(masker, "models", {}).items()}
    others = {*names_of(MasksOptions), "batch_size"}
    names = [name for name in names_of(type(options)) if name not in others]
    settings = {name: _described(getattr(options, name)) for name in names}
    settings |= {"bf16": True} if getattr(masker, "bf16", False) else {}
    return {"command": "masks", "method": options.method, **settings} | ({"digests": models} if models else {})


def _described(value: object) -> object:
    path = Path(str(value))
    if path.is_file():
        return f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    return path.name if path.exists() else str(value) if isinstance(value, Path) else value
