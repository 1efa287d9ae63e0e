"""LoRA adapters."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..models.model_names import MODELS, resolve


def add_lora(model: PreTrainedModel, rank: int, base: str) -> nn.Module:
    """Add a LoRA adapter to all linear layers of a model loaded from `base`, with alpha twice the rank."""
    from peft import LoraConfig

    return add_adapter(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), base)


def add_adapter(model: nn.Module, config: Any, base: str | None) -> nn.Module:
    """Add an adapter to a model. `config` is a `PeftConfig`, `base` the source of the model if it was loaded."""
    from peft import get_peft_model

    adapted = get_peft_model(model, config)
    for name, module in adapted.named_modules():
        if getattr(module, "q_bias", None) is not None and hasattr(getattr(module, "qkv", None), "base_layer"):
            raise ValueError(
                f"An adapter of `{name}.qkv` would have no effect, since timm reads the weights directly: exclude it."
            )
    if base is not None:
        # PEFT would name the cache folder as the base. A folder is named by its absolute path, which
        # cannot be mistaken for a Hub id and is never uploaded.
        name = resolve(base)
        is_folder = name not in MODELS and Path(name).exists()
        adapted.peft_config["default"].base_model_name_or_path = str(Path(name).resolve()) if is_folder else name
    return adapted
