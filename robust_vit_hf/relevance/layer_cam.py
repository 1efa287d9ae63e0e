"""LayerCAM, for classifiers without a relevance map, such as convolutional, windowed and hierarchical models."""

import torch
from torch import nn
from transformers.utils import ModelOutput

from .architectures import ImageModel, NoRelevanceMap, unwrap_pretrained, why_no_map
from .attribution import Target
from .hooks import hooks_of_this_thread
from .relevance_map import RelevanceOutput, make_output, min_max, relevance_map, target_logits, upsample


RELEVANCE, LAYER_CAM = "relevance", "LayerCAM"  # names of maps, wherever they are shown
# The outputs of these are not the features of a stage, but copies, or projections and probabilities within an attention.
SKIPPED = (nn.Linear, nn.Dropout, nn.Softmax, nn.Identity)


def map_name(model: nn.Module, pixel_values: torch.Tensor | None = None) -> str | None:
    """Name of the map of [`class_map`]: `relevance` or `LayerCAM`; `None` for functions without gradients. A torch module of a user is tried on
    the first `pixel_values` `(B, 3, H, W)`; before, it is `None` too."""
    if why_no_map(model) is None:
        return RELEVANCE
    has_layer_cam = getattr(unwrap_pretrained(model), "has_layer_cam", None)
    return LAYER_CAM if has_layer_cam is None or has_layer_cam(pixel_values) else None


def class_map(
    model: nn.Module | ImageModel, pixel_values: torch.Tensor, target: Target = None, *, check_finite: bool = True
) -> RelevanceOutput:
    """[`relevance_map`], or for models without a relevance map [`layer_cam`]."""
    method = relevance_map if why_no_map(model) is None else layer_cam
    return method(model, pixel_values, target, check_finite=check_finite)


def on_grid(output: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor | None:
    """View `(B, C, h, w)` of features `(B, C, h, w)`, `(B, h, w, C)` or `(B, T, C)`, which may have prefix tokens. `None` if
    they do not lie on a grid of more than one cell with the proportions of the image."""
    ratio = image_size[0] / image_size[1]

    def sides(count: int) -> tuple[int, int]:
        return round((count * ratio) ** 0.5), round((count / ratio) ** 0.5)

    if output.dim() == 4:
        for view in (output, output.movedim(3, 1)):
            height, width = view.shape[2:]
            if height * width > 1 and sides(height * width) == (height, width):
                return view
    if output.dim() == 3 and output.shape[2] > 1:
        for prefix in range(min(6, output.shape[1] - 1)):  # the CLS token and up to four registers
            height, width = sides(output.shape[1] - prefix)
            if height * width == output.shape[1] - prefix:
                return output[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
    return None


def layer_cam(
    model: nn.Module | ImageModel, pixel_values: torch.Tensor, target: Target = None, *, check_finite: bool = True
) -> RelevanceOutput:
    """LayerCAM of the last layer whose output A lies on a grid and affects the explained logit: the positive part of the sum
    over the channels of (∂logit/∂A)⁺ ⊙ A, upsampled and scaled to [0, 1]. For evaluation only: maps and logits are detached.

    Args:
        model: any differentiable image classifier, in `eval()` mode. Its parameters may be frozen.
        pixel_values, target, check_finite: see [`relevance_map`].

    Raises:
        NoRelevanceMap: no layer has such an output.
        ValueError: as in [`relevance_map`].

    Source: https://doi.org/10.1109/TIP.2021.3089943
    """
    known, size = ImageModel(model), tuple(pixel_values.shape[2:])
    outputs: list[torch.Tensor] = []

    def record(module, args, output):
        output = output[0] if isinstance(output, tuple | ModelOutput) and len(output) else output
        if isinstance(output, torch.Tensor) and output.requires_grad and not isinstance(module, SKIPPED):
            if output.shape[:1] == pixel_values.shape[:1] and on_grid(output, size) is not None:
                outputs.append(output)

    hooks = [(module.register_forward_hook, record) for module in known.pretrained.modules()]
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixel_values.detach().clone().requires_grad_()  # gives frozen layers a graph too
        with hooks_of_this_thread(*hooks):
            logits = known.logits(pixels.clone())  # a layer may work in place, which a leaf does not allow
        score = target_logits(logits, target).sum()
        for output in reversed(outputs if score.requires_grad else []):
            (gradient,) = torch.autograd.grad(score, output, retain_graph=True, materialize_grads=True)
            weights = on_grid(gradient, size).float()
            if weights.any():  # all 0 if the head reads only the CLS token of this output
                cam = (weights.clamp(min=0) * on_grid(output.detach(), size).float()).sum(dim=1, keepdim=True)
                return make_output(min_max(upsample(cam.clamp(min=0), size)), logits.detach(), check_finite)
    raise NoRelevanceMap(f"`{known.name}` has no LayerCAM: no layer whose output affects the logits lies on a grid.")
