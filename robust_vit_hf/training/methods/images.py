"""Methods that change the images: plain finetuning, background swap, CutMix and random erasing."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from ...relevance.architectures import unwrap_pretrained
from ...relevance.relevance_map import forward_logits
from ...utils.numerics import at_least_float32
from .base import Method, Penalty


class Finetune(Method):
    """Cross-entropy with the label. With `background_swap`, random replacement of the background as data augmentation."""

    def penalty(self, model, pixel_values, mask, targets):
        return Penalty(0.0, {}, forward_logits(model, pixel_values))


class Swap(Finetune):
    """Kullback–Leibler divergence from the output before finetuning, on images of which three in four have the background of another.
    No map is computed."""

    DEFAULTS: ClassVar = Finetune.DEFAULTS | {"confidence_target": "original"}
    background_swap: ClassVar = 0.75


class CutMix(Finetune):
    """Cross-entropy with the labels of both images, by their shares of the pixels, on images with a rectangle of another
    image of the batch.

    Source: https://huggingface.co/papers/1905.04899
    """

    mixes_images = True

    @classmethod
    def conflicts(cls, args):
        message = "`cutmix` mixes the labels of two images: leave `confidence_target` `label`."
        return super().conflicts(args) | {message: args.confidence_target != "label"}

    def per_image(self, model, pixel_values, mask, targets):
        if not model.training:
            return super().per_image(model, pixel_values, mask, targets)
        mix = v2.CutMix(num_classes=unwrap_pretrained(model).config.num_labels)
        mixed, labels = mix(pixel_values, targets["label"])
        logits = forward_logits(model, mixed)
        loss = F.cross_entropy(at_least_float32(logits) / self.args.confidence_temperature, labels, reduction="none")
        return {"confidence_loss": loss, "loss": self.args.confidence_weight * loss}, logits


class RandomErasing(Finetune):
    """Cross-entropy with the label on images of which half have a random rectangle erased, with torchvision's defaults: 2
    to 33 % of the image become 0, the mean.

    Source: https://huggingface.co/papers/1708.04896
    """

    def penalty(self, model, pixel_values, mask, targets):
        if model.training:
            erase = v2.RandomErasing(p=0.5)
            pixel_values = torch.stack([erase(image) for image in pixel_values])
        return super().penalty(model, pixel_values, mask, targets)
