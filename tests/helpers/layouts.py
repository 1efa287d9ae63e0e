"""Miniatures of the official layouts of the sets, with few and small images and every trap, and their rows as users load and
write them."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import h5py
import numpy as np
from PIL import ExifTags, Image
from scipy.io import savemat

from robust_vit_hf import load_image_set
from robust_vit_hf.data.image_sets import prepare as prepare_set
from robust_vit_hf.data.options import PrepareOptions
from robust_vit_hf.masks.make_masks import prepare_masks
from robust_vit_hf.masks.options import CocoOptions
from robust_vit_hf.masks.tokencut import MaskResult
from robust_vit_hf.utils.images import encode_image

from .tiny import GOLDFISH, STINGRAY, TENCH


def picture(seed: int, size: tuple[int, int] = (30, 24)) -> Image.Image:
    """Noise, `size` is (width, height)."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def bright_square(index: int = 4) -> Image.Image:
    """Image in which one object stands out: a bright square on dark noise, further right for a larger index."""
    pixels = np.random.default_rng(index).integers(0, 60, (96, 96, 3), dtype=np.uint8)
    pixels[32:64, 16 + 4 * index : 48 + 4 * index] = 250
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path, orientation: int = 1, quality: int = 95) -> Path:
    """Write an image as stored, with the EXIF orientation by which a reader turns it; 1 leaves it as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, quality=quality, **{} if orientation == 1 else {"exif": exif})
    return path


def image_table(path, images: list | None = None, features: dict | None = None, **columns: list):
    """Write parquet of images, by default pictures `0.png`, `1.png`, …, and other columns, with features that their values do not tell."""
    count = len(next(iter(columns.values())))
    images = images or [encode_image(picture(seed), f"{seed}.png", "PNG") for seed in range(count)]
    rows = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
    for name, values in columns.items():
        rows = rows.add_column(name, values, feature=(features or {}).get(name))
    rows.to_parquet(path)
    return path


def image_folder(root: Path, rows: list[dict], orientation: int = 1) -> Path:
    """Image folder with masks: `train/<n>.png`, `train/<n>_mask.png` and the `metadata.jsonl` that names them."""
    lines = []
    for index, row in enumerate(rows):
        save(row["image"], root / "train" / f"{index}.png", orientation)
        save(row["mask"], root / "train" / f"{index}_mask.png")
        names = {"image_file_name": f"{index}.png", "mask_file_name": f"{index}_mask.png"}
        lines.append(json.dumps(names | {"label": row["label"]}))
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines))
    return root


def class_folders(root: Path, counts: dict[str, int], suffix: str = ".jpg", seed: int = 0) -> Path:
    """`root/<class>/<class>_<n><suffix>`, written in reverse order, so that a listing that is not sorted shows."""
    for name, count in reversed(counts.items()):
        for index in reversed(range(count)):
            save(picture(seed := seed + 1), root / name / f"{name}_{index}{suffix}")
    return root


def validation_names(count: int) -> list[str]:
    return [f"ILSVRC2012_val_{number:08d}" for number in range(1, count + 1)]


def flat_validation(root: Path, count: int) -> Path:
    for seed, name in enumerate(validation_names(count)):
        save(picture(seed), root / f"{name}.JPEG")
    return root


def kaggle_solution(path: Path, wnids: list[str]) -> None:
    """Kaggle's ground truth, in another order than the images, with boxes."""
    with path.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["ImageId", "PredictionString"])
        for name, wnid in reversed(list(zip(validation_names(len(wnids)), wnids, strict=True))):
            writer.writerow([name, f"{wnid} 111 108 404 417 {wnid} 1 2 3 4 "])


