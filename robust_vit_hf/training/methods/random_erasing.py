"""Random erasing: a baseline that hides a part of the image, without looking at the mask."""

import torch
from torchvision.transforms import v2

from .finetune import Finetune


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
