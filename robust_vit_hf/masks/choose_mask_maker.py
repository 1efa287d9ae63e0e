"""Masks for labelled images of your own: their own masks, or new ones by the mask maker that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import BaseImageProcessor
from transformers.utils import logging

from ..data.classes import align_labels, class_names_of
from ..data.contact_sheets import CONTACT_SHEET, IN_DOUBT
from ..data.dataset_digest import dataset_identity
from ..data.find_images import Images, find_images, origin_of_masks
from ..data.mask_checks import confirmed
from ..data.schema import LeftOut, check_rows, label_problem, undecoded_rows
from ..data.transforms import input_size
from ..data.write_dataset import RECORD_FILE, REJECTED_FOLDER
from ..models.emoji_shift_model import INSTALL_BACKBONE
from ..models.model_names import BUNDLED_MODEL, MODELS
from ..utils.cache import Cache
from ..utils.environment import install_command
from ..utils.files import read_json
from .alpha import first_cut_out
from .foreground_layer import ConfirmedMasks
from .make_masks import KEPT, Masker, make_masker, write_split
from .options import AlphaOptions, Dinov2Options, GroundedOptions, RembgOptions, Sam3Options, TokenCutOptions
from .tokencut import TokenCut


logger = logging.get_logger(__name__)

AUTO = ("sam3", "grounded", "rembg")  # in the order in which `auto` tries them
OTHERS = {"sam3": Sam3Options, "grounded": GroundedOptions, "rembg": RembgOptions, "alpha": AlphaOptions}
OF_FEATURES = {"dinov2": Dinov2Options, "tokencut": TokenCutOptions}
# Names and descriptions of DINOv2-S, in the order in which they are tried: first the one that needs no network.
DINOV2_SMALL = {
    BUNDLED_MODEL: "DINOv2-S, the bundled backbone",
    MODELS[BUNDLED_MODEL].base_model: "DINOv2-S of the Hub",
}
OF_THE_CLASSIFIER = "the classifier"  # recorded in place of a name


@dataclass(frozen=True)
class MaskSettings:
    method: str | None = None  # of `MASK_METHODS`; by default, `dinov2` for images without masks
    # Model of `rembg`, or ViT whose features are used: by default, the first of [`DINOV2_SMALL`] that can be loaded, or else the classifier.
    mask_model: str | None = None
    model: nn.Module | None = None  # the classifier, which is not needed with `mask_model`
    processor: BaseImageProcessor | None = None
    bf16: bool = False  # whether the features are computed with autocast to bfloat16

    @property
    def shorter_side(self) -> int:
        """Pixels to which larger images are reduced when their masks are written: twice what the classifier sees."""
        return max(448, 2 * max(input_size(self.processor))) if self.processor else 448

    def of_features(self) -> tuple[str, str, TokenCut]:
        """Return method, `mask_model` and mask maker that use a ViT's features. Logs which, if no model was named."""
        settings: dict[str, Any] = {"min_side": TokenCutOptions.min_side, "bf16": self.bf16}
        method = self.method or ("tokencut" if self.mask_model else "dinov2")
        maker = TokenCut if method == "tokencut" else ConfirmedMasks
        if self.mask_model not in (None, OF_THE_CLASSIFIER):
            return method, self.mask_model, maker.from_pretrained(self.mask_model, PartialState().device, **settings)
        for name, described in DINOV2_SMALL.items() if self.mask_model is None else ():
            with suppress(ImportError, OSError):
                made = maker.from_pretrained(name, PartialState().device, **settings)
                logger.warning(f"Masks are made by `{method}`, with the features of {described}.")
                return method, name, made
        no_dinov2 = f"DINOv2-S is not installed ({INSTALL_BACKBONE}) and cannot be loaded from the Hub"
        try:
            cut = TokenCut(self.model.eval(), self.processor, **settings)
        except ValueError as error:
            raise ValueError(
                f"TokenCut needs a plain ViT, which this classifier is not, and {no_dinov2}: name another ViT with --mask_model, or a "
                "folder of masks with --masks."
            ) from error
        if self.mask_model is None:
            logger.warning(f"TokenCut makes masks with the features of the classifier itself: {no_dinov2}.")
        return "tokencut", OF_THE_CLASSIFIER, cut


@lru_cache(maxsize=1)
def choose_mask_maker(settings: MaskSettings, class_names: tuple[str, ...]) -> tuple[str, str | None, Masker]:
    """Return method, mask model and mask maker of settings. `auto` is the first of [`AUTO`] that is installed and whose models can
    be loaded, or else `dinov2`; the log says why."""
    label = datasets.ClassLabel(names=[*class_names]) if class_names else datasets.Value("int64")
    for name in AUTO if settings.method == "auto" else OTHERS.keys() & {settings.method}:
        try:
            masker = make_masker(_options(name, settings.mask_model), datasets.Features({"label": label}))
        except (ImportError, OSError, ValueError) as error:
            if settings.method != "auto":
                raise
            logger.warning(f"Masks cannot be made by `{name}`: {error}")
        else:
            logger.warning(f"Masks are made by `{name}`.")
            return name, settings.mask_model, masker
    return replace(settings, method=None if settings.method == "auto" else settings.method).of_features()


def _options(method: str, mask_model: str | None, source: str = "none", folder: Path = Path()) -> Any:
    given: dict = {"images": source, "output_dir": folder, "skip_bad": True, "rows_per_shard": 100}
    given |= {"model": mask_model} if mask_model else {}
    return (OTHERS | OF_FEATURES)[method](**given)