def devkit(root: Path, id_of_wnid: dict[str, int], truth: list[str]) -> Path:
    """ILSVRC2012_devkit_t12: `meta.mat` with ids in an order of their own, and the ground truth as these ids."""
    (root / "data").mkdir(parents=True)
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.zeros((len(id_of_wnid), 1), dtype=fields)
    for row, (wnid, identifier) in enumerate(id_of_wnid.items()):
        synsets[row, 0] = (np.uint16(identifier), wnid, "some, words", np.uint8(0))
    savemat(root / "data" / "meta.mat", {"synsets": synsets})
    lines = "".join(f"{id_of_wnid[wnid]}\n" for wnid in truth)
    (root / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    return root


def objectnet(root: Path) -> Path:
    """objectnet-1.0 with four folders: one class, three classes, no ImageNet class, and a border of 2 red pixels.

    `imagenet_to_label_2012_v2` is in an order of its own, and has "crane" twice.
    """
    names = ["plunger, plumber's helper", "crane", "barber chair", "crane", "folding chair", "rocking chair, rocker"]
    labels = [731, 134, 423, 517, 559, 765]
    mappings = {
        "folder_to_objectnet_label.json": {"plunger": "Plunger", "chair": "Chair", "banana": "Banana", "axe": "Axe"},
        "objectnet_to_imagenet_1k.json": {
            "Plunger": "plunger, plumber's helper",
            "Chair": "barber chair; folding chair; rocking chair, rocker",
        },
        "pytorch_to_imagenet_2012_id.json": {str(label): line for line, label in enumerate(labels)},
    }
    (root / "mappings").mkdir(parents=True)
    for name, content in mappings.items():
        (root / "mappings" / name).write_text(json.dumps(content))
    (root / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(names) + "\n")
    for seed, folder in enumerate(mappings["folder_to_objectnet_label.json"]):
        framed = Image.new("RGB", (34, 28), (255, 0, 0))
        framed.paste(picture(seed), (2, 2))
        save(framed, root / "images" / folder / f"{folder}_0.png")
    return root


SI_SCORE_HEADER = ["image_id", "x_coord", "y_coord", "area", "rotation", "foreground_class", "foreground_instance"]
SI_SCORE_HEADER += ["background", "bg_resolution_width", "bg_resolution_height", "pct_inside_image"]


def si_score(root: Path, counts: dict[str, int], metadata: bool = True) -> Path:
    """A folder of SI-Score: classes named in English, and CSVs beside the folders. Row `i` is at x = i / 10, turned by
    20 i + 1 degrees; ids run over the classes and do not sort as numbers when they are compared as strings."""
    rows, identifier = [], 8
    for name, count in counts.items():
        for _ in range(count):
            save(picture(identifier), root / name / f"{identifier}.jpg")
            rows.append([identifier, identifier / 10, 0.5, 0.2, 20 * identifier + 1, 0, 0, 3, 500, 500, 1.0])
            identifier += 1
    if metadata:
        with (root / "metadata.csv").open("w", newline="") as lines:
            csv.writer(lines).writerows([SI_SCORE_HEADER, *reversed(rows)])
    for name in ("backgrounds.csv", "foreground_classes.csv"):
        (root / name).write_text("int,label\n0,banana\n")
    return root


def segmentation_mat(path: Path, examples: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    """MATLAB 7.3 file of ImageNet-Segmentation: references to images, and to cells that hold references to masks, all
    with their axes in reverse.

    Args:
        examples: images `(H, W, 3)` and masks `(H, W)`.
    """
    with h5py.File(path, "w") as file:
        reference = h5py.special_dtype(ref=h5py.Reference)
        images = file.create_dataset("/value/img", (len(examples), 1), dtype=reference)
        masks = file.create_dataset("/value/gt", (len(examples), 1), dtype=reference)
        for index, (image, mask) in enumerate(examples):
            stored = file.create_dataset(f"/#refs#/img{index}", data=image.transpose(2, 1, 0))
            images[index, 0] = stored.ref
            inner = file.create_dataset(f"/#refs#/mask{index}", data=mask.transpose(1, 0))
            cell = file.create_dataset(f"/#refs#/cell{index}", (1, 1), dtype=reference)
            cell[0, 0] = inner.ref
            masks[index, 0] = cell.ref
    return path


def coded_mask(ids: np.ndarray) -> Image.Image:
    """Mask PNG of ImageNet-S: class id = R + 256 · G."""
    return Image.fromarray(np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1).astype(np.uint8))


def imagenet_s(root: Path, ids: dict[str, int], images: dict[str, list[str]], with_images: bool = True) -> Path:
    """ImageNet-S919: `train-semi-segmentation/<folder>/<name>.png` with a square of the class in it and a rim that is to
    be ignored, `train-semi/<folder>/<name>.JPEG`, and the category file.

    Args:
        ids: folder to mask id.
        images: folder to names without suffix, such as `n01440764_18`.
    """
    seed = 0
    for folder in reversed(images):
        for name in reversed(images[folder]):
            values = np.zeros((24, 30), dtype=np.int32)
            values[4:20, 6:22] = 1000
            values[6:18, 8:20] = ids[folder]
            save(coded_mask(values), root / "train-semi-segmentation" / folder / f"{name}.png")
            if with_images:
                save(picture(seed := seed + 1), root / "train-semi" / folder / f"{name}.JPEG")
    return root


def webdataset(
    folder: Path, rows: list[tuple[str, Image.Image, int]], image_suffix: str = "webp", rows_per_tar: int = 2
) -> Path:
    """Tars `0.tar`, `1.tar`, … of some rows each: `<key>.webp` and `<key>.cls`, and `nshards.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = [rows[first : first + rows_per_tar] for first in range(0, len(rows), rows_per_tar)]
    for number, shard in enumerate(shards):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for key, image, label in shard:
                encoded = io.BytesIO()
                image.save(encoded, {"webp": "webp", "jpg": "jpeg", "png": "png"}[image_suffix], quality=95)
                for suffix, content in ((image_suffix, encoded.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (folder / "nshards.txt").write_text(f"{len(shards)}\n")
    return folder


def tar_of(folder: Path, path: Path) -> Path:
    """Tar of a folder, compressed as its suffix says."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        tar.add(folder, folder.name)
    return path


def imagenet_9(root: Path, counts: dict[str, int], variations: tuple[str, ...]) -> Path:
    """`bg_challenge` of ImageNet-9: its images in each variation, and the masks of the original ones, of the upper half."""
    for number, variation in enumerate(variations):
        class_folders(root / variation / "val", counts, ".JPEG", seed=1000 * number)
    for folder, count in counts.items():
        (root / "fg_mask" / "val" / folder).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((24, 30), dtype=bool)
            mask[:12] = True
            np.save(root / "fg_mask" / "val" / folder / f"{folder}_{index}.npy", mask)
    return root


def imagenet_d(root: Path, ids: dict[str, list], counts: dict[str, dict[str, int]]) -> Path:
    """ImageNet-D: images of each factor and name, and JSON with the ids that count."""
    for factor, of_factor in counts.items():
        class_folders(root / factor, of_factor, ".png")
    (root / "imgnet_d2imgnet_id.txt").write_text(json.dumps(ids))
    return root


def hard_imagenet(root: Path, imagenet: Path, images: dict[str, list[str]]) -> Path:
    """Hard ImageNet: masks of validation images, `val/<wnid>_<file>`, whose images are in `imagenet`."""
    for seed, (wnid, names) in enumerate(images.items()):
        for name in names:
            save(picture(seed), imagenet / "val" / wnid / f"{name}.JPEG")
            mask = np.zeros((24, 30), dtype=np.uint8)
            mask[:12] = 1  # the object is any value above 0
            save(Image.fromarray(mask), root / "val" / f"{wnid}_{name}.png")
    return root


def waterbirds(root: Path, rows: list[tuple[int, int, int]]) -> Path:
    """Waterbirds: images of (y, place, split), their metadata, and CUB's segmentations in a folder beside it, in which levels
    are shares of five annotators."""
    folder, lines = root / "waterbird_complete95_forest2water2", []
    for index, (y, place, split) in enumerate(rows):
        name = f"{index + 1:03d}.Some_bird/Some_Bird_{index}.jpg"
        save(picture(index), folder / name)
        levels = np.repeat(np.array([0, 102, 153, 255], dtype=np.uint8), 6)[:, None].repeat(30, axis=1)
        save(Image.fromarray(levels), root / "segmentations" / Path(name).with_suffix(".png"))
        lines.append([index + 1, name, y, split, place, f"/f/forest/broadleaf/{index}.jpg"])
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["img_id", "img_filename", "y", "split", "place", "place_filename"])
        writer.writerows(lines)
    return folder


