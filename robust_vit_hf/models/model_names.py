"""Registered models: the seven of the paper, and the bundled one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wrapt import lazy_import

from ..utils.files import read_json
from ..utils.options import did_you_mean
from ..utils.privacy import check_on_hub, is_hub_id


if TYPE_CHECKING:  # the command line does not import transformers for names
    from transformers import PreTrainedModel


SAVED_BY_TIMM = 'timm.models.save_for_hf(model, "my-model", model_config={"label_names": classes})'
CONVERSION_FILE = "conversion.json"  # in the folder of converted weights: their source
BUNDLED_MODEL, _BUNDLED_MODULE = "emoji-shift", "robust_vit_hf.models.emoji_shift_model"


@dataclass(frozen=True)
class RegisteredModel:
    """A model that commands accept by name: on the Hub, or bundled. Only bundled models have the fields after `license`.

    Args:
        hub_ids: Hub ids of its weights, of which the first is loaded.
        base_model, note: Hub id of its base, and a remark, for model cards.
        load_backbone: function that loads its self-supervised base.
    """

    hub_ids: tuple[str, ...] = ()
    paper_name: str | None = None
    license: str = "apache-2.0"
    base_model: str | None = None
    load: Callable[[], PreTrainedModel] | None = None
    image_size: int | None = None
    load_backbone: Callable[[], PreTrainedModel] | None = None
    note: str | None = None


# The weights of AugReg are in the format of timm, and are converted when they are loaded.
MODELS = {
    "vit-b": RegisteredModel(("google/vit-base-patch16-224", "timm/vit_base_patch16_224.orig_in21k_ft_in1k"), "ViT-B"),
    "vit-l": RegisteredModel(("google/vit-large-patch16-224",), "ViT-L"),
    "augreg-s": RegisteredModel(("timm/vit_small_patch16_224.augreg_in21k_ft_in1k",), "AR-S"),
    "augreg-b": RegisteredModel(("timm/vit_base_patch16_224.augreg_in21k_ft_in1k",), "AR-B"),
    "augreg-l": RegisteredModel(("timm/vit_large_patch16_224.augreg_in21k_ft_in1k",), "AR-L"),
    "deit-s": RegisteredModel(("facebook/deit-small-patch16-224", "timm/deit_small_patch16_224.fb_in1k"), "DeiT-S"),
    "deit-b": RegisteredModel(("facebook/deit-base-patch16-224", "timm/deit_base_patch16_224.fb_in1k"), "DeiT-B"),
    BUNDLED_MODEL: RegisteredModel(
        base_model="facebook/dinov2-small",
        load=lazy_import(_BUNDLED_MODULE, "load_biased_model"),
        image_size=112,
        load_backbone=lazy_import(_BUNDLED_MODULE, "load_backbone"),
        note="`emoji-shift` is the bundled model of `robust-vit-hf`: a DINOv2-S/14 trained on purpose to decide by the "
        'background of small pictures. In the results, "before" is this model.',
    ),
}


def check_model(name: str) -> None:
    """Raise an error for a name that cannot be a model or its folder, before the Hub or a library reports something misleading."""
    path = Path(name)
    if path.is_file():
        by_timm = f"If these are weights of timm, `{SAVED_BY_TIMM}` writes such a folder"
        raise ValueError(
            f"`{name}` is a file. Expected a folder with `config.json` and weights, or a Hub id. {by_timm}."
        )
    if not path.is_dir():
        if not is_hub_id(name):
            similar = did_you_mean(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
            expected = f"a folder, a registered name, or a Hub id of the form `owner/name`{similar}"
            raise FileNotFoundError(f"`{name}` cannot be loaded: there is no such folder. Expected {expected}")
        check_on_hub(name)
    elif not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        inside = [str(config.parent) for config in sorted(path.glob("*/config.json"))]
        other = f" Did you mean the model `{inside[-1]}` (one of {len(inside)} in this folder)?" if inside else ""
        raise ValueError(f"`{name}` has neither `config.json` nor `adapter_config.json`, so it is not a model.{other}")
    for file in path.glob("*"):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs"):
            raise ValueError(
                f"`{file}` is a pointer of Git LFS, not the file itself. Run `git lfs pull` in its folder."
            )


def resolve(name: str) -> str:
    """Hub id of a registered model, given by its name. Any other name is returned unchanged."""
    return MODELS[name].hub_ids[0] if name in MODELS and MODELS[name].hub_ids else name


def registered_of(run: dict) -> str | None:
    """Registered model that a run started from, by its `run.json`, which version 0.2.0 wrote without `registered`."""
    return run.get("registered", run.get("finetuned_from"))


def find_model(source: str) -> str | None:
    """Name of the registered model with the weights of a name, Hub id, converted folder or folder of timm. Since timm keeps
    the tag of the weights in finetuned models, only folders with 1,000 classes count."""
    if source in MODELS:
        return source
    config, conversion = Path(source, "config.json"), Path(source, CONVERSION_FILE)
    identities = {source}
    if conversion.is_file():
        identities = {read_json(conversion)["source"]} - {*MODELS}  # the source may be a folder with such a name
    elif settings := read_json(config):
        tag = settings.get("pretrained_cfg", {}).get("tag") if settings.get("num_classes") == 1000 else None
        identities = {f"timm/{settings.get('architecture')}.{tag}"}
    return next((name for name, entry in MODELS.items() if identities & {name, *entry.hub_ids}), None)
