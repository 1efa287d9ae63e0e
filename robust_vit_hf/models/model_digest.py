"""Digests of a model, recorded with results, runs and masks."""

import copy
import hashlib
import json

import torch
from transformers import PreTrainedModel

from ..utils.files import json_digest


# Configuration values that change no logits: names, paths, versions, initialisation, and output format.
# `architectures`, set on saving, is covered by the model's class, and `dtype` by the weights.
NOT_COMPUTED = {
    *("architectures", "attn_implementation", "auto_map", "dtype", "finetuning_task", "id2label", "initializer_range"),
    *("label2id", "output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype"),
    *("transformers_version", "use_cache"),  # the Trainer sets the latter
}


def model_digest(model: PreTrainedModel, weights: str | None = None) -> str:
    """16 hexadecimal digits that change with the weights, merged ones for PEFT, the class, and the configuration where it affects the
    output, such as the number of heads. `weights` is the [`weights_digest`], if that is known already.

    Defaults do not count, so that new options in later versions of transformers do not change the digest.
    """
    model = _merged(model)
    defaults = _as_json(type(model.config)().to_dict())
    config = {name: value for name, value in _computed(model.config.to_dict()).items() if value != defaults.get(name)}
    return json_digest([weights or weights_digest(model), type(model).__name__, config])


def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that identify the weights, merged ones for PEFT, in published results."""
    digest = hashlib.sha256()
    for tensor in _merged(model).state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _merged(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else model


def _computed(config: dict) -> dict:
    """Values of a configuration, also nested, that affect the output, as JSON values."""
    return {
        name: _computed(value) if isinstance(value, dict) else value
        for name, value in _as_json(config).items()
        if name not in NOT_COMPUTED and not name.startswith("_")
    }


def _as_json(values: dict) -> dict:
    return json.loads(json.dumps(values, default=str))
