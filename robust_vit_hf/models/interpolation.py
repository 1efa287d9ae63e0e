"""Interpolation between the weights of a model before and after finetuning, as in WiSE-FT."""

import copy
from contextlib import suppress
from pathlib import Path

import torch
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

from ..utils.files import atomic_folder, write_json
from ..utils.privacy import public_name
from .image_processors import load_processor
from .loading import load_model


logger = logging.get_logger(__name__)

INTERPOLATION_FILE = "interpolation.json"


def interpolate(before: PreTrainedModel, after: PreTrainedModel, weight: float) -> PreTrainedModel:
    """Model with the weights (1 − w) · before + w · after. It is as fast as one of the two, which must be alike, see [`check_alike`].

    Returns:
        Copy of `after` with interpolated floating-point parameters and buffers, computed in fp32 or fp64. Integers are
        those of `after`. For w = 0 and w = 1, all are those of `before` and `after`, bit by bit.

    Source: https://huggingface.co/papers/2109.01903
    """
    check_alike(before, after)
    start, end, mixed = before.state_dict(), after.state_dict(), copy.deepcopy(after)
    with torch.no_grad():
        for name, tensor in mixed.state_dict().items():
            value = start[name].to(tensor.device)
            if weight == 0:  # copied, since `lerp` would lose the sign of zeros
                tensor.copy_(value)
            elif weight < 1 and tensor.is_floating_point():  # torch computes `lerp` of half precision in fp32
                tensor.copy_(torch.lerp(value, end[name], weight))
    return mixed


def check_alike(before: PreTrainedModel, after: PreTrainedModel) -> None:
    """Check that two models have the same architecture, names of labels, and names, shapes and dtypes of weights."""
    settings = ("num_labels", "num_attention_heads", "hidden_act", "layer_norm_eps")  # not all show in the weights
    facts = [
        {"architecture": type(model).__name__}
        | {name: getattr(model.config, name, None) for name in settings}
        | {name: f"{tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()}
        | {f"id2label[{label}]": name for label, name in model.config.id2label.items()}
        for model in (before, after)
    ]
    pairs = {name: [fact.get(name, "missing") for fact in facts] for name in facts[0] | facts[1]}
    if unlike := {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}:
        first = "; ".join(f"`{name}` is {old} before and {new} after" for name, (old, new) in list(unlike.items())[:3])
        raise ValueError(
            f"The weights cannot be interpolated: {first}. Give a finetuned model and the model it was finetuned from. If only the names "
            "of the classes differ, copy `id2label` and `label2id` from one `config.json` to the other."
        )


def warn_of_other_images(before: BaseImageProcessor, after: BaseImageProcessor) -> None:
    """Warn if the image processors of two models differ, since their weights may then not fit together."""
    first, second = before.to_dict(), after.to_dict()
    if differing := sorted(name for name in first | second if first.get(name) != second.get(name)):
        logger.warning(
            f"The image processors of the two models differ in {', '.join(differing)}. Interpolated models use the processor of the "
            "finetuned model: compare them only with models that use it too."
        )


def write_interpolated(before: str, after: str, weight: float, output: Path) -> None:
    """Write the folder of an interpolated model, with `interpolation.json`, and the image processor of `after` (of `before`
    if the weight is 0)."""
    with atomic_folder(output) as folder:
        model = interpolate(load_model(before), load_model(after), weight)
        processor = load_processor(after if weight else before, "model", model)
        if 0 < weight < 1:
            with suppress(OSError):  # `before` may have no processor, and none is needed
                warn_of_other_images(load_processor(before, "model", model), processor)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        record = {"interpolation_weight": weight, "before": public_name(before), "after": public_name(after)}
        write_json(folder / INTERPOLATION_FILE, record)
