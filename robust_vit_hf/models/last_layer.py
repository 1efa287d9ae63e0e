"""The last linear layer of a classifier: find it, record its inputs (the features of an image), and replace it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from ..relevance.architectures import ImageModel
from ..relevance.attention import hooks_of_this_thread
from .added_classifiers import CLIPZeroShotForImageClassification


class NoLastLayer(ValueError):
    """The logits of a model are not the outputs of a linear layer."""


class LastLayer:
    """The layer whose outputs are the logits. Distilled DeiT has two, whose features are concatenated.

    Args:
        model: image classifier in evaluation mode, possibly wrapped.
        image_size: height and width of its images in pixels, of which one with noise is tried: see [`NoLastLayer`].
    """

    def __init__(self, model: nn.Module, image_size: tuple[int, int]):
        self.model, self.pretrained = ImageModel(model), ImageModel(model).pretrained
        self.zero_shot = isinstance(self.pretrained, CLIPZeroShotForImageClassification)
        noise = torch.randn(1, 3, *image_size, generator=torch.Generator().manual_seed(0))
        noise, num_labels = noise.to(self.pretrained.device, self.pretrained.dtype), self.pretrained.config.num_labels
        linear = [module for module in self.pretrained.modules() if isinstance(module, nn.Linear)]
        single = [[layer] for layer in linear if layer.out_features == num_labels]
        # Layers of an encoder or an adapter may have as many outputs, so each is tried, the last one first.
        choices = [*reversed(single), *(first + second for first, second in pairwise(single))]
        for layers in [[self.pretrained.visual_projection]] if self.zero_shot else choices:
            self.layers = layers
            with torch.no_grad(), self._recorded() as inputs:
                logits = self.model.logits(noise)
            if sum(features.numel() for features in inputs) != self.weight.shape[1]:
                continue  # the layer is not called, or called for each token
            own, bound = _beside(inputs) @ self.weight.T + self.bias, max(1e-3, 4 * torch.finfo(logits.dtype).eps)
            if torch.allclose(own, logits.float(), atol=bound, rtol=bound):
                return
        raise NoLastLayer(f"The logits of `{self.model.name}` are not the outputs of a linear layer.")

    def of(self, copy: nn.Module) -> "LastLayer":
        """The same layer in a copy of the model."""
        layer = object.__new__(LastLayer)
        layer.model, layer.pretrained, layer.zero_shot = ImageModel(copy), ImageModel(copy).pretrained, self.zero_shot
        names = {id(module): name for name, module in self.pretrained.named_modules()}
        layer.layers = [layer.pretrained.get_submodule(names[id(module)]) for module in self.layers]
        return layer

    @property
    def has_bias(self) -> bool:
        """Whether the layer has a bias that can be replaced."""
        return not self.zero_shot and all(layer.bias is not None for layer in self.layers)

    @property
    def weight(self) -> torch.Tensor:
        """Weights `(C, D)`, fp32, for D features and C classes."""
        if self.zero_shot:
            return self.pretrained.logit_scale.exp() * self.pretrained.text_embeds
        return torch.cat([layer.weight for layer in self.layers], dim=1).detach().float() / len(self.layers)

    @property
    def bias(self) -> torch.Tensor:
        """Bias `(C,)`, fp32; zeros if the model has none."""
        biases = [layer.bias for layer in self.layers if layer.bias is not None and not self.zero_shot]
        zeros = torch.zeros(self.pretrained.config.num_labels, device=self.weight.device)
        return sum((bias.detach().float() for bias in biases), zeros) / max(1, len(biases))

    def outputs(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(B, C)` of images `(B, 3, H, W)`, and their features `(B, D)` in fp32."""
        with self._recorded() as inputs:
            logits = self.model.logits(pixel_values)
        return logits, _beside(inputs)

    @contextmanager
    def _recorded(self) -> Iterator[list[torch.Tensor]]:
        """Context manager that fills a list with the inputs of the layers (of CLIP, with the normalised embeddings)."""
        inputs: list[torch.Tensor] = []

        def record(module, args, output):
            inputs.append(F.normalize(output, dim=-1) if self.zero_shot else args[0])

        with hooks_of_this_thread(*((layer.register_forward_hook, record) for layer in self.layers)):
            yield inputs

    @torch.no_grad()
    def replace(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Replace the weights `(C, D)` of the layer, and its bias `(C,)` if it has one."""
        if self.zero_shot:
            self.pretrained.text_embeds.copy_(weight / self.pretrained.logit_scale.exp())
            return
        for layer, part in zip(self.layers, weight.chunk(len(self.layers), dim=1), strict=True):
            layer.weight.copy_(len(self.layers) * part)
            if layer.bias is not None:
                layer.bias.copy_(bias)


def _beside(inputs: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([features.float().flatten(1) for features in inputs], dim=1)
