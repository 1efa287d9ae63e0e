"""Names of sets, for the command line, without importing `datasets`."""

from itertools import chain


BUNDLED_BENCHMARK = "emoji-shift"
BENCHMARK_NAMES = (BUNDLED_BENCHMARK,)  # of `benchmarks()`
# Sets of the paper.
SI_SCORE_FACTORS = ("size", "rotation", "location")
SETS_WITH_MASKS = ("imagenet-segmentation", "imagenet-s919", "paper-split")
# Later sets of what models take from the background. A family is named by its prefix.
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
FAMILIES = {
    family: tuple(f"{family}-{part}" for part in parts)
    for family, parts in {
        "imagenet-9": IMAGENET_9_VARIATIONS,
        "imagenet-d": IMAGENET_D_FACTORS,
        "counteranimal": COUNTERANIMAL_PARTS,
    }.items()
}
LATER_SETS = (*chain.from_iterable(FAMILIES.values()), "hard-imagenet")
WATERBIRDS = "waterbirds"  # has classes of its own
SET_NAMES = (
    "imagenet-1k",
    "imagenet-a",
    "imagenet-r",
    "imagenet-sketch",
    "imagenet-v2",
    "objectnet",
    *(f"si-score-{factor}" for factor in SI_SCORE_FACTORS),
    *SETS_WITH_MASKS,
    *LATER_SETS,
    WATERBIRDS,
)
V2_VARIANTS = ("matched-frequency", "threshold0.7", "top-images")
