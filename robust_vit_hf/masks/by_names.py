"""Foreground masks from names: Grounding DINO finds boxes, which SAM segments, or SAM 3 segments all instances.

Sources: https://huggingface.co/papers/2303.05499, https://huggingface.co/papers/2304.02643,
https://huggingface.co/papers/2408.00714, https://huggingface.co/papers/2511.16719
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Self

import datasets
import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from ..data.classes import class_names, label_of_wnid
from ..utils.files import weights_read
from .options import GroundedOptions, Sam3Options
from .tokencut import MaskResult


Prompts = Callable[[Any], Sequence[str] | None]  # names to look for, by label; `None` if there are none


def prompts_of_labels(features: datasets.Features, path: Path | None) -> Prompts:
    """Return a function that gives the names to look for by label: those in the prompts file, or the first name of the class."""
    label = features.get("label")
    if not isinstance(label, datasets.ClassLabel):
        raise ValueError(
            f"The images have labels of type {label}, expected a `ClassLabel` with names: see `dataset.cast_column`."
        )
    names = [class_names()[label_of_wnid()[name]] if name in label_of_wnid() else name for name in label.names]
    texts = [name.replace("_", " ").split(",")[0].strip() or name for name in names]  # `great_white_shark, man-eater`
    given = {} if path is None else _read_prompts(path, {*texts, *names, *label.names})
    forms = zip(names, label.names, texts, strict=True)
    lists = [next((given[form] for form in of_label if form in given), [of_label[-1]]) for of_label in forms]
    return dict(enumerate(lists)).get


def _read_prompts(path: Path, classes: Collection[str]) -> dict[str, list[str]]:
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        given = None
    unknown = sorted(given.keys() - classes) if isinstance(given, dict) else [path.name]
    if unknown or not all(
        isinstance(names, list) and names and all(isinstance(name, str) and name.strip(" .") for name in names)
        for names in given.values()
    ):
        example = '{"tench": ["head", "fins"]}'
        told = f": `{unknown[0]}` is not a class of the images" if unknown else ""
        raise ValueError(f"`{path}` must be a JSON object of lists of names by class, such as {example}{told}.")
    return given


class _ByNames:
    prompts: Prompts
    _mask: Callable[[Image.Image, Sequence[str]], MaskResult]

    @property
    def models(self) -> dict[str, PreTrainedModel]:
        """The models that determine the masks, by the names of their settings."""
        return {name: value for name, value in vars(self).items() if isinstance(value, PreTrainedModel)}

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of RGB images of any sizes, in order, by the `label` of their rows."""
        names = [self.prompts(row.get("label")) or () for row in rows]
        if missing := [row.get("label") for row, of_row in zip(rows, names, strict=True) if not of_row]:
            raise ValueError(f"There is no prompt for the label {missing[0]!r}: name the classes, or give prompts.")
        return [self._mask(*pair) for pair in zip(images, names, strict=True)]


