"""CutMix: a baseline that pastes a part of another image, without looking at the mask."""

import torch.nn.functional as F
from torchvision.transforms import v2

from ...relevance.architectures import unwrap_pretrained
from ...relevance.relevance_map import forward_logits
from ...utils.precision import at_least_float32
from .finetune import Finetune


class CutMix(Finetune):
    """Cross-entropy with the labels of both images, by their shares of the pixels, on images with a rectangle of another
    image of the batch.

    Source: https://huggingface.co/papers/1905.04899
    """

    mixes_images = True

    @classmethod
    def validate(cls, args):
        super().validate(args)
        if args.confidence_target != "label":
            raise ValueError("`cutmix` mixes the labels of two images: leave `confidence_target` `label`.")

    def per_image(self, model, pixel_values, mask, targets):
        if not model.training:
            return super().per_image(model, pixel_values, mask, targets)
        mix = v2.CutMix(num_classes=unwrap_pretrained(model).config.num_labels)
        mixed, labels = mix(pixel_values, targets["label"])
        logits = forward_logits(model, mixed)
        loss = F.cross_entropy(at_least_float32(logits) / self.args.confidence_temperature, labels, reduction="none")
        return {"confidence_loss": loss, "loss": self.args.confidence_weight * loss}, logits
