"""Attacks on the sets of background reliance: sources that are damaged, wrong or hostile, and what was promised of each."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import formats
from .tiny import TENCH


DOG, VEHICLE = "00_dog", "02_wheeled vehicle"


@dataclass(frozen=True)
class SetAttack:
    """An attack on `load_image_set`.

    Args:
        set_name: name of the set.
        what: the source, in words.
        make: writes the official layout below a folder, and returns the source.
        change: changes what is below the folder; may return other options of `load_image_set`, and another `source`.
        refused: part of the error, where `{root}` is the source; `None` if the set loads.
        rows: number of rows then.
    """

    set_name: str
    what: str
    make: Callable[[Path], Path]
    change: Callable[[Path], Any]
    refused: str | None = None
    rows: int = 0

    @property
    def promise(self) -> str:
        return (
            f"{self.rows} row{'s' if self.rows > 1 else ''}"
            if self.refused is None
            else f"refused: {self.refused.replace('{root}/', '')}"
        )


def _imagenet_9(root: Path) -> Path:
    return formats.imagenet_9(root, {DOG: 2, VEHICLE: 1}, ("original", "mixed_rand", "mixed_same"))


def _waterbirds(root: Path) -> Path:
    return formats.waterbirds(root, [(0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 1, 2), (1, 1, 0)])


def _imagenet_d(root: Path) -> Path:
    counts = {"background": {"car": 1, "dog": 2}, "texture": {"car": 1}}
    return formats.imagenet_d(root, {"car": [817], "dog": [1, 2]}, counts)


def _counteranimal(root: Path) -> Path:
    formats.class_folders(root / "9 ostrich", {"common-snow": 1, "counter-sand": 2})
    formats.class_folders(root / "10 brambling", {"common-grass": 1, "counter-sky": 1})
    return root


def _hard_imagenet(root: Path) -> Path:
    return formats.hard_imagenet(root, root / "imagenet", {TENCH: ["ILSVRC2012_val_00000007"]})


def _edit(*replaced: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "waterbird_complete95_forest2water2" / "metadata.csv"
        path.write_text(path.read_text().replace(*replaced, 1))

    return change


def _labels(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "imgnet_d2imgnet_id.txt").write_text(text) and None


def _mask(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda root: change(root / "fg_mask" / "val" / DOG / f"{DOG}_0.npy") and None


def _segmented(change: Callable[[Path], Any]) -> Callable[[Path], dict]:
    def change_first(root: Path) -> dict:
        change(sorted((root / "segmentations").rglob("*.png"))[0])
        return {"segmentations": str(root / "segmentations")}

    return change_first


def _with_imagenet(change: Callable[[Path], Any]) -> Callable[[Path], dict]:
    def with_imagenet(root: Path) -> dict:
        change(root)
        return {"imagenet": str(root / "imagenet")}

    return with_imagenet


def _renamed(before: str, after: str) -> Callable[[Path], None]:
    return lambda root: (root / before).rename(root / after) and None


def _empty_folder(root: Path) -> dict:
    (root / "empty").mkdir()
    return {"source": str(root / "empty")}


# fmt: off
nine = partial(SetAttack, "imagenet-9-mixed_rand", make=_imagenet_9)
masked = partial(SetAttack, "imagenet-9-original", make=_imagenet_9)
birds = partial(SetAttack, "waterbirds", make=_waterbirds)
synthetic = partial(SetAttack, "imagenet-d-background", make=_imagenet_d)
animals = partial(SetAttack, "counteranimal-common", make=_counteranimal)
hard = partial(SetAttack, "hard-imagenet", make=_hard_imagenet)
NPY = "`{root}/fg_mask/val/00_dog/00_dog_0.npy` is not a mask"
TOLD = "imgnet_d2imgnet_id.txt` is not JSON of names and lists of ids"
SET_ATTACKS = [
    nine("without the variation", change=lambda root: shutil.rmtree(root / "mixed_rand"), refused="has no folder `mixed_rand` of ImageNet-9; it has mixed_same, original."),
    nine("another variation", change=lambda root: {"source": str(root / "mixed_same")}, refused="holds the variation `mixed_same` of ImageNet-9, not `mixed_rand`."),
    nine("an empty folder", change=_empty_folder, refused="holds no folders that are named after classes of this set."),
    nine("an image in place of the folder", change=lambda root: {"source": str(next(root.rglob("*.JPEG")))}, refused="is a file; expected a folder, or an archive"),
    nine("a class that there is not", change=_renamed("mixed_rand/val/00_dog", "mixed_rand/val/00_cat"), refused="ImageNet-9 has no class `00_cat`. Remove the folder, or correct its name."),
    nine("a class without images", change=lambda root: [path.unlink() for path in (root / "mixed_rand/val/00_dog").iterdir()] and None, rows=1),
    nine("a damaged image", change=lambda root: (root / "mixed_rand/val/00_dog/00_dog_1.JPEG").write_bytes(b"x") and None, refused="cannot identify image file '{root}/mixed_rand/val/00_dog/00_dog_1.JPEG'"),
    masked("without masks", change=lambda root: shutil.rmtree(root / "fg_mask"), refused="take the whole archive of the Backgrounds Challenge."),
    masked("an image without a mask", change=_mask(Path.unlink), refused=f"{NPY} ([Errno 2] No such file or directory"),
    masked("a mask that is an empty file", change=_mask(lambda path: path.write_bytes(b"")), refused=f"{NPY} (No data left in file)"),
    masked("a mask with code", change=_mask(lambda path: np.save(path, np.array([{1: 2}], dtype=object), allow_pickle=True)), refused=f"{NPY} (Object arrays cannot be loaded when allow_pickle=False)"),
    masked("a mask of NaN", change=_mask(lambda path: np.save(path, np.full((24, 30), np.nan))), refused=f"{NPY} (NaN or infinite)"),
    masked("a mask of text", change=_mask(lambda path: np.save(path, np.full((24, 30), "a"))), refused=NPY),
    birds("without metadata", change=lambda root: (root / "waterbird_complete95_forest2water2/metadata.csv").unlink(), refused="unpack waterbird_complete95_forest2water2.tar.gz."),
    birds("metadata without a column", change=_edit("place,", "plac,"), refused="has no column place: take the file that comes with the set."),
    birds("a class 2", change=_edit("_0.jpg,0,0,0", "_0.jpg,2,0,0"), refused="has y 2 and place 0, expected 0 or 1."),
    birds("a class that is a text", change=_edit("_0.jpg,0,0,0", "_0.jpg,land,0,0"), refused="has y land and place 0, expected 0 or 1."),
    birds("a split 7", change=_edit("_0.jpg,0,0,0", "_0.jpg,0,7,0"), refused="has the split 7, expected 0, 1 or 2."),
    birds("a line that is cut off", change=_edit("_0.jpg,0,0,0,/f/forest/broadleaf/0.jpg", "_0.jpg"), refused="has the split None, expected 0, 1 or 2."),
    birds("a file above the folder", change=_edit("001.Some_bird/Some_Bird_0.jpg", "../../secret.jpg"), refused="names `../../secret.jpg`, which must be a relative path within the folder of the metadata."),
    birds("an absolute path", change=_edit("001.Some_bird/Some_Bird_0.jpg", "/secret.jpg"), refused="names `/secret.jpg`, which must be a relative path within the folder of the metadata."),
    birds("an image that is not there", change=lambda root: next(root.rglob("*_0.jpg")).unlink(), refused="Some_Bird_0.jpg`: there is no such image: unpack the set again"),
    birds("a split that there is not", change=lambda root: {"split": "dev"}, refused="Waterbirds has no split `dev`; expected train, validation, test."),
    birds("no folder of segmentations", change=lambda root: {"segmentations": str(root / "none")}, refused="There is no folder `{root}/none`: give the segmentations of CUB-200-2011."),
    birds("an image without a segmentation", change=_segmented(Path.unlink), refused="No such file or directory: '{root}/segmentations/001.Some_bird/Some_Bird_0.png'"),
    birds("a damaged segmentation", change=_segmented(lambda path: path.write_bytes(b"x")), refused="cannot identify image file '{root}/segmentations/001.Some_bird/Some_Bird_0.png'"),
    birds("a segmentation in colour", change=_segmented(lambda path: Image.open(path).convert("RGB").save(path)), rows=3),
    synthetic("without its file of labels", change=lambda root: (root / "imgnet_d2imgnet_id.txt").unlink(), refused="There is no `imgnet_d2imgnet_id.txt`"),
    *(synthetic(f"labels `{text}`", change=_labels(text), refused=message) for text, message in {
        '{"car": [8': TOLD,
        "[]": TOLD,
        '{"car": ["a"], "dog": [1]}': TOLD,
        '{"car": [1.5], "dog": [1]}': f"{TOLD}: 1.5 is no id",
        '{"car": [true], "dog": [1]}': f"{TOLD}: True is no id",
        '{"car": null, "dog": [1]}': TOLD,
        '{"car": [1000], "dog": [1]}': "`car` has the ids [1000], expected some of 0 to 999.",
        '{"car": [-1], "dog": [1]}': "`car` has the ids [-1], expected some of 0 to 999.",
        '{"car": [], "dog": [1]}': "`car` has the ids [], expected some of 0 to 999.",
        '{"car": [817]}': "has no `dog`. Remove the folder, or correct its name.",
    }.items()),
    synthetic("without the factor", change=lambda root: shutil.rmtree(root / "background"), refused="has no folder `background`; expected background, texture, material."),
    animals("a class without the part", change=lambda root: shutil.rmtree(root / "9 ostrich/common-snow"), refused="has no folder whose name holds `common` alone."),
    animals("a folder of both parts", change=_renamed("9 ostrich/common-snow", "9 ostrich/common-counter"), refused="has no folder whose name holds `common` alone."),
    animals("a class 1000", change=_renamed("9 ostrich", "1000 ostrich"), refused="expected a name that begins with a class of ImageNet, as in `9 ostrich`."),
    animals("a class without a number", change=_renamed("9 ostrich", "ostrich"), refused="expected a name that begins with a class of ImageNet, as in `9 ostrich`."),
    animals("an empty folder", change=_empty_folder, refused="holds no folders that are named after classes of this set."),
    hard("without ImageNet", change=lambda root: None, refused="give your ImageNet-1k, for the images, with --imagenet"),
    hard("an ImageNet without the image", change=_with_imagenet(lambda root: shutil.rmtree(root / "imagenet/val")), refused="its image n01440764/ILSVRC2012_val_00000007.JPEG is not in"),
    hard("a mask of a class that there is not", change=_with_imagenet(lambda root: next((root / "val").iterdir()).rename(root / "val/n99999999_x.png")), refused="`n99999999` is not a wnid of ImageNet-1k"),
    hard("a damaged mask", change=_with_imagenet(lambda root: next((root / "val").iterdir()).write_bytes(b"x")), refused="cannot identify image file '{root}/val/n01440764_ILSVRC2012_val_00000007.png'"),
    hard("ImageNet in its place", change=_with_imagenet(lambda root: shutil.rmtree(root / "val")), refused="holds no masks `<wnid>_<file>`"),
    SetAttack("imagenet-9", "a name without its variation", _imagenet_9, lambda root: None, "There is no set `imagenet-9`; expected one of"),
]
# fmt: on
