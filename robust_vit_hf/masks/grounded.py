"""Foreground masks from names: Grounding DINO finds boxes, SAM segments their contents.

The names are the class name, or names of its parts for the concept masks of *Concept-Guided Fine-Tuning*
(https://huggingface.co/papers/2603.08309).

Source: *Grounding DINO* (https://huggingface.co/papers/2303.05499), *Segment Anything*
(https://huggingface.co/papers/2304.02643), *SAM 2* (https://huggingface.co/papers/2408.00714).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Self

import datasets
import torch
from PIL import Image
from transformers import (
    AutoModelForMaskGeneration,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from ..data.imagenet_classes import class_names, label_of_wnid
from ..utils.files import weights_read
from .options import GroundedOptions
from .tokencut import MaskResult


Prompts = Callable[[Any], Sequence[str] | None]  # names to look for, by label; `None` for a label without


def prompts_of_labels(features: datasets.Features, prompts: Path | None) -> Prompts:
    """Function that returns the prompt names of a label: those in the prompts file, or the class name where it has
    none, without underscores and synonyms. The file may have either form of a name."""
    label = features.get("label")
    if not isinstance(label, datasets.ClassLabel):
        raise ValueError(
            f"The images have labels of type {label}, expected a `ClassLabel` with names to prompt with: "
            '`dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    names = [class_names()[label_of_wnid()[name]] if name in label_of_wnid() else name for name in label.names]
    texts = [name.replace("_", " ").split(",")[0].strip() or name for name in names]  # `great_white_shark, man-eater`
    if prompts is None:
        return {label: [text] for label, text in enumerate(texts)}.get
    given = _read_prompts(prompts)
    if unknown := given.keys() - {*texts, *names, *label.names}:
        raise ValueError(
            f"`{prompts}` names `{min(unknown)}`, which is no class of the images: they have `{names[0]}` and so on."
        )
    forms = zip(names, label.names, texts, strict=True)
    lists = [next((given[form] for form in of_label if form in given), [of_label[-1]]) for of_label in forms]
    return dict(enumerate(lists)).get


def _read_prompts(path: Path) -> dict[str, list[str]]:
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        given = None
    is_valid = isinstance(given, dict) and all(
        isinstance(names, list) and names and all(isinstance(name, str) and name.strip(" .") for name in names)
        for names in given.values()
    )
    if not is_valid:
        raise ValueError(
            f'`{path}` must be a JSON object of classes and lists of names, such as {{"tench": ["head", "fins"]}}.'
        )
    return given


def names_to_find(row: dict, prompts: Prompts) -> list[str]:
    """Names with which a maker looks for the object of a row."""
    label = row.get("label")
    names = None if label is None else prompts(label)
    if not names:
        raise ValueError(
            f"There is no prompt for the label {label!r}: give images with named classes, or add it to the prompts."
        )
    return list(names)


def prompt_text(names: Sequence[str]) -> str:
    """Prompt of Grounding DINO: lower case, " ." after each name, of which full stops, which would split it, are dropped."""
    return " ".join(f"{' '.join(name.lower().replace('.', ' ').split())} ." for name in names)


@dataclass(eq=False)
class GroundedSegmentation:
    """Masks of the prompted names: the union of SAM's masks for all boxes found by Grounding DINO, or another zero-shot
    detector with the same processor."""

    detector: PreTrainedModel
    detector_processor: ProcessorMixin
    segmenter: PreTrainedModel  # SAM or SAM 2
    segmenter_processor: ProcessorMixin
    prompts: Prompts  # names of a label to look for: of the class, or of its parts
    _: KW_ONLY
    box_threshold: float = GroundedOptions.box_threshold  # minimum score of boxes, in [0, 1]

    @classmethod
    def from_pretrained(
        cls, prompts: Prompts, detector: str, segmenter: str, device: str | torch.device = "cpu", **arguments
    ) -> Self:
        """Load both models from Hub ids or folders. Further arguments are those of the class."""
        with weights_read(detector):
            finder = AutoModelForZeroShotObjectDetection.from_pretrained(detector).eval().to(device)
            finder_processor = AutoProcessor.from_pretrained(detector)
        with weights_read(segmenter):
            sam = AutoModelForMaskGeneration.from_pretrained(segmenter).eval().to(device)
            return cls(finder, finder_processor, sam, AutoProcessor.from_pretrained(segmenter), prompts, **arguments)

    @property
    def models(self) -> dict[str, PreTrainedModel]:
        """The models that determine the masks, by setting name."""
        return {"detector": self.detector, "segmenter": self.segmenter}

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of RGB images of any sizes, in order, by the `label` of their rows, which are checked before the first
        image. Images are processed one by one, since padding of boxes and prompts would make masks depend on the others.
        """
        names = [names_to_find(row, self.prompts) for row in rows]
        return [self._mask(image, of_image) for image, of_image in zip(images, names, strict=True)]

    @torch.no_grad()
    def _mask(self, image: Image.Image, names: list[str]) -> MaskResult:
        size = (image.height, image.width)
        inputs = self.detector_processor(images=image, text=prompt_text(names), return_tensors="pt")
        inputs = inputs.to(self.detector.device, self.detector.dtype)
        (found,) = self.detector_processor.post_process_grounded_object_detection(
            self.detector(**inputs),
            inputs["input_ids"],
            threshold=self.box_threshold,
            text_threshold=0.25,  # of a word in the phrase of a box, which is only shown in the note
            target_sizes=[size],
        )
        if not len(found["boxes"]):
            return MaskResult(None, rejected=f"no box for {', '.join(map(repr, names))} above {self.box_threshold}")
        scored = zip(found["text_labels"], found["scores"].tolist(), strict=True)
        note = ", ".join(f"{phrase or 'no word'} {score:.2f}" for phrase, score in scored)

        inputs = self.segmenter_processor(image, input_boxes=[found["boxes"].tolist()], return_tensors="pt")
        inputs = inputs.to(self.segmenter.device)
        output = self.segmenter(
            pixel_values=inputs["pixel_values"].to(self.segmenter.dtype),
            input_boxes=inputs["input_boxes"].to(self.segmenter.dtype),
        )
        # SAM pads images and returns the unpadded sizes; SAM 2 resizes both sides.
        sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        # Of the masks of each box (whole, part, subpart), that with the highest predicted IoU: (N, 3, h, w) to (N, 1, h, w).
        logits, best_of_box = output.pred_masks[0].float(), output.iou_scores[0].argmax(dim=1)
        best = logits[torch.arange(len(logits)), best_of_box].unsqueeze(1)
        (masks,) = self.segmenter_processor.post_process_masks([best], *sizes)
        union = masks.flatten(0, 1).any(dim=0).cpu().numpy()  # (H, W)
        rejected = None if union.any() else "SAM found nothing in the boxes"
        return MaskResult.of(union, note, rejected)
