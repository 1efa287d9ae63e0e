"""Adapters: a new LoRA, and the base that an adapter is saved for."""

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.digest import model_digest
from ..models.registry import resolve


def add_lora(model: PreTrainedModel, rank: int, base: str) -> nn.Module:
    """Wrap a model, loaded from `base`, with a new LoRA adapter over all of its linear layers, whose alpha is twice the rank.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
    """
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    # The saved adapter names its base; PEFT would name the folder in the cache. A folder is named by its absolute path, which is
    # not taken for a Hub id elsewhere, and so never uploaded.
    name = resolve(base)
    adapted.peft_config["default"].base_model_name_or_path = str(Path(name).resolve()) if Path(name).exists() else name
    return adapted


def base_digest(model: nn.Module) -> str | None:
    """Digest of the base of a PEFT model, by which [`load_model`] knows it again.

    `None` without an adapter, and where the base cannot be told: in lower precision than it is loaded in, or with biases
    that the adapter trains within it.
    """
    configs = getattr(model, "peft_config", {}).values()
    if not configs or any(getattr(config, "bias", "none") != "none" for config in configs):
        return None
    from peft.utils import ModulesToSaveWrapper

    base = copy.deepcopy(model)
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # of which PEFT would leave the trained copy
            base.set_submodule(name, module.original_module)
    base = base.unload()
    if {value.dtype for value in base.state_dict().values() if value.is_floating_point()} != {torch.float32}:
        return None
    return model_digest(base)
