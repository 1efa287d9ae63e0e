"""The last linear layer of a classifier: its inputs, the features of an image, and its replacement by another."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from ..relevance.architectures import ImageModel
from .added_classifiers import CLIPZeroShotForImageClassification


class NoLastLayer(ValueError):
    """The logits of a model are not those of one linear layer."""


class LastLayer:
    """The layer whose outputs are the logits: `weight` `(C, D)` and `bias` `(C,)`, fp32, of features `(B, D)`. Distilled DeiT has
    two, whose mean the logits are: their features stand beside each other. The features of CLIP are its normalised embeddings. Without
    one, [`NoLastLayer`] is raised."""

    def __init__(self, model: nn.Module, pixel_values: torch.Tensor):
        self.model, self.pretrained = ImageModel(model), ImageModel(model).pretrained
        self.zero_shot = isinstance(self.pretrained, CLIPZeroShotForImageClassification)
        modules, wanted = self.pretrained.modules(), self.pretrained.config.num_labels
        single = [[one] for one in modules if isinstance(one, nn.Linear) and one.out_features == wanted]
        # Others, such as an encoder's or an adapter's, may have as many outputs.
        choices = [*reversed(single), *(first + second for first, second in pairwise(single))]
        for layers in [[self.pretrained.visual_projection]] if self.zero_shot else choices:
            self.layers = layers
            with torch.no_grad(), self._inputs() as found:
                logits = self.model.logits(pixel_values)
            if sum(one.numel() for one in found) != len(logits) * self.weight.shape[1]:
                continue  # others, or called for tokens
            own, bound = _beside(found) @ self.weight.T + self.bias, max(1e-3, 4 * torch.finfo(logits.dtype).eps)
            if torch.allclose(own, logits.float(), atol=bound, rtol=bound):
                return
        raise NoLastLayer(f"The logits of `{self.model.name}` are not those of a linear layer of the model.")

    def of(self, copy: nn.Module) -> "LastLayer":
        found = object.__new__(LastLayer)
        found.model, found.pretrained, found.zero_shot = ImageModel(copy), ImageModel(copy).pretrained, self.zero_shot
        names = {id(module): name for name, module in self.pretrained.named_modules()}
        found.layers = [found.pretrained.get_submodule(names[id(layer)]) for layer in self.layers]
        return found

    @property
    def has_bias(self) -> bool:
        """Whether a bias can be put in place of the model's."""
        return not self.zero_shot and all(layer.bias is not None for layer in self.layers)

    @property
    def weight(self) -> torch.Tensor:
        if self.zero_shot:
            return self.pretrained.logit_scale.exp() * self.pretrained.text_embeds
        return torch.cat([layer.weight for layer in self.layers], dim=1).detach().float() / len(self.layers)

    @property
    def bias(self) -> torch.Tensor:
        given = [layer.bias for layer in self.layers if layer.bias is not None and not self.zero_shot]
        zeros = torch.zeros(self.pretrained.config.num_labels, device=self.weight.device)
        return sum((bias.detach().float() for bias in given), zeros) / max(1, len(given))

    def outputs(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(B, C)` of images `(B, 3, H, W)`, and features `(B, D)`, fp32."""
        with self._inputs() as found:
            logits = self.model.logits(pixel_values)
        return logits, _beside(found)

    @contextmanager
    def _inputs(self) -> Iterator[list[torch.Tensor]]:
        found: list[torch.Tensor] = []

        def record(module, args, output):
            found.append(F.normalize(output, dim=-1) if self.zero_shot else args[0])

        handles = [layer.register_forward_hook(record) for layer in self.layers]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def replace(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Put another layer, as of [`weight`] and [`bias`], in place of the model's."""
        if self.zero_shot:
            self.pretrained.text_embeds.copy_(weight / self.pretrained.logit_scale.exp())
            return
        for layer, part in zip(self.layers, weight.chunk(len(self.layers), dim=1), strict=True):
            layer.weight.copy_(len(self.layers) * part)
            if layer.bias is not None:
                layer.bias.copy_(bias)


def _beside(found: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([one.float().flatten(1) for one in found], dim=1)