def both_ways(name: str, source=None, **options) -> list[dict]:
    """Rows of a set, after checking that streaming gives the same as the table."""
    table = load_image_set(name, source, **options)
    stream = load_image_set(name, source, streaming=True, **options)
    assert dict(table.features) == dict(stream.features)
    for row, streamed in zip(table, stream, strict=True):
        assert row["image"].tobytes() == streamed["image"].tobytes()
        assert {**row, "image": None} == {**streamed, "image": None}
    return list(table)


def labels_and_names(rows: list[dict]) -> list[tuple]:
    return [(row["label"], row["file_name"]) for row in rows]


def miniatures(root: Path) -> dict[str, Path]:
    """Every evaluation set of the paper in its official layout, with 4 to 6 images, by name."""
    folders = {
        "imagenet-1k": class_folders(root / "imagenet" / "val", {TENCH: 3, GOLDFISH: 2}, ".JPEG").parent,
        "imagenet-a": class_folders(root / "a", {STINGRAY: 4}),
        "imagenet-r": class_folders(root / "r", {GOLDFISH: 4}),
        "imagenet-sketch": class_folders(root / "sketch", {TENCH: 2, GOLDFISH: 2}),
        "imagenet-v2": class_folders(root / "v2", {"0": 2, "10": 1, "2": 2}),
        "objectnet": objectnet(root / "objectnet-1.0"),
    }
    for name, folder in (("location", "location20_area02_min0pc"), ("rotation", "rotation"), ("size", "area")):
        folders[f"si-score-{name}"] = si_score(root / name / folder, {"koala": 4, "wok": 2})
    return folders


def prepare(name: str, sources: list[str], output: Path, **options) -> dict[str, tuple[int, int]]:
    """Rows and rejected rows of each split of a set that is written."""
    return counts_of(prepare_set(PrepareOptions(set=name, sources=sources, output_dir=output, **options)))


def masks_by(masker: Callable, images: Path, output: Path, **options) -> dict[str, tuple[int, int]]:
    """Rows and rejected rows of each split of images with masks that a mask maker of the test makes."""
    given = CocoOptions(images=str(images), output_dir=output, annotations="none.json", **options)
    return counts_of(prepare_masks(given, lambda options, features: masker))


def counts_of(text: str) -> dict[str, tuple[int, int]]:
    """Rows and rejected rows by split in what a command says that it wrote: `<split>: <rows> rows, <rejected> rejected`."""
    lines = (line.partition(": ") for line in text.splitlines()[:-1])
    return {split: tuple(int(part.split()[0].replace(",", "")) for part in of.split(", ")) for split, _, of in lines}


def half_masks(images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
    """Mask maker of the left half of each image."""
    masks = [Image.new("L", image.size) for image in images]
    for mask in masks:
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
    return [MaskResult(mask) for mask in masks]
