"""Models by name: the paper's seven, and the bundled one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:  # the command line reads the names without waiting for transformers
    from transformers import PreTrainedModel


CONVERSION_FILE = "conversion.json"  # beside converted weights: what they were converted from


@dataclass(frozen=True)
class RegisteredModel:
    """A model that commands take by name.

    Args:
        hub_ids: where the weights are on the Hub; the first is loaded. None for a bundled model.
        paper_name: what the paper calls it; `None` for a model that it does not have.
        license: of the weights, as their card on the Hub says.
        base_model: Hub id of what it was made from, for model cards; the first of `hub_ids` by default.
        load: gives a bundled model.
        image_size: side of the images that a bundled model was trained on, in pixels.
        load_backbone: gives the self-supervised model that a bundled one was made from.
        note: what a model card must say of a bundled model.
    """

    hub_ids: tuple[str, ...] = ()
    paper_name: str | None = None
    license: str = "apache-2.0"
    base_model: str | None = None
    load: Callable[[], PreTrainedModel] | None = None
    image_size: int | None = None
    load_backbone: Callable[[], PreTrainedModel] | None = None
    note: str | None = None


def _load_emoji_shift() -> PreTrainedModel:
    from ..emoji_shift.model import load_biased_model

    return load_biased_model()


def _load_dinov2() -> PreTrainedModel:
    from ..emoji_shift.model import load_backbone

    return load_backbone().eval()


# AugReg's weights are timm's, and are converted when they are loaded.
MODELS = {
    "vit-b": RegisteredModel(("google/vit-base-patch16-224", "timm/vit_base_patch16_224.orig_in21k_ft_in1k"), "ViT-B"),
    "vit-l": RegisteredModel(("google/vit-large-patch16-224",), "ViT-L"),
    "augreg-s": RegisteredModel(("timm/vit_small_patch16_224.augreg_in21k_ft_in1k",), "AR-S"),
    "augreg-b": RegisteredModel(("timm/vit_base_patch16_224.augreg_in21k_ft_in1k",), "AR-B"),
    "augreg-l": RegisteredModel(("timm/vit_large_patch16_224.augreg_in21k_ft_in1k",), "AR-L"),
    "deit-s": RegisteredModel(("facebook/deit-small-patch16-224", "timm/deit_small_patch16_224.fb_in1k"), "DeiT-S"),
    "deit-b": RegisteredModel(("facebook/deit-base-patch16-224", "timm/deit_base_patch16_224.fb_in1k"), "DeiT-B"),
    "emoji-shift": RegisteredModel(
        base_model="facebook/dinov2-small",
        load=_load_emoji_shift,
        image_size=112,
        load_backbone=_load_dinov2,
        note="`emoji-shift` is the bundled model of `robust-vit-hf`: a DINOv2-S/14 that was trained, on purpose, to decide by "
        'the background of small pictures. "Before" is that model here, and not DINOv2.',
    ),
}


def resolve(name: str) -> str:
    """What is loaded for a name: the Hub id of a registered model, and anything else unchanged."""
    entry = MODELS.get(name)
    return entry.hub_ids[0] if entry is not None and entry.hub_ids else name


def find_model(source: str) -> str | None:
    """Name of the registered model whose weights a source holds, or `None`.

    Args:
        source: name, Hub id, or folder: of a conversion of [`convert`], or a snapshot of a model of timm.
    """
    config, conversion = Path(source, "config.json"), Path(source, CONVERSION_FILE)
    identities = {source}
    if conversion.is_file():
        identities = {json.loads(conversion.read_text(encoding="utf-8"))["source"]}
    elif config.is_file():
        settings = json.loads(config.read_text(encoding="utf-8"))
        identities = {f"timm/{settings.get('architecture')}.{settings.get('pretrained_cfg', {}).get('tag')}"}
    return next((name for name, entry in MODELS.items() if identities & {name, *entry.hub_ids}), None)
