"""LoRA adapters and digests of their base models."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.model_digest import model_digest
from ..models.model_names import MODELS, resolve


def add_lora(model: PreTrainedModel, rank: int, base: str) -> nn.Module:
    """Add a new LoRA adapter to all linear layers of a model loaded from `base`, with alpha twice the rank."""
    from peft import LoraConfig

    return add_adapter(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), base)


def add_adapter(model: nn.Module, config: Any, base: str | None) -> nn.Module:
    """Add a new adapter of a `PeftConfig` to a model loaded from `base`; `None` for one in memory."""
    from peft import get_peft_model

    adapted = get_peft_model(model, config)
    for name, module in adapted.named_modules():
        if getattr(module, "q_bias", None) is not None and hasattr(getattr(module, "qkv", None), "base_layer"):
            raise ValueError(
                f"An adapter of `{name}.qkv` has no effect, since timm reads its weight past the adapter: finetune all weights instead."
            )
    if base is not None:
        # The saved adapter names its base; PEFT would name the cache folder. Folders are named by absolute path, which
        # cannot be mistaken for a Hub id and is never uploaded.
        name = resolve(base)
        of_adapter = adapted.peft_config["default"]
        is_folder = name not in MODELS and Path(name).exists()
        of_adapter.base_model_name_or_path = str(Path(name).resolve()) if is_folder else name
    return adapted


def base_digest(model: nn.Module) -> str | None:
    """Digest of a PEFT model's base, for the check of [`load_model`]. `None` without an adapter, or if the base's weights
    are not known: in lower precision than on loading, or with biases trained in place."""
    configs = getattr(model, "peft_config", {}).values()
    if not configs or any(getattr(config, "bias", "none") != "none" for config in configs):
        return None
    from peft.utils import ModulesToSaveWrapper

    base = copy.deepcopy(model)
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # PEFT would leave the trained copy
            base.set_submodule(name, module.original_module)
    base = base.unload()
    if {value.dtype for value in base.state_dict().values() if value.is_floating_point()} != {torch.float32}:
        return None
    return model_digest(base)
