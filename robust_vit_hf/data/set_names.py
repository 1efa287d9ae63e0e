"""Names of sets, for the command line, without importing `datasets`."""

BUNDLED_BENCHMARK = "emoji-shift"
BENCHMARK_NAMES = (BUNDLED_BENCHMARK,)  # of `benchmarks()`
# Sets of the paper.
SI_SCORE_FACTORS = ("size", "rotation", "location")
SETS_WITH_MASKS = ("imagenet-segmentation", "imagenet-s919", "paper-split")
SET_NAMES = (
    "imagenet-1k",
    "imagenet-a",
    "imagenet-r",
    "imagenet-sketch",
    "imagenet-v2",
    "objectnet",
    *(f"si-score-{factor}" for factor in SI_SCORE_FACTORS),
    *SETS_WITH_MASKS,
)
V2_VARIANTS = ("matched-frequency", "threshold0.7", "top-images")
