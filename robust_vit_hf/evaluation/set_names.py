"""Names of the sets that are evaluated."""

from ..data.benchmarks import benchmarks


# Sets in the order of the paper's Tables 1 and 2, with the names that these give them.
PAPER_SETS = {
    "imagenet-1k": "INet val",
    "imagenet-a": "INet-A",
    "imagenet-r": "INet-R",
    "imagenet-sketch": "Sketch",
    "imagenet-v2": "INet-v2",
    "objectnet": "ObjNet",
    "si-score-location": "SI-location",
    "si-score-rotation": "SI-rotation",
    "si-score-size": "SI-size",
}


def check_set_names(names: list[str]) -> None:
    """Refuse sets that cannot be evaluated, before anything is loaded.

    Raises:
        ValueError: a name that is neither a benchmark nor a set of the paper with labels, or a repeated name.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"A set is named twice: {', '.join(names)}.")
    for name in names:
        if name not in (*benchmarks(), *PAPER_SETS):
            hint = "`robust-vit segment` takes sets with masks; for images of your own, give --dataset."
            raise ValueError(f"Unknown set `{name}`: expected {', '.join((*benchmarks(), *PAPER_SETS))}. {hint}")
