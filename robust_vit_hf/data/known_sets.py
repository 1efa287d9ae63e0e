"""The known image sets. This module does not import `datasets`, so that options are read fast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


V2_VARIANTS = ("matched-frequency", "threshold0.7", "top-images")
IMAGENET_9_VARIATIONS = (
    "original",
    "mixed_same",
    "mixed_rand",
    "mixed_next",
    "only_fg",
    "no_fg",
    "only_bg_b",
    "only_bg_t",
)
IMAGENET_D_FACTORS = ("background", "texture", "material")
COUNTERANIMAL_PARTS = ("common", "counter")
WATERBIRDS_CLASSES, WATERBIRDS_PLACES = ("landbird", "waterbird"), ("land", "water")


@dataclass(frozen=True)
class KnownSet:
    """A set of images. Functions are named `module.function`, within `data/layouts`."""

    origin: str  # URL of its archives
    layout: str  # function that opens a folder (or file) in the official layout; takes `part` and `options`
    license: str = "unknown"  # of the images or of their repository, by its name on the Hub (docs/data.md)
    part: Mapping[str, str] = field(default_factory=dict)  # arguments of `layout` that choose this set
    family: str | None = None  # name for all sets of the layout together
    evaluated: bool = True  # whether `evaluate` measures it: it has labels of ImageNet, and is not for training
    labels: Literal["one", "several", "none"] = "one"  # of each image; `several`: a list of all accepted labels
    masks: bool = False
    class_names: Sequence[str] | None = None  # by default, the wnids of ImageNet-1k
    # Further columns: their types, or the names of their classes.
    factors: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    options: tuple[str, ...] = ()  # of the loader
    splits: tuple[str, ...] = ("test",)  # that `data prepare` writes; the first is the default of the option `split`
    # Configuration and split of copies as tables, by Hub id, the default first. Labels are numbered within the set.
    hub: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)
    # Function that takes a row of such a copy and its name; by default, columns are found by their names.
    hub_row: str | None = None
    # Patterns of the files to download, by Hub id, from a repository that has the official layout.
    hub_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    class_subset: str | None = None  # its classes, see [`subset`], to which the protocol `native` restricts logits
    border: int = 0  # width in pixels of the border that the protocol `native` cuts off
    # Whether the protocol `paper` counts only the first accepted label, and `native` restricts logits to accepted labels.
    first_label: bool = False
    by_class: bool = True  # whether each image has one class, see [`SetResult`]
    whole: bool = False  # whether images are squashed to the model's size instead of cropped


KNOWN_SETS: dict[str, KnownSet] = {
    "imagenet-1k": KnownSet(
        "https://image-net.org",
        "official.open_validation",
        license="other",
        options=("labels",),
        splits=("validation",),
        hub={
            "ILSVRC/imagenet-1k": (None, "validation"),
            "timm/imagenet-1k-wds": (None, "validation"),
            "clip-benchmark/wds_imagenet1k": (None, "test"),
        },
    ),
    "imagenet-a": KnownSet(
        "https://github.com/hendrycks/natural-adv-examples",
        "folders.open_wnids",
        license="mit",
        part={"class_subset": "imagenet-a"},
        hub={"barkermrl/imagenet-a": (None, "train"), "clip-benchmark/wds_imagenet-a": (None, "test")},
        class_subset="imagenet-a",
    ),
    "imagenet-r": KnownSet(
        "https://github.com/hendrycks/imagenet-r",
        "folders.open_wnids",
        part={"class_subset": "imagenet-r"},
        hub={"axiong/imagenet-r": ("test", "test"), "clip-benchmark/wds_imagenet-r": (None, "test")},
        class_subset="imagenet-r",
    ),
    "imagenet-sketch": KnownSet(
        "https://github.com/HaohanWang/ImageNet-Sketch",
        "folders.open_wnids",
        license="mit",
        hub={"clip-benchmark/wds_imagenet_sketch": (None, "test")},
    ),
    "imagenet-v2": KnownSet(
        "https://github.com/modestyachts/ImageNetV2",
        "official.open_v2",
        license="mit",
        options=("variant",),
        hub={"clip-benchmark/wds_imagenetv2": (None, "test")},
        hub_files={"vaishaal/ImageNetV2": ("imagenetv2-{variant}.tar.gz",)},
    ),
    "objectnet": KnownSet(
        "https://objectnet.dev",
        "official.open_objectnet",
        license="other",
        labels="several",
        options=("mappings", "cropped"),
        hub={"clip-benchmark/wds_objectnet": (None, "test")},
        border=2,
        first_label=True,
    ),
    **{
        f"si-score-{factor}": KnownSet(
            "https://github.com/google-research/si-score",
            "official.open_si_score",
            part={"factor": factor},
            factors=dict.fromkeys(("x", "y", "area", "angle"), "float64"),
        )
        for factor in ("location", "rotation", "size")
    },
    "imagenet-segmentation": KnownSet(
        "https://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat",
        "official.open_segmentation",
        evaluated=False,
        labels="none",
        masks=True,
    ),
    "imagenet-s919": KnownSet(
        "https://github.com/LUSSeg/ImageNet-S",
        "official.open_imagenet_s",
        evaluated=False,
        masks=True,
        options=("imagenet",),
        splits=("train",),
    ),
    "paper-split": KnownSet(
        "https://github.com/LUSSeg/ImageNet-S",
        "official.open_paper_split",
        evaluated=False,
        masks=True,
        options=("imagenet", "split", "class_seed", "num_classes", "samples_per_class"),
        splits=("train", "validation"),
    ),
    **{
        f"imagenet-9-{variation}": KnownSet(
            "https://github.com/MadryLab/backgrounds_challenge",
            "official.open_imagenet_9",
            part={"variation": variation},
            family="imagenet-9",
            labels="several",
            masks=variation == "original",
            by_class=False,
            whole=True,
        )
        for variation in IMAGENET_9_VARIATIONS
    },
    **{
        f"imagenet-d-{factor}": KnownSet(
            "https://huggingface.co/datasets/zcs15/ImageNet-D",
            "official.open_imagenet_d",
            license="mit",
            part={"factor": factor},
            family="imagenet-d",
            labels="several",
            hub_files={"zcs15/ImageNet-D": ("imgnet_d2imgnet_id.txt", f"{factor}/*")},
        )
        for factor in IMAGENET_D_FACTORS
    },
    **{
        f"counteranimal-{part}": KnownSet(
            "https://counteranimal.github.io",
            "official.open_counteranimal",
            part={"part": part},
            family="counteranimal",
        )
        for part in COUNTERANIMAL_PARTS
    },
    "hard-imagenet": KnownSet(
        "https://github.com/mmoayeri/HardImageNet",
        "official.open_hard_imagenet",
        masks=True,
        options=("imagenet", "split"),
        splits=("validation", "train"),
    ),
    "waterbirds": KnownSet(
        "https://github.com/kohpangwei/group_DRO",
        "official.open_waterbirds",
        evaluated=False,
        class_names=WATERBIRDS_CLASSES,
        factors={"group": [f"{bird} on {place}" for bird in WATERBIRDS_CLASSES for place in WATERBIRDS_PLACES]},
        options=("split", "segmentations"),
        splits=("train", "validation", "test"),
        hub={"grodino/waterbirds": (None, "train")},
        hub_row="official.row_of_hub",
    ),
}
PAPER_SETS = tuple(KNOWN_SETS)[:9]  # the sets of Tables 1 and 2, in their order
EVALUATION_SETS = tuple(name for name, known in KNOWN_SETS.items() if known.evaluated)
LATER_SETS = tuple(name for name in EVALUATION_SETS if name not in PAPER_SETS)
MASKED_SETS = tuple(name for name, known in KNOWN_SETS.items() if known.masks)
FAMILIES = {
    family: tuple(name for name, known in KNOWN_SETS.items() if known.family == family)
    for family in dict.fromkeys(known.family for known in KNOWN_SETS.values() if known.family)
}


BUNDLED_BENCHMARK = "emoji-shift"  # see [`~robust_vit_hf.data.emoji_shift`]
IMAGES_PER_SET = 300  # default for the sets of the benchmark
