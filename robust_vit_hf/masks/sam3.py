"""Foreground masks from names in one model: SAM 3 finds and segments all instances of a concept.

Source: *SAM 3* (https://huggingface.co/papers/2511.16719)
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Self

import torch
from PIL import Image
from transformers import AutoConfig, PreTrainedModel, ProcessorMixin, Sam3LiteTextModel, Sam3Model, Sam3Processor

from ..utils.files import weights_read
from .grounded import Prompts, names_to_find
from .options import Sam3Options
from .tokencut import MaskResult


def concepts(names: Sequence[str]) -> list[str]:
    """Prompts in the order in which they are tried: the names, then the last word of each name of several words, which in
    English is what the rest describes, and at last "object"."""
    wanted = [name.lower().strip() for name in names]
    return list(dict.fromkeys([*wanted, *(name.split()[-1] for name in wanted if name), "object"]))


@dataclass(eq=False)
class ConceptSegmentation:
    """Masks of the first concept that SAM 3 finds in an image: the union of its instances."""

    model: PreTrainedModel  # SAM 3, or its variant with a light text encoder
    processor: ProcessorMixin
    prompts: Prompts  # names of a label, see [`concepts`]
    _: KW_ONLY
    # Least score of an instance, in [0, 1], which includes that the concept is present at all
    threshold: float = Sam3Options.threshold

    @classmethod
    def from_pretrained(cls, prompts: Prompts, model: str, device: str | torch.device = "cpu", **arguments) -> Self:
        """Load the model from a Hub id or folder. Further arguments are those of the class."""
        with weights_read(model):
            light = AutoConfig.from_pretrained(model).model_type == "sam3_lite_text"
            loaded = (Sam3LiteTextModel if light else Sam3Model).from_pretrained(model)
            # Some checkpoints name the processor for videos, which takes no text.
            return cls(loaded.eval().to(device), Sam3Processor.from_pretrained(model), prompts, **arguments)

    @property
    def models(self) -> dict[str, PreTrainedModel]:
        """The models that determine the masks, by setting name."""
        return {"model": self.model}

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of RGB images of any sizes, in order, one by one, by the `label` of their rows. All labels are checked
        before the first image."""
        wanted = [concepts(names_to_find(row, self.prompts)) for row in rows]
        return [self._mask(image, tried) for image, tried in zip(images, wanted, strict=True)]

    @torch.no_grad()
    def _mask(self, image: Image.Image, tried: list[str]) -> MaskResult:
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        seen = self.model.get_vision_features(inputs["pixel_values"].to(self.model.dtype))
        size = (image.height, image.width)
        for concept in tried:
            text = self.processor(text=concept, return_tensors="pt").to(self.model.device)
            output = self.model(vision_embeds=seen, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
            (found,) = self.processor.post_process_instance_segmentation(output, self.threshold, target_sizes=[size])
            if not found["masks"].any():
                continue
            union = found["masks"].bool().any(dim=0).cpu().numpy()
            note = f"{concept!r}, {len(found['scores'])} of it, {float(found['scores'].max()):.2f}"
            if output.presence_logits is not None:
                note += f", present {float(output.presence_logits.sigmoid().max()):.2f}"
            if concept != tried[0]:
                note += f"; nothing for {', '.join(map(repr, tried[: tried.index(concept)]))}"
            return MaskResult.of(union, note)
        return MaskResult(None, rejected=f"nothing for {', '.join(map(repr, tried))} above {self.threshold}")
