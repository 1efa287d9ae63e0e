"""LoRA adapters."""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

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