@dataclass(eq=False)
class GroundedSegmentation(_ByNames):
    """Masks of the prompted names: the union of the masks that SAM or SAM 2 makes for all boxes with a score of at least `box_threshold`.
    Grounding DINO, or another zero-shot detector with the same processor, finds the boxes."""

    detector: PreTrainedModel
    detector_processor: ProcessorMixin
    segmenter: PreTrainedModel
    segmenter_processor: ProcessorMixin
    prompts: Prompts
    _: KW_ONLY
    box_threshold: float = GroundedOptions.box_threshold

    @classmethod
    def from_pretrained(
        cls, prompts: Prompts, detector: str, segmenter: str, device: str | torch.device = "cpu", **arguments
    ) -> Self:
        """Load both models from Hub ids or folders. Further arguments are those of the class."""
        with weights_read(detector):
            finder = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(detector).eval().to(device)
            finder_processor = AutoProcessor.from_pretrained(detector)
        with weights_read(segmenter):
            sam = transformers.AutoModelForMaskGeneration.from_pretrained(segmenter).eval().to(device)
            return cls(finder, finder_processor, sam, AutoProcessor.from_pretrained(segmenter), prompts, **arguments)

    @torch.no_grad()
    def _mask(self, image: Image.Image, names: Sequence[str]) -> MaskResult:
        inputs = self.detector_processor(images=image, text=prompt_text(names), return_tensors="pt")
        inputs = inputs.to(self.detector.device, self.detector.dtype)
        (detected,) = self.detector_processor.post_process_grounded_object_detection(
            self.detector(**inputs),
            inputs["input_ids"],
            threshold=self.box_threshold,
            text_threshold=0.25,  # for the words of a box's phrase, which only the note shows
            target_sizes=[(image.height, image.width)],
        )
        if not len(detected["boxes"]):
            return MaskResult(None, rejected=f"no box for {', '.join(map(repr, names))} above {self.box_threshold}")
        scored = zip(detected["text_labels"], detected["scores"].tolist(), strict=True)
        note = ", ".join(f"{phrase or 'no word'} {score:.2f}" for phrase, score in scored)

        inputs = self.segmenter_processor(image, input_boxes=[detected["boxes"].tolist()], return_tensors="pt")
        inputs = inputs.to(self.segmenter.device)
        output = self.segmenter(
            pixel_values=inputs["pixel_values"].to(self.segmenter.dtype),
            input_boxes=inputs["input_boxes"].to(self.segmenter.dtype),
        )
        # SAM pads images and returns the unpadded sizes; SAM 2 resizes both sides.
        sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        # Each box has three masks (whole, part, subpart), (N, 3, h, w): take the one with the highest predicted IoU, (N, 1, h, w).
        logits, best_of_box = output.pred_masks[0].float(), output.iou_scores[0].argmax(dim=1)
        best = logits[torch.arange(len(logits)), best_of_box].unsqueeze(1)
        (masks,) = self.segmenter_processor.post_process_masks([best], *sizes)
        union = masks.flatten(0, 1).any(dim=0).cpu().numpy()  # (H, W)
        return MaskResult.of(union, note, None if union.any() else "SAM found nothing in the boxes")


def prompt_text(names: Sequence[str]) -> str:
    """Prompt of Grounding DINO: names in lower case, each followed by " .", without full stops of their own, which would split them."""
    return " ".join(f"{' '.join(name.lower().replace('.', ' ').split())} ." for name in names)


@dataclass(eq=False)
class ConceptSegmentation(_ByNames):
    """Masks of the first of the [`concepts`] that SAM 3 finds in an image: the union of its instances with a score of at least `threshold`."""

    model: PreTrainedModel
    processor: ProcessorMixin
    prompts: Prompts
    _: KW_ONLY
    threshold: float = Sam3Options.threshold

    @classmethod
    def from_pretrained(cls, prompts: Prompts, model: str, device: str | torch.device = "cpu", **arguments) -> Self:
        """Load the model from a Hub id or folder. Further arguments are those of the class."""
        with weights_read(model):
            light = transformers.AutoConfig.from_pretrained(model).model_type == "sam3_lite_text"
            loaded = (transformers.Sam3LiteTextModel if light else transformers.Sam3Model).from_pretrained(model)
            # Some checkpoints name the processor for videos, which takes no text.
            processor = transformers.Sam3Processor.from_pretrained(model)
            return cls(loaded.eval().to(device), processor, prompts, **arguments)

    @torch.no_grad()
    def _mask(self, image: Image.Image, names: Sequence[str]) -> MaskResult:
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        features, tried = self.model.get_vision_features(inputs["pixel_values"].to(self.model.dtype)), []
        for concept in concepts(names):
            text = self.processor(text=concept, return_tensors="pt").to(self.model.device)
            output = self.model(
                vision_embeds=features, input_ids=text["input_ids"], attention_mask=text["attention_mask"]
            )
            (instances,) = self.processor.post_process_instance_segmentation(
                output, self.threshold, target_sizes=[(image.height, image.width)]
            )
            if instances["masks"].any():
                scores = instances["scores"]
                note = f"{concept!r}, {len(scores)} of it, {float(scores.max()):.2f}"
                if output.presence_logits is not None:
                    note += f", present {float(output.presence_logits.sigmoid().max()):.2f}"
                note += f"; nothing for {', '.join(tried)}" if tried else ""
                return MaskResult.of(instances["masks"].bool().any(dim=0).cpu().numpy(), note)
            tried.append(repr(concept))
        return MaskResult(None, rejected=f"nothing for {', '.join(tried)} above {self.threshold}")


def concepts(names: Sequence[str]) -> list[str]:
    """Return the prompts in the order in which they are tried: the names, the last word of each name, and "object"."""
    names = [name.lower().strip() for name in names]
    return list(dict.fromkeys([*names, *(name.split()[-1] for name in names if name), "object"]))
