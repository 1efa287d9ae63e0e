"""LoRA adapters."""

from torch import nn
from transformers import PreTrainedModel

from ..models.registry import resolve


def add_lora(model: PreTrainedModel, rank: int, base: str) -> nn.Module:
    """Wrap a model with a new LoRA adapter over all of its linear layers.

    Args:
        rank: of the adapter; its alpha is twice that.
        base: name, Hub id or folder that the model was loaded from, by which the saved adapter names its base.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
    """
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    # The library would name the folder of the cache that the base was loaded from.
    adapted.peft_config["default"].base_model_name_or_path = resolve(base)
    return adapted
