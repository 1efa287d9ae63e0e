"""Options of the commands that measure models."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from ..data.known_sets import BUNDLED_BENCHMARK, FAMILIES, IMAGES_PER_SET, LATER_SETS, MASKED_SETS, PAPER_SETS
from ..models.image_processors import Protocol
from ..models.model_names import BUNDLED_MODEL
from ..relevance import ATTRIBUTION_METHOD_NAMES
from ..utils.files import check_output_dir
from ..utils.options import COUNT, NOT_NEGATIVE, SHARE, Options, option, output_dir


SOURCES = "each from the Hub or from the output of `robust-vit data prepare`"
PROTOCOL = (
    "preprocessing of the images, see `robust-vit evaluate --help`; by default as in the training of the models, or else "
    "`paper` for registered models and `model` for others"
)
SEGMENTATION_SETS = (BUNDLED_BENCHMARK, *MASKED_SETS)
NAMED = "NAME[=PATH_OR_ID]"


class NamedSource(NamedTuple):
    """A set's name and source. The default source is its Hub dataset or the benchmark."""

    name: str
    source: str | None = None


def expand_sets(texts: Iterable[str]) -> list[NamedSource]:
    """The sets that `NAME` or `NAME=SOURCE` name, with each family replaced by its sets from its source."""
    named = [text.partition("=")[::2] for text in texts]
    sets = [NamedSource(name, source or None) for family, source in named for name in FAMILIES.get(family, (family,))]
    names, known = [name for name, _ in sets], (BUNDLED_BENCHMARK, *PAPER_SETS, *LATER_SETS)
    if len(set(names)) < len(names) or not {*names} <= {*known}:
        raise ValueError(
            f"Expected different sets of {', '.join((*known, *FAMILIES))}, not {', '.join(names)}. For other images, "
            "give --dataset and --split."
        )
    return sets


@dataclass(kw_only=True)
class PairOptions(Options):
    """Models before and after finetuning, and your own images."""

    model: str = option(BUNDLED_MODEL, "name, folder or Hub id; the bundled model by default")
    compare: str | None = option(None, "the model after finetuning")
    dataset: str | None = option(None, "your own images, with the columns `label` and `mask` if a command needs them")
    split: str = option("validation", "split of --dataset")


@dataclass(kw_only=True)
class SetsOptions(PairOptions):
    """Sets to measure: by default the benchmarks, or none if your own images are given."""

    sets: list[str] | None = option(
        None,
        f"benchmarks ({BUNDLED_BENCHMARK}: the default), sets of the paper ({', '.join(PAPER_SETS)}), or later ones "
        f"({', '.join((*FAMILIES, *(name for name in LATER_SETS if not name.startswith((*FAMILIES,)))))}), {SOURCES}",
        metavar=NAMED,
    )

    def __post_init__(self):
        super().__post_init__()
        expand_sets(self.sets or [])  # raises errors

    @property
    def named_sets(self) -> list[NamedSource]:
        by_default = [] if self.dataset else [BUNDLED_BENCHMARK]
        return expand_sets(by_default if self.sets is None else self.sets)


@dataclass(kw_only=True)
class ImagesOptions(Options):
    images_per_set: int = option(IMAGES_PER_SET, "images of each benchmark set", within=COUNT)


@dataclass(kw_only=True)
class BatchOptions(Options):
    batch_size: int = option(32, "images that a process takes at once", within=COUNT)
    num_workers: int = option(0, "processes that read images, for each process", within=NOT_NEGATIVE)
    bf16: bool = option(False, "autocast to bfloat16")

    @property
    def passes(self) -> tuple[int, int]:
        return self.batch_size, self.num_workers