def makes_masks(images: Images, method: str | None) -> bool:
    """Whether images get new masks: if a method is named, or if they have none."""
    return method not in (None, "auto") or "mask" not in images.rows.column_names


def masked_images(
    output_dir: Path, images: Mapping[str, Images], classes: Sequence[str], settings: MaskSettings
) -> list[Images]:
    """Return images labelled with `classes` and with masks: their own, or new ones, which a later call reads again. Launched processes
    share the work. Images are left out if they cannot be read, or their mask was rejected, empty or full.

    Args:
        output_dir: folder of the results.
        images: by the folder in `output_dir` to which new masks are written, with contact sheets.
        classes: names of the model's classes; labels become indices of them.

    Raises:
        ValueError: images have other classes, or only one of several classes is left.
    """
    try:
        return [_masked(of_place, classes, output_dir, place, settings) for place, of_place in images.items()]
    finally:
        choose_mask_maker.cache_clear()  # one mask maker is used for all images; its models are large


def _chosen_for(images: Images, folder: Path, settings: MaskSettings) -> tuple[str, str | None, Masker | None]:
    """Method, mask model and mask maker of settings; no mask maker if the folder has all masks, by no model that may have changed."""
    method, mask_model, masker = settings.method, settings.mask_model, None
    # As the main process sees it, which may finish the folder before the others look.
    record = read_json(folder / RECORD_FILE)
    is_complete = record and all("kept" in split for split in record["splits"].values())
    (made,) = broadcast_object_list([record["inputs"] if is_complete else None])
    if made:
        if PartialState().is_main_process:
            logger.warning(f"Masks of `{images.name}` are not made again: see `{folder}`.")
        known = {None: ["dinov2"], "auto": [*AUTO, "dinov2"]}.get(method, [method])
        is_default = made.get("model") in (*DINOV2_SMALL, Sam3Options.model, RembgOptions.model, None)
        if mask_model is None and made.get("method") in known and is_default:
            return made["method"], made.get("model"), None
    elif method is None and (example := first_cut_out(images.rows)):
        logger.warning(
            f"Images such as `{example}` are partly transparent: --masks alpha makes masks from their transparency."
        )
    for first in (True, False):  # the main process chooses, since other processes may fail to load its model
        if PartialState().is_main_process is first:
            chosen = replace(settings, method=method, mask_model=mask_model)
            method, mask_model, masker = choose_mask_maker(chosen, class_names_of(images.rows.features) or ())
        method, mask_model = broadcast_object_list([method, mask_model])
    return method, mask_model, masker


def _masked(images: Images, classes: Sequence[str], output_dir: Path, place: str, settings: MaskSettings) -> Images:
    name, folder = images.name, output_dir / place
    origin = images.masks or origin_of_masks(images.source)
    aligned = align_labels(images.rows, classes, name)  # rejects other classes before masks, which take long, are made
    needed = aligned.with_format(None)["label"][:]
    if problem := next(filter(None, (label_problem(label, len(classes)) for label in needed)), None):
        raise ValueError(f"`{name}`: {problem}.")
    if makes_masks(images, settings.method):
        state, (method, mask_model, masker) = PartialState(), _chosen_for(images, folder, settings)
        options = _options(method, mask_model, images.source, folder)
        with Cache(folder / "cache").lock():
            title, rows = f"{name}, masks by {method}", undecoded_rows(images.rows)
            shorter_side = None if method == "alpha" else settings.shorter_side  # reduced images have no alpha
            features = images.rows.features  # all columns of values are kept, since the next start may need others
            values = [key for key, of in features.items() if isinstance(of, datasets.Value | datasets.ClassLabel)]
            kept, identity = (*KEPT, *values), dataset_identity(images.rows)
            write_split(options, "train", identity, rows, features, masker, title, None, kept, shorter_side)
        state.wait_for_everyone()  # the first process has written the last rows
        rows = align_labels(find_images(str(folder), "train").rows, classes, name)  # with masks that were checked
        origin, files = f"made by {method}", sorted((folder / REJECTED_FOLDER).glob("*.parquet"))
        lines = (row for file in files for row in pq.read_table(file, columns=["file_name", "problem"]).to_pylist())
        left_out = [(name, row["file_name"], row["problem"]) for row in lines]
    else:
        rows, uninformative = check_rows(aligned, name, len(classes))
        left_out = [(name, *file_and_reason) for file_and_reason in uninformative]
    left, rejected = {*rows.with_format(None)["label"]}, len(needed) - len(rows)
    lost, notes = ", ".join(classes[label] for label in sorted({*needed} - left)), [*images.notes]
    if lost and len(left) == 1:
        raise ValueError(
            f"Of `{name}`, only images of `{classes[left.pop()]}` are left: all masks of {lost} were rejected, empty or full. Look at the "
            "contact sheets of the masks, and choose other masks (--masks, --mask_model)."
        )
    if rejected:
        told = f"Left out: {rejected} of {len(needed)} images, which cannot be read, or have masks that were rejected, empty or full."
        notes.append(LeftOut(told, left_out))
    if lost:
        notes.append(f"Of these classes, no image is left: {lost}.")
    if doubtful := int((~confirmed(rows)).sum()):
        sheet = folder / f"{CONTACT_SHEET}_train_{IN_DOUBT}.png"
        sheets = f"`{place}/{sheet.name}`" if sheet.is_file() else "the contact sheets of the masks"
        notes.append(
            f"In doubt: {doubtful} of {len(rows)} masks. No composites are made with these images. Look at {sheets}. If "
            f"many are wrong, try a background remover: --masks rembg (`{install_command('masks')}`)."
        )
    return replace(images, rows=rows, masks=origin, rejected=rejected, notes=tuple(notes))
