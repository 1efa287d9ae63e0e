"""SI-Score: objects pasted onto backgrounds at every size, rotation or location.

Source: https://huggingface.co/papers/2007.08558, https://github.com/google-research/si-score
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
from transformers.utils import logging

from ..schema import Source
from .folders_of_sets import ClassFolder, class_folder_rows, open_class_folders


logger = logging.get_logger(__name__)

FOLDERS = {"size": "area", "rotation": "rotation", "location": "location20_area02_min0pc"}
METADATA_FILE = "metadata.csv"
METADATA_COLUMNS = {"x": "x_coord", "y": "y_coord", "area": "area", "angle": "rotation"}

# label_str_to_imagenet_classes.py of google-research/si-score at 94cf862 (Apache-2.0): folders have English names
# chosen by the authors, not ImageNet's. The sets have 61 of them.
# fmt: off
LABELS = {
    "ambulance": 407, "armadillo": 363, "artichoke": 944, "backpack": 414, "bagel": 931, "balance beam": 416,
    "banana": 954, "band-aid": 419, "beaker": 438, "bell pepper": 945, "billiard table": 736, "binoculars": 447,
    "broccoli": 937, "brown bear": 294, "burrito": 965, "candle": 470, "canoe": 472, "cello": 486, "cheetah": 293,
    "cocktail shaker": 503, "common fig": 952, "computer mouse": 673, "cowboy hat": 515, "cucumber": 943,
    "diaper": 529, "digital clock": 530, "dumbbell": 543, "envelope": 549, "eraser": 767, "filing cabinet": 553,
    "flowerpot": 738, "flute": 558, "frying pan": 567, "golf ball": 574, "goose": 99, "guacamole": 924,
    "hair dryer": 589, "hair spray": 585, "hammer": 587, "hamster": 333, "harmonica": 593, "hedgehog": 334,
    "hippopotamus": 344, "hot dog": 934, "ipod": 605, "jeans": 608, "kite": 21, "koala": 105, "ladle": 618,
    "laptop": 620, "lemon": 951, "light switch": 844, "lighthouse": 437, "limousine": 627, "lipstick": 629,
    "lynx": 287, "magpie": 18, "maracas": 641, "measuring cup": 647, "microwave oven": 651, "miniskirt": 655,
    "missile": 657, "mixing bowl": 659, "mobile phone": 487, "mushroom": 947, "orange": 950, "ostrich": 9,
    "otter": 360, "paper towel": 700, "pencil case": 709, "pig": 341, "pillow": 721, "pitcher (container)": 725,
    "pizza": 963, "plastic bag": 728, "polar bear": 296, "pomegranate": 957, "pretzel": 932, "printer": 742,
    "punching bag": 747, "racket": 752, "red panda": 387, "remote control": 761, "rugby ball": 768, "ruler": 769,
    "saxophone": 776, "screwdriver": 784, "sea lion": 150, "seat belt": 785, "skunk": 361, "snowmobile": 802,
    "soap dispenser": 804, "sock": 806, "sombrero": 808, "spatula": 813, "starfish": 327, "strawberry": 949,
    "studio couch": 831, "taxi": 468, "teapot": 849, "teddy bear": 850, "tennis ball": 852, "toaster": 859,
    "toilet paper": 999, "torch": 862, "traffic light": 920, "vase": 883, "volleyball (ball)": 890,
    "washing machine": 897, "wok": 909, "zebra": 340, "zucchini": 939,
}
# fmt: on


def open_si_score(root: Path, factor: str) -> Source:
    """The set of one of the `FOLDERS`: class folders with English names, and `metadata.csv` beside them."""
    names = {name: (folder, f"object_{name}") for name, folder in FOLDERS.items()}
    place = next((root / name for name in names[factor] if (root / name).is_dir()), root)
    source = open_class_folders(root, LABELS, place)
    parent = source.shards[0].path.parent
    if any(parent.name in others for other, others in names.items() if other != factor):
        raise ValueError(f"`{parent}` is another set of SI-Score than that of {factor}.")
    metadata = next(filter(Path.is_file, (parent / METADATA_FILE, parent.parent / METADATA_FILE)), None)
    if metadata is None:
        logger.warning(
            f"There is no {METADATA_FILE} beside the classes in `{parent}`: {', '.join(METADATA_COLUMNS)} are not known."
        )
    rows = partial(factor_rows, metadata=metadata)
    return Source(rows, source.shards, None if metadata is None else metadata.stat().st_mtime_ns)


def factor_rows(shards: list[ClassFolder], metadata: Path | None) -> Iterator[dict]:
    """Rows with the factors of each image: centre `x` and `y` and `area`, as fractions of the image; `angle` in
    degrees, counter-clockwise. `None` for images missing in the metadata."""
    table = None if metadata is None else read_factors(metadata, metadata.stat().st_mtime_ns)
    for row in class_folder_rows(shards):
        stem = Path(row["file_name"]).stem
        known = table is not None and stem.isdecimal() and int(stem) in table.index
        factors = table.loc[int(stem)].tolist() if known else [None] * len(METADATA_COLUMNS)
        yield row | dict(zip(METADATA_COLUMNS, factors, strict=True))


@lru_cache(maxsize=1)
def read_factors(path: Path, changed: int) -> pd.DataFrame:
    """Factors of each image by its id, in the order of `METADATA_COLUMNS`. `changed`, the modification time, is a cache key."""
    columns = [*METADATA_COLUMNS.values()]
    return pd.read_csv(path, usecols=["image_id", *columns], index_col="image_id")[columns].astype("float64")