@dataclass(kw_only=True)
class EvaluateOptions(BatchOptions, ImagesOptions, SetsOptions):
    """Measure a model, or two (before and after finetuning), on shifted sets: tables of accuracy, relevance and
    calibration, and plots of what changed.

    Protocol `paper`: images are resized to 256 (bilinear), cropped to 224 and normalised by 0.5. Protocol `native`:
    images are prepared as in the pretraining, and on ImageNet-A, ImageNet-R and ObjectNet, logits are restricted to the
    classes of the set. Protocol `model`: as `native`, with the processor saved with each model. See docs/evaluate.md.

      robust-vit evaluate --compare runs/emoji-shift    # the bundled model and sets
      robust-vit evaluate --model vit-b --compare runs/vit-b --output_dir runs/vit-b-robustness \\
          --sets imagenet-1k=sets/imagenet-1k imagenet-a=sets/imagenet-a --training_data sets/paper-split
    """

    protocols: list[str] | None = option(
        None,
        "see above; by default `paper` and `native` for registered models, for others that of the training, or `model`",
        choices=get_args(Protocol),
    )
    training_data: str | None = option(None, "images that --compare was finetuned on; tables separate their classes")
    train_split: str = option("train", "split of --training_data")
    output_dir: Path = output_dir("runs/robustness")

    def __post_init__(self):
        super().__post_init__()
        check_output_dir(self.output_dir, self.dataset, self.training_data, *(source for _, source in self.named_sets))


@dataclass(kw_only=True)
class SegmentOptions(BatchOptions, ImagesOptions, PairOptions):
    """Measure how well the maps of attribution methods cover the object: before and after finetuning, as in Table 3 of
    the paper. Only plain vision transformers have these maps. Images are squashed to the model's size, maps explain the
    predicted class and are thresholded at their mean.

      robust-vit segment --compare runs/emoji-shift    # the bundled model and images
      robust-vit segment --model vit-b --compare runs/vit-b --set imagenet-segmentation=gtsegs_ijcv.mat \\
          --output_dir runs/vit-b-segmentation
    """

    set: str = option(
        SEGMENTATION_SETS[0],
        f"{', '.join(SEGMENTATION_SETS)}, from a source or `robust-vit data prepare`",
        metavar=NAMED,
    )
    methods: list[str] = option(
        [*ATTRIBUTION_METHOD_NAMES], "default: all", choices=ATTRIBUTION_METHOD_NAMES, metavar="METHOD"
    )
    protocol: Protocol | None = option(None, PROTOCOL)
    output_dir: Path = output_dir("runs/segmentation")

    def __post_init__(self):
        super().__post_init__()
        name, source = self.named_set
        if name not in SEGMENTATION_SETS or (self.dataset and self.set != SEGMENTATION_SETS[0]):
            raise ValueError(f"give --set ({', '.join(SEGMENTATION_SETS)}), or --dataset for images of your own")
        check_output_dir(self.output_dir, self.dataset, source)

    @property
    def named_set(self) -> NamedSource:
        name, _, source = self.set.partition("=")
        return NamedSource(name, source or None)


@dataclass(kw_only=True)
class InterpolateOptions(BatchOptions, ImagesOptions):
    """Interpolate the weights of a model before and after finetuning (WiSE-FT): (1 - w) · BEFORE + w · AFTER, see
    https://huggingface.co/papers/2109.01903. Models of several interpolation weights are measured and plotted, and
    written to `interpolation_weights.json`; --weight writes the model of one. All use the preprocessing of AFTER.

      robust-vit interpolate emoji-shift runs/emoji-shift --weight 0.5 --output_dir runs/halfway
      robust-vit interpolate BEFORE AFTER --weights 0 0.25 0.5 0.75 1 --output_dir runs/weights \\
          --in_distribution imagenet-1k=sets/imagenet-1k --shifted imagenet-a=sets/imagenet-a imagenet-r=sets/imagenet-r
    """

    before: str = option(text="the original model: name, folder or Hub id", positional=True)
    after: str = option(text="the finetuned model", positional=True)
    weight: float | None = option(None, "write the model of this interpolation weight", within=SHARE)
    weights: list[float] = option(
        [step / 10 for step in range(11)], "weights to measure (default: 0, 0.1 … 1)", metavar="WEIGHT", within=SHARE
    )
    in_distribution: list[str] | None = option(None, f"sets for --weights, {SOURCES}", metavar=NAMED)
    shifted: list[str] | None = option(None, "shifted sets; by default those of the bundled benchmark", metavar=NAMED)
    protocol: Protocol | None = option(None, PROTOCOL)
    output_dir: Path = output_dir()

    def __post_init__(self):
        super().__post_init__()
        if (self.in_distribution is None) != (self.shifted is None):
            raise ValueError("give --in_distribution and --shifted together or not at all")
        expand_sets([*(self.in_distribution or []), *(self.shifted or [])])  # rejects a set that is named in both
