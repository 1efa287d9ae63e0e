"""Masks for labelled images of your own: those that they have, or new ones, by the features of a ViT or by class names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data.find_images import Images, find_images, origin_of_masks
from ..data.label_mapping import align_labels, class_names_of
from ..data.row_checks import check_rows
from ..data.schema import undecoded_rows
from ..utils.stage import Stage
from .choose_mask_maker import BY_NAMES, MaskSettings, choose_mask_maker
from .make_masks import KEPT, write_split
from .options import TokenCutOptions


@dataclass(frozen=True)
class MaskedImages:
    """Images with masks. Left out are those that cannot be read, and those whose mask was rejected, empty or full."""

    dataset: datasets.Dataset  # rows with `image`, `mask` and `label`, an index of the model's classes
    masks: str  # where the masks come from
    rejected: int  # number of images left out
    lost: tuple[str, ...] = ()  # names of classes of which nothing is left

    @property
    def notes(self) -> list[str]:
        notes = []
        if self.rejected:
            notes.append(
                f"{self.rejected} images are left out: they cannot be read, or their masks were rejected, empty or full."
            )
        if self.lost:
            notes.append(f"Of these classes, no image is left: {', '.join(self.lost)}.")
        return notes


def masked_images(
    images: Images,
    name: str,
    classes: Sequence[str],
    folder: Path,
    settings: MaskSettings,
    columns: Sequence[str] = (),
) -> MaskedImages:
    """Images labelled with `classes` and masked: with masks that they have, or new ones, which are kept in `folder` with contact
    sheets and the `columns` of the images. Called again, finished masks are read. Launched processes share the work."""
    origin = origin_of_masks(images.source)
    aligned = align_labels(images.rows, classes, name)  # refuses other classes before masks, which take long, are made
    needed = aligned.with_format(None)["label"][:]
    if settings.method is not None or "mask" not in images.rows.column_names:
        state, method, mask_model, masker = PartialState(), settings.method or "tokencut", settings.mask_model, None
        named = class_names_of(images.rows.features) or ()
        for first in (True, False):  # the main process chooses, since others may fail to load what it has
            if state.is_main_process is first:
                chosen = replace(settings, method=method, mask_model=mask_model)
                method, mask_model, masker = choose_mask_maker(chosen, named)
            method, mask_model = broadcast_object_list([method, mask_model])
        given: dict[str, Any] = {"images": images.source, "output_dir": folder}
        given |= {"skip_bad": True, "rows_per_shard": 100}
        options = BY_NAMES[method](**given) if method in BY_NAMES else TokenCutOptions(**given, model=mask_model)
        with Stage(folder, {}).lock() if state.is_main_process else nullcontext():
            title, rows = f"{name}, masks by {method}", undecoded_rows(images.rows)
            write_split(options, "train", rows, images.rows.features, masker, title, kept=(*KEPT, *columns))
        state.wait_for_everyone()  # the first process has written the last rows
        aligned = align_labels(find_images(str(folder), "train").rows, classes, name)
        origin = f"made by {method}"
    rows = check_rows(aligned, name, len(classes))
    left = {*rows.with_format(None)["label"]}
    lost = tuple(classes[label] for label in sorted({*needed} - left))
    if lost and len(left) == 1:
        raise ValueError(
            f"Of `{name}`, only images of `{classes[left.pop()]}` are left: all masks of {', '.join(lost)} were rejected, empty or full. "
            "Look at the contact sheets of the masks, and give others (--masks, --mask_model)."
        )
    return MaskedImages(rows, origin, len(needed) - len(rows), lost)
