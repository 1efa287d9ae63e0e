"""Foreground masks from the names of what is in the images: Grounding DINO finds boxes, SAM segments what is in them.

The names are those of the class, or of its parts, for the concept masks of *Concept-Guided Fine-Tuning*
(https://huggingface.co/papers/2603.08309).

Source: *Grounding DINO* (https://huggingface.co/papers/2303.05499), *Segment Anything*
(https://huggingface.co/papers/2304.02643).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, PreTrainedModel, ProcessorMixin, SamModel

from .result import MaskResult


def prompt_text(names: Sequence[str]) -> str:
    """Prompt of Grounding DINO: lower case, each name closed by " .". A full stop inside a name would cut it in two, and
    is left out.

    Example:
        >>> prompt_text(["Tench"])
        'tench .'
        >>> prompt_text(["head", "St. Bernard's tail"])
        "head . st bernard's tail ."
    """
    return " ".join(f"{' '.join(name.lower().replace('.', ' ').split())} ." for name in names)


def best_masks(logits: torch.Tensor, predicted_iou: torch.Tensor) -> torch.Tensor:
    """Of SAM's masks for each box, the one that SAM itself expects to overlap best.

    Args:
        logits: `(N, M, h, w)`, M masks (three: whole, part, subpart) for each of N boxes.
        predicted_iou: `(N, M)`.

    Returns:
        `(N, 1, h, w)`.
    """
    return logits[torch.arange(len(logits)), predicted_iou.argmax(dim=1)].unsqueeze(1)


class GroundedSegmentation:
    """Masks of what a prompt names: the union of SAM's masks of all boxes that Grounding DINO finds.

    Args:
        detector: Grounding DINO, or another zero-shot detector of transformers with the same processor.
        detector_processor: processor of `detector`.
        segmenter: SAM.
        segmenter_processor: processor of `segmenter`.
        prompts: for each label, the names to look for: the class name, or its parts. A mapping, or a function of the
            label.
        box_threshold: boxes with a higher score are taken. Scores are in [0, 1].
        text_threshold: words with a higher score make up the phrase of a box, which is only shown in the note.

    Source: https://huggingface.co/papers/2303.05499, https://huggingface.co/papers/2304.02643
    """

    def __init__(
        self,
        detector: PreTrainedModel,
        detector_processor: ProcessorMixin,
        segmenter: SamModel,
        segmenter_processor: ProcessorMixin,
        prompts: Mapping[Hashable, Sequence[str]] | Callable[[Hashable], Sequence[str]],
        *,
        box_threshold: float = 0.3,
        text_threshold: float = 0.25,
    ):
        self.detector, self.detector_processor = detector, detector_processor
        self.segmenter, self.segmenter_processor = segmenter, segmenter_processor
        self.prompts = prompts
        self.box_threshold, self.text_threshold = box_threshold, text_threshold

    @classmethod
    def from_pretrained(
        cls,
        prompts: Mapping[Hashable, Sequence[str]] | Callable[[Hashable], Sequence[str]],
        detector: str = "IDEA-Research/grounding-dino-tiny",
        segmenter: str = "facebook/sam-vit-base",
        device: str | torch.device = "cpu",
        **arguments,
    ) -> Self:
        """With checkpoints from the Hub or from folders.

        Args:
            prompts: as for the class.
            detector, segmenter: ids on the Hub, or folders.
            device: where both models run.
            arguments: as for the class.
        """
        return cls(
            AutoModelForZeroShotObjectDetection.from_pretrained(detector).eval().to(device),
            AutoProcessor.from_pretrained(detector),
            SamModel.from_pretrained(segmenter).eval().to(device),
            AutoProcessor.from_pretrained(segmenter),
            prompts,
            **arguments,
        )

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make the masks of some images, one after the other: boxes and prompts differ in number, and padding would make
        the mask of an image depend on its neighbours.

        Args:
            images: RGB, of any sizes.
            rows: their rows; `label` is read.

        Returns:
            A result for each image, in their order.

        Raises:
            ValueError: a row without a label, or a label without names. All rows are checked before the first image.
        """
        names = [self._names(row) for row in rows]
        return [self._mask(image, of_image) for image, of_image in zip(images, names, strict=True)]

    def _names(self, row: dict) -> list[str]:
        if row.get("label") is None:
            raise ValueError(
                f"A row has no `label`, by which its prompt is looked up; it has {', '.join(row)}. Rename a column with "
                "`dataset.rename_column`."
            )
        label = row["label"]
        names = self.prompts(label) if callable(self.prompts) else self.prompts.get(label)
        if isinstance(names, str) or not names or not all(prompt_text([name]).strip(" .") for name in names):
            raise ValueError(
                f"The prompt for the label {label!r} is {names!r}, expected a list with at least one name. Add it to "
                "`prompts`."
            )
        return list(names)

    @torch.no_grad()
    def _mask(self, image: Image.Image, names: list[str]) -> MaskResult:
        size = (image.height, image.width)
        inputs = self.detector_processor(images=image, text=prompt_text(names), return_tensors="pt")
        inputs = inputs.to(self.detector.device, self.detector.dtype)
        (found,) = self.detector_processor.post_process_grounded_object_detection(
            self.detector(**inputs),
            inputs["input_ids"],
            threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            target_sizes=[size],
        )
        if not len(found["boxes"]):
            listed = ", ".join(repr(name) for name in names)
            return MaskResult(None, rejected=f"no box for {listed} above {self.box_threshold}")
        scored = zip(found["text_labels"], found["scores"].tolist(), strict=True)
        note = ", ".join(f"{phrase or 'no word'} {score:.2f}" for phrase, score in scored)

        inputs = self.segmenter_processor(image, input_boxes=[found["boxes"].tolist()], return_tensors="pt")
        inputs = inputs.to(self.segmenter.device)
        output = self.segmenter(
            pixel_values=inputs["pixel_values"].to(self.segmenter.dtype),
            input_boxes=inputs["input_boxes"].to(self.segmenter.dtype),
        )
        (masks,) = self.segmenter_processor.post_process_masks(
            [best_masks(output.pred_masks[0].float(), output.iou_scores[0])],
            inputs["original_sizes"],
            inputs["reshaped_input_sizes"],
        )
        union = masks.flatten(0, 1).any(dim=0).cpu().numpy()  # (H, W)
        rejected = None if union.any() else "SAM found nothing in the boxes"
        return MaskResult(Image.fromarray(union.astype(np.uint8) * 255), note, rejected)
