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
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",  # set by the Trainer
}


def model_digest(model: PreTrainedModel, weights: str | None = None) -> str:
    """16 hexadecimal digits that change with the model's weights, class, and configuration where it affects the
    output, such as the number of heads. For a PEFT model, the digest of the merged model.

    Ignores values of [`NOT_COMPUTED`] and defaults, so that new options in later versions of transformers do not
    change the digest.

    Args:
        weights: its [`weights_digest`], if that is known already.
    """
    model = _merged(model)
    defaults = _as_json(type(model.config)().to_dict())
    config = {name: value for name, value in _computed(model.config.to_dict()).items() if value != defaults.get(name)}
    facts = [weights or weights_digest(model), type(model).__name__, config]
    return json_digest(facts)


def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that change with the weights; for a PEFT model, the merged ones.

    Identifies the weights in published results. For what is computed with them, see [`model_digest`].
    """
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
