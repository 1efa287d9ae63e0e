"""Digest of a model's weights, which identifies them in cached results."""

import copy
import hashlib

import torch
from transformers import PreTrainedModel


def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that change with any weight; of a PEFT model, with those of the merged model."""
    if hasattr(model, "peft_config"):
        model = copy.deepcopy(model).merge_and_unload()
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
