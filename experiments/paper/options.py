"""Options of the commands that make tables and figures of the paper: `report`, `sis`, `figures` and `published`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robust_vit_hf.evaluation.options import PROTOCOL, ImagesOptions, SetsOptions
from robust_vit_hf.models.image_processors import Protocol
from robust_vit_hf.models.model_names import MODELS
from robust_vit_hf.utils.options import COUNT, NOT_NEGATIVE, Options, Range, option, output_dir


@dataclass(kw_only=True)
class ReportOptions(Options):
    """Make the paper's tables and figures from the runs of a sweep, and check its findings.

      python -m experiments report runs/emoji-shift-grid --output_dir runs/report
      python -m experiments report runs/emoji-shift-grid runs/emoji-shift-others --output_dir runs/report
      python -m experiments report runs/report/results.parquet --output_dir runs/report

    Of several settings of a method, the one is shown that the criterion of the grid chooses on the validation images
    (see experiments/sweeps.md).
    """

    sources: list[Path] = option(text="folders of sweeps or of their runs, and files results.parquet", positional=True)
    output_dir: Path = output_dir()


@dataclass(kw_only=True)
class SubsetOptions(SetsOptions):
    """Find few pixels of an image that are enough for a confident prediction of a class: of the label or of any other.
    These sufficient input subsets (SIS) are the paper's Figure 5. For any image classifier.

      python -m experiments sis --compare runs/emoji-shift              the bundled model and sets, before and after
      python -m experiments sis --images dog.jpg --classes dog bicycle  any image and any class
      python -m experiments sis --model vit-b --sets imagenet-1k=sets/imagenet-1k --classes 368 792 \\
          --output_dir runs/vit-b-sis

    Pixels are masked by their gradients, in steps of two passes. Batches that are finished are not computed again: an
    interrupted run resumes when it is started again.
    """

    images: list[Path] = option([], "image files", metavar="FILE")
    classes: list[str] = option([], "names or ids of classes (default: the label of each image)", metavar="CLASS")
    num_images: int = option(20, "images of each set, evenly spaced over it", within=COUNT)
    protocol: Protocol | None = option(None, PROTOCOL)
    threshold: float = option(0.9, "probability that a subset must reach", within=Range(0, 1, above=True))
    pixels_per_step: int = option(100, "pixels that a step masks in each image", within=COUNT)
    batch_size: int = option(8, "pairs of an image and a class at once", within=COUNT)
    bf16: bool = option(False, "autocast to bfloat16")
    output_dir: Path = output_dir("runs/sis")

    def __post_init__(self):
        if self.sets is None and self.images:
            self.sets = []
        super().__post_init__()


@dataclass(kw_only=True)
class FigureOptions(SetsOptions, ImagesOptions):
    """Make the paper's Figures 1, 2, 3, 6 and 15, for any pair of models and any set: images with their relevance maps
    before and after, as PNG and PDF, and captions with the rule by which the images are selected.

      robust-vit evaluate --compare runs/emoji-shift --output_dir runs/robustness
      python -m experiments figures runs/robustness --compare runs/emoji-shift --output_dir runs/figures
      python -m experiments figures runs/vit-b-robustness --model vit-b --compare runs/vit-b \\
          --output_dir runs/vit-b-figures --sets imagenet-a=sets/imagenet-a imagenet-v2=sets/imagenet-v2 --figures 15

    Models, sets, --dataset and --images_per_set are those of the evaluation, by whose predictions the images are
    selected. Figure 1 takes images with masks.
    """

    evaluation: Path = option(text="output folder of `robust-vit evaluate` with --compare", positional=True)
    compare: str = option(text="the model after finetuning")
    protocol: Protocol | None = option(None, "see `robust-vit evaluate --help`; by default the evaluation's first one")
    figures: list[int] = option([1, 2, 3, 6, 15], "numbers (default: all)", choices=(1, 2, 3, 6, 15))
    target: Literal["predicted", "true"] = option("predicted", "class that the maps explain, but for Figure 1")
    classes: list[str] | None = option(None, "names or labels of the classes to show (default: all)", metavar="CLASS")
    num_examples: int = option(4, "images of a group", within=COUNT)
    seed: int = option(0, "of the draw", within=NOT_NEGATIVE)
    output_dir: Path = output_dir()


@dataclass(kw_only=True)
class PublishedOptions(Options):
    """Show the results of one run next to the published figures: Tables 1, 2, 10 and 11 of an evaluation, Table 3 of a
    segmentation.

      robust-vit evaluate --model vit-b --compare runs/vit-b --sets imagenet-a=sets/imagenet-a \\
          --output_dir runs/vit-b-robustness
      python -m experiments published runs/vit-b-robustness

    Tables appear for models whose figures the paper has.
    """

    source: Path = option(text="output folder of `robust-vit evaluate` or `segment`", positional=True)
    paper_model: str | None = option(
        None,
        "the paper's name of the model before finetuning; by default that of the registered model",
        choices=[entry.paper_name for entry in MODELS.values() if entry.paper_name],
    )
