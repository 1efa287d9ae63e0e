"""Digests of a model, by which results, runs and masks know what they were made with."""

import copy
import hashlib
import json

import torch
from transformers import PreTrainedModel


# Values of a configuration that change no logit: names, paths, versions, first weights, and the form of the output.
# The class of the model stands for `architectures`, which are set when it is saved, the weights for their `dtype`.
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
    "use_cache",  # which the Trainer sets
}


def model_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that change with any weight, and with whatever else changes what a model computes: its
    class and its configuration, such as the number of heads. Of a PEFT model, that of the merged model.

    Values of [`NOT_COMPUTED`] do not count, nor do those that are the default of their class, so that another option of
    a later version of transformers leaves the digest as it is.
    """
    model = _merged(model)
    defaults = _as_json(model.config.default_config_fields())
    config = {name: value for name, value in _computed(model.config.to_dict()).items() if value != defaults.get(name)}
    facts = [weights_digest(model), type(model).__name__, config]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that change with any weight; of a PEFT model, with those of the merged model.

    Published results name the weights by it. It does not tell what is computed with them, see [`model_digest`].
    """
    digest = hashlib.sha256()
    for tensor in _merged(model).state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _merged(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else model


def _computed(config: dict) -> dict:
    """The values of a configuration, and of those within it, that change what is computed, as JSON values."""
    return {
        name: _computed(value) if isinstance(value, dict) else value
        for name, value in _as_json(config).items()
        if name not in NOT_COMPUTED and not name.startswith("_")
    }


def _as_json(values: dict) -> dict:
    return json.loads(json.dumps(values, default=str))
