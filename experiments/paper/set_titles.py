"""Names of the paper's sets in its tables, and their kinds."""

from robust_vit_hf.data.known_sets import PAPER_SETS


TITLES = dict(
    zip(
        PAPER_SETS,
        ("INet val", "INet-A", "INet-R", "Sketch", "INet-v2", "ObjNet", "SI-location", "SI-rotation", "SI-size"),
        strict=True,
    )
)
SYNTHETIC = (*PAPER_SETS[-3:], "location", "rotation", "size")  # of Table 2; the last three are of emoji-shift
UNSHIFTED = ("imagenet-1k", "imagenet-v2")  # distributed as ImageNet


def title_of(name: str) -> str:
    """Name of a set in a table."""
    return TITLES.get(name, name.replace("_", " "))
