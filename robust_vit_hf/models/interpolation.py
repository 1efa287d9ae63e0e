"""Weight interpolation between a model before and after finetuning, (1 − alpha) · before + alpha · after, as WiSE-FT does."""

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


def interpolate(before: PreTrainedModel, after: PreTrainedModel, alpha: float) -> PreTrainedModel:
    """Model with the weights (1 − alpha) · before + alpha · after. It costs the same at inference, and often keeps the accuracy on the
    training distribution and much of the gain under distribution shift.

    The result is a copy of `after` (its configuration, dtype, device and mode) with mixed floating-point parameters and buffers, running
    statistics included, computed in fp32, or in fp64 for those in fp64. Integers, such as counts of batches, are those of `after`,
    or of `before` for 0. The weights are those of `before` for 0 and of `after` for 1, bit by bit. Models that do not fit are refused, see
    [`check_alike`].

    Source: https://huggingface.co/papers/2109.01903
    """
    check_alike(before, after)
    start, end, mixed = before.state_dict(), after.state_dict(), copy.deepcopy(after)
    with torch.no_grad():
        for name, tensor in mixed.state_dict().items():
            value = start[name].to(tensor.device)
            if alpha == 0:  # `lerp` would lose the sign of zeros
                tensor.copy_(value)
            elif alpha < 1 and tensor.is_floating_point():  # half precision is computed in fp32
                tensor.copy_(torch.lerp(value, end[name], alpha))
    return mixed


def check_alike(before: PreTrainedModel, after: PreTrainedModel) -> None:
    """Check that two models differ in no architecture, label name, nor name, shape or dtype of a weight."""
    settings = ("num_labels", "num_attention_heads", "hidden_act", "layer_norm_eps")  # not all visible in the weights
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
            f"The weights cannot be mixed: {first}. Give the model that the other one was finetuned from. If only the names of the classes "
            "differ, copy `id2label` and `label2id` from one `config.json` to the other."
        )


def warn_of_other_images(before: BaseImageProcessor, after: BaseImageProcessor) -> None:
    """Warn if two models were not given the same images, so that their weights may not fit each other."""
    first, second = before.to_dict(), after.to_dict()
    if differing := sorted(name for name in first | second if first.get(name) != second.get(name)):
        logger.warning(
            f"The image processors before and after differ in {', '.join(differing)}. Mixtures get the images of the one after: compare "
            "them with a model that gets these images too."
        )


def write_mixture(before: str, after: str, alpha: float, output: Path) -> None:
    """Write a mixed model folder atomically, with `interpolation.json`, and the image processor of `after`, or of `before` for 0."""
    mixture = {"alpha": alpha, "before": public_name(before), "after": public_name(after)}
    with atomic_folder(output) as folder:
        mixed = interpolate(load_model(before), load_model(after), alpha)
        processor = load_processor(after if alpha else before, "model", mixed)
        if 0 < alpha < 1:
            with suppress(OSError):  # that of the model before is not needed
                warn_of_other_images(load_processor(before, "model", mixed), processor)
        mixed.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / INTERPOLATION_FILE, mixture)
