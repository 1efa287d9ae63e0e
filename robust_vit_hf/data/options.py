"""Options of `robust-vit data` and of commands that write images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..utils.options import COUNT, NOT_NEGATIVE, Options, names_of, option, output_dir
from .known_sets import KNOWN_SETS, V2_VARIANTS


@dataclass(kw_only=True)
class WriterOptions(Options):
    output_dir: Path = output_dir()
    skip_bad: bool = option(False, "leave out images that cannot be used, and list them")
    rows_per_shard: int = option(200, "images per file; a killed run repeats at most one", within=COUNT)


@dataclass(kw_only=True)
class SetOptions(Options):
    """Options of individual sets, see [`load_image_set`]."""

    labels: Literal["original", "real"] | None = option(None, "imagenet-1k: `real` for the labels of ReaL")
    variant: str | None = option(None, "imagenet-v2: the paper's is matched-frequency", choices=V2_VARIANTS)
    mappings: str | None = option(None, "objectnet: folder of the mapping files")
    cropped: bool = option(False, "objectnet: cut off the red border of 2 px")
    imagenet: str | None = option(None, "imagenet-s919, paper-split, hard-imagenet: folder of ImageNet-1k")
    class_seed: int | None = option(None, "paper-split: shuffle the classes (Tables 8 and 9)", within=NOT_NEGATIVE)
    num_classes: int | None = option(None, "paper-split: training classes, 500 by default (Fig. 7b)", within=COUNT)
    samples_per_class: int | None = option(None, "paper-split: images of each, 3 by default (Fig. 7a)", within=COUNT)
    segmentations: str | None = option(None, "waterbirds: the folder `segmentations` of CUB-200-2011, for masks")
    split: str | None = option(None, "split to read (default: all; of `data describe`, train or the first)")

    @property
    def of_the_set(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in names_of(SetOptions)}
        return {name: value for name, value in given.items() if value is not None and value is not False}


@dataclass(kw_only=True)
class PrepareOptions(WriterOptions, SetOptions):
    """Write a known image set as parquet, and check every image. An interrupted run resumes when it is started again.

    robust-vit data prepare imagenet-a imagenet-a.tar --output_dir sets/imagenet-a
    """

    set: str = option(text=f"set: {', '.join(KNOWN_SETS)}", choices=KNOWN_SETS, metavar="SET", positional=True)
    sources: list[str] = option(
        [], "folder of the official layout, archives, or Hub id (default: the set on the Hub)", positional=True
    )


@dataclass(kw_only=True)
class DescribeOptions(SetOptions):
    """Show rows, classes, mask coverage and the first problems of a dataset.

    robust-vit data describe sets/imagenet-a
    robust-vit data describe objectnet-1.0 --set objectnet
    """

    source: str = option(text="folder, file or Hub id", positional=True)
    set: str | None = option(None, "read the images as this set of `data prepare`", choices=KNOWN_SETS, metavar="SET")
