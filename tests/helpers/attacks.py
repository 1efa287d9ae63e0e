"""Attacks on `diagnose` and `improve`: inputs that are hostile, damaged or wrong, and what happens then."""

import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from robust_vit_hf import make_image_processor

from .architectures import FAMILIES
from .tiny import IMAGE_SIZE, LETTERS, STILL, save_pretrained, tiny_vit


NUM_IMAGES = 12  # validation images of the inputs, three of each class
CLASSES = "abcd"
COLOURS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))  # of the backgrounds of each class


def background(label: int, rng: np.random.Generator) -> Image.Image:
    """Noise whose colour shows the class."""
    return Image.fromarray((rng.integers(0, 50, (40, 40, 3)) + 60 * np.array(COLOURS[label])).astype(np.uint8))


def photograph(label: int, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A background with a bright square, whose place shows the class too, and the mask of the square."""
    pixels = np.array(background(label, rng))
    mask = np.zeros((40, 40), dtype=np.uint8)
    top, left = 4 + 16 * (label // 2), 4 + 16 * (label % 2)
    mask[top : top + 12, left : left + 12] = 255
    pixels[mask > 0] = 230
    return Image.fromarray(pixels), Image.fromarray(mask)


def biased_model(images: Sequence[Image.Image], labels: Sequence[int], **names) -> ViTForImageClassification:
    """A model finetuned on images, of which it takes the colour of the background."""
    model, processor = tiny_vit(**STILL, **names).train(), make_image_processor("paper", IMAGE_SIZE)
    pixels = processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(pixels).logits, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


class Inputs:
    """Photographs, masks and a model that takes the class from the background, as files in a folder:
    `photos/validation/a/0.png`, `masks/validation/a/0.png`, `model`."""

    def __init__(self, root: Path):
        self.root, self.out = root, root / "out"
        self.photos, self.masks, self.model = (root / name for name in ("photos", "masks", "model"))
        self.at_work: list[subprocess.Popen] = []

    def write(self) -> None:
        rng = np.random.default_rng(0)
        for split, count in {"train": 8, "validation": NUM_IMAGES}.items():
            for number in range(count):
                label = number % len(CLASSES)
                for picture, folder in zip(photograph(label, rng), (self.photos, self.masks), strict=True):
                    path = folder / split / CLASSES[label] / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
        labels = 4 * [*range(len(CLASSES))]
        model = biased_model([background(label, rng) for label in labels], labels, **LETTERS)  # never saw a square
        save_pretrained(model, self.model, "paper")

    def image(self, name: str = "a/0.png", split: str = "validation") -> Path:
        return self.photos / split / name

    def mask(self, name: str = "a/0.png", split: str = "validation") -> Path:
        return self.masks / split / name

    def rename(self, name: str, mask: str | None = None) -> None:
        self.image().rename(self.image(name))
        self.mask().rename(self.mask(mask or name))

    def replace(
        self, picture: Image.Image, suffix: str = ".png", size: tuple[int, int] | None = None, **options
    ) -> None:
        """Another picture in place of `a/0.png`, with a mask of its size."""
        self.image().unlink()
        picture.save(self.image(f"a/0{suffix}"), **options)
        width, height = size or picture.size
        mask = Image.new("L", (width, height))
        mask.paste(255, (width // 4, height // 4, width // 4 + max(1, width // 3), height // 4 + max(1, height // 3)))
        mask.save(self.mask())

    def redraw(self, change: Callable[[np.ndarray], np.ndarray], every: bool = False) -> None:
        """Change the mask of `a/0.png`, or all of the validation images."""
        for path in sorted((self.masks / "validation").rglob("*.png")) if every else [self.mask()]:
            Image.fromarray(change(np.array(Image.open(path)))).save(path)

    def remove(self, *classes: str, split: str = "validation") -> None:
        for name in classes:
            shutil.rmtree(self.image(name, split))

    def keep(self, count: int) -> None:
        """Keep the first validation images of each class."""
        for folder in sorted((self.photos / "validation").iterdir()):
            for path in sorted(folder.iterdir())[count:]:
                path.unlink()

    def metadata(self, text: str, split: str = "validation") -> None:
        self.image("metadata.csv", split).write_text(text)

    def work_in_output(self) -> None:
        """Start a process that holds the lock of the output folder, until [`end`]."""
        (self.out / "cache").mkdir(parents=True)
        hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print(flush=True), sys.stdin.read()"
        command = [sys.executable, "-c", hold, str(self.out / "cache" / ".lock")]
        self.at_work.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        self.at_work[-1].stdout.readline()

    def end(self) -> None:
        for process in self.at_work:
            process.kill()
            process.communicate()

    def configure(self, file: str = "config.json", **values) -> None:
        path = self.model / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def weigh(self, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
        path = self.model / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})


class Words(list):
    """Options of a command, and their values."""


@dataclass(frozen=True)
class Attack:
    """Inputs in words, what changes them, and what `diagnose` or `improve` makes of them."""

    what: str
    change: Callable[[Inputs], Any]  # may return options of the command, as [`Words`]
    refused: str | None = None  # words of the error, where `{root}` is the folder of the inputs
    images: int = NUM_IMAGES  # number of images that are measured if the command succeeds
    told: str = ""  # part of what is printed then
    command: str = "diagnose"
    after: bool = False  # the command is complete in the output folder before the attack
    anew: bool = False  # its outputs are those of a new folder then, and otherwise as they were
    processes: int = 1  # how many share the command, started by a launcher


@contextmanager
def copied_at_writes(folder: Path, copies: Path) -> Iterator[None]:
    """Context manager that copies a folder as kills leave it: before each atomic write, to `copies/0`, `copies/1`, …"""
    replace = Path.replace

    def copied(path: Path, target: Path) -> Path:
        if Path(target).is_relative_to(folder):
            copies.mkdir(exist_ok=True)
            shutil.copytree(folder, copies / str(len([*copies.iterdir()])))
        return replace(path, target)

    with patch.object(Path, "replace", copied):
        yield


def noise(width: int = 40, height: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


PICTURE = Image.fromarray(noise())
LINES = "".join(f"{CLASSES[number % 4]}/{number}.png,{CLASSES[number % 4]}\n" for number in range(NUM_IMAGES))
UNLABELLED, FRACTIONS = (f"file_name,label\na/0.png,{label}\nb/1.png,{label}\n" for label in (-1, 0.5))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def png_header(width: int, height: int) -> bytes:
    """A PNG file of this size that ends where the pixels would begin."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def _rotated(of: Inputs, mask_size: tuple[int, int]) -> None:
    rotated = Image.Exif()
    rotated[0x112] = 6
    of.replace(PICTURE.crop((0, 0, 40, 20)), ".jpg", mask_size, exif=rotated)


def _moved_and_linked(of: Inputs) -> None:
    shutil.move(of.image(), of.root / "elsewhere.png")
    of.image().symlink_to(of.root / "elsewhere.png")
    shutil.move(of.image("b"), of.root / "b")
    of.image("b").symlink_to(of.root / "b")


def _of_systems(of: Inputs) -> None:
    for folder in ("__MACOSX", "a/.ipynb_checkpoints", "a/9.png"):
        of.image(folder).mkdir()
    for name in ("a/._0.png", "Thumbs.db", "a/desktop.ini", "__MACOSX/0.png", "a/.ipynb_checkpoints/0.png"):
        shutil.copy(of.image(), of.image(name))


def _deeper(of: Inputs) -> None:
    of.image("deep").mkdir()
    for name in CLASSES:
        of.image(name).rename(of.image(f"deep/{name}"))


FIRST = "{root}/photos/validation/a/0.png"
IMAGES = [
    Attack("one of 1×1 pixels", lambda of: of.replace(Image.fromarray(noise(1, 1))), images=11, told="empty or full"),
    Attack("a PNG that is cut off", lambda of: _cut(of.image()), FIRST),
    Attack("an EXIF rotation, and a mask of the stored size", lambda of: _rotated(of, (40, 20)), "perhaps by EXIF"),
    Attack("an EXIF rotation, and a mask of the shown size", lambda of: _rotated(of, (20, 40))),
    Attack("a link to nowhere", lambda of: (of.image().unlink(), of.image().symlink_to("nowhere.png")), FIRST),
    Attack("an image and a class folder that are links", _moved_and_linked),
    Attack("links in a circle", lambda of: of.image("a/loop").symlink_to(of.image("a"))),
    Attack("hidden files of macOS, Windows and Jupyter", _of_systems),
    Attack("a file with signs in its name", lambda of: of.rename("a/-rf a#b%20&c;'\":😀\n.x.png")),
    Attack("accents as macOS writes them, in the images alone", lambda of: of.rename("a/e\u0301.png", "a/\u00e9.png")),
    Attack("two names of one mask", lambda of: shutil.copy(of.image(), of.image("a/0.PNG")), "2 images"),
    Attack("no image", lambda of: of.keep(0), "Unknown split"),
    Attack("a class of the model without images", lambda of: of.remove("d"), images=9),
    Attack("one class", lambda of: of.remove(*"bcd"), "of one class"),
    Attack("no folder", lambda of: shutil.rmtree(of.photos), "There is no file or folder `{root}/photos`"),
    Attack("class folders one level deeper", _deeper, "12 deeper than class folders"),
    Attack("metadata with a byte order mark", lambda of: of.metadata("\ufefffile_name,label\n" + LINES)),
    Attack(
        "metadata without a label in one line",
        lambda of: of.metadata("file_name,label\n" + LINES.replace("a/0.png,a", "a/0.png,")),
        images=11,
        told="Left out without a label: 1 of 12 images of `validation`.",
    ),
    Attack("no labels", lambda of: of.metadata(UNLABELLED), "None of the 2 images of `validation` has a label"),
    Attack("the label 0.5", lambda of: of.metadata(FRACTIONS), "label"),
]

PIXELS = np.arange(1600).reshape(40, 40)
LEFT_OUT = "Left out with an empty or full mask: 1 of 12 rows of the validation dataset"


def _as_jpeg(of: Inputs) -> None:
    mask = Image.open(of.mask()).convert("L")
    of.mask().unlink()
    mask.save(of.mask("a/0.jpg"), quality=30)


MASKS = [
    Attack("an empty mask", lambda of: of.redraw(lambda mask: 0 * mask), images=11, told=LEFT_OUT),
    Attack("a full mask", lambda of: of.redraw(lambda mask: 0 * mask + 255), images=11, told=LEFT_OUT),
    Attack("all masks empty", lambda of: of.redraw(lambda mask: 0 * mask, every=True), "mask is empty"),
    Attack("all masks of 0 and 1", lambda of: of.redraw(lambda mask: mask // 255, every=True)),
    Attack(
        "all masks of a pixel that is cropped away",
        lambda of: of.redraw(lambda mask: np.uint8(255 * (PIXELS == 0)), every=True),
        told="no image could be composed with another background",
    ),
    Attack("a mask as a JPEG of quality 30", _as_jpeg),
    Attack("a mask that is cut off", lambda of: _cut(of.mask()), "mask cannot be decoded"),
    Attack("an image without a mask", lambda of: of.mask().unlink(), images=11, told="`masks`: 1 of 12 images"),
    Attack("masks of one class", lambda of: [shutil.rmtree(of.mask(name)) for name in "bcd"], "one class"),
    Attack("a mask whose suffix is in capitals", lambda of: of.mask().rename(of.mask("a/0.PNG"))),
    Attack("a mask without an image", lambda of: shutil.copy(of.mask(), of.mask("a/99.png"))),
    Attack("two masks of an image", lambda of: Image.open(of.mask()).save(of.mask("a/0.bmp")), "masks of one image"),
    Attack(
        "masks without class folders",
        lambda of: [path.rename(of.masks / path.name) for path in [*(of.masks / "validation").rglob("*.png")]],
        "has a mask for none of 12 images",
    ),
    Attack("the images as masks", lambda of: Words(("--masks", of.photos)), "expected one channel"),
]


def _first(value: float) -> Callable[[Inputs], None]:
    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["classifier.weight"][0, 0] = value
        return weights

    return lambda of: of.weigh(change)


def _named(names: dict, label2id: dict | None = None) -> Callable[[Inputs], None]:
    return lambda of: of.configure(id2label=names, label2id=label2id or {})


def _clip_of_three_names(of: Inputs) -> None:
    save_pretrained(FAMILIES["CLIP, zero-shot"].tiny(**LETTERS), of.model, "paper")
    of.configure(id2label=dict(enumerate("abc")), label2id={})


PROCESSOR = "preprocessor_config.json"
MODELS = [
    Attack("CLIP with three names for four texts", _clip_of_three_names, "(3, 16)"),
    Attack("a weight of NaN", _first(float("nan")), "NaN or infinite"),
    Attack(
        "half precision", lambda of: of.weigh(lambda weights: {name: each.half() for name, each in weights.items()})
    ),
    Attack("two classes of one name", _named(dict(enumerate("aacd"))), "more than once, such as `a`"),
    Attack("a class without a name", _named({0: None, 1: "b", 2: "c", 3: "d"}), "does not have"),
    Attack("a `label2id` that contradicts", lambda of: of.configure(label2id={"a": 3, "b": 2, "c": 1, "d": 0})),
    Attack(
        "a convolutional network", lambda of: of.configure(model_type="resnet", architectures=["ResNet"]), "ResNet"
    ),
    Attack("patches of 7 pixels, for weights of 8", lambda of: of.configure(patch_size=7), "(24, 3, 7, 7)"),
    Attack("code", lambda of: of.configure(auto_map={"AutoModelForImageClassification": "evil.Evil"})),
    Attack("no image processor", lambda of: (of.model / PROCESSOR).unlink(), "image processor"),
    Attack("a standard deviation of 0", lambda of: of.configure(PROCESSOR, image_std=[0, 0, 0]), "NaN or infinite"),
    Attack(
        "a crop of 33 pixels, for patches of 8",
        lambda of: of.configure(PROCESSOR, size={"shortest_edge": 36}, crop_size={"height": 33, "width": 33}),
        "33",
    ),
]


def _options(*options: str) -> Callable[[Inputs], Words]:
    return lambda of: Words(options)


def _at(place: Callable[[Inputs], Path | str]) -> Callable[[Inputs], Words]:
    return lambda of: Words(("--output_dir", place(of)))


WITHIN = "is within"
OPTIONS = [
    Attack("a shell's variable that is not set", _options("--masks", ""), "an argument is empty"),
    Attack("an output folder that is a file", lambda of: of.out.write_text("x"), "{root}/out"),
    Attack("an output folder among the images", _at(lambda of: of.image("out")), WITHIN),
    Attack("the masks as the output folder", _at(lambda of: of.masks), WITHIN),
    Attack("the model as the output folder", _at(lambda of: of.model), "has a model"),
]


def _text_as_background(of: Inputs) -> Words:
    (of.root / "backgrounds").mkdir()
    (of.root / "backgrounds" / "y.png").write_text("hello")
    return Words(("--backgrounds", of.root / "backgrounds"))


improved = partial(Attack, command="improve")
IMPROVE = [
    improved("training images of one class", lambda of: of.remove(*"bcd", split="train")),
    improved("the label 0.5", lambda of: of.metadata(FRACTIONS), "cast it to integers"),
    improved("no training labels", lambda of: of.metadata(UNLABELLED, "train"), "None of the 2 images of `train`"),
    improved("classes in one split or in none", lambda of: (of.remove(*"cd"), of.remove("d", split="train"))),
    improved("validation images of one class", lambda of: of.remove(*"bcd"), "of one class"),
    improved("training images without masks", lambda of: shutil.rmtree(of.masks / "train"), "none of 8 images"),
    improved("a learning rate of NaN", _options("--learning_rate", "nan"), "learning_rate"),
    improved("a background that is a text", _text_as_background, "backgrounds/y.png"),
    improved("the model as the output folder", _at(lambda of: of.model), "has a model"),
    improved("training images as the output folder", _at(lambda of: of.photos / "train"), WITHIN),
]


def _damage(path: str, how: Callable[[Path], Any]) -> Callable[[Inputs], None]:
    """Damage the first file of a name in the output folder."""
    return lambda of: how(sorted(of.out.glob(path))[0])


def _other_image(split: str = "validation") -> Callable[[Inputs], None]:
    return lambda of: PICTURE.save(of.image(split=split))


diagnosed, complete = partial(Attack, after=True), partial(improved, after=True)
AFTER = [
    diagnosed("`results.json` of an earlier run cut off", _damage("results.json", _cut)),
    diagnosed("`examples.parquet` of an earlier run cut off", _damage("examples.parquet", _cut)),
    diagnosed("predictions of an earlier run cut off", _damage("cache/*.parquet", _cut)),
    diagnosed("predictions of an earlier run deleted", _damage("cache/*.parquet", Path.unlink)),
    complete("`verdict.json` cut off", _damage("verdict.json", _cut)),
    complete("`model.safetensors` deleted", _damage("model.safetensors", Path.unlink)),
    complete("a training image changed since", _other_image("train"), anew=True),
    complete("a validation image changed since", _other_image(), anew=True),
    complete("the improved model replaced since", lambda of: shutil.copy(of.model / "model.safetensors", of.out)),
    complete("the improved folder as the model", lambda of: Words(("--model", of.out)), "has a model"),
]
TOGETHER = [
    Attack("another process in the output folder", Inputs.work_in_output, "is in use by another process"),
    improved("another process in the output folder", Inputs.work_in_output, "is in use by another process"),
    Attack("an image that is cut off, with two processes", lambda of: _cut(of.image()), FIRST, processes=2),
]

ATTACKS = [*IMAGES, *MASKS, *MODELS, *OPTIONS, *IMPROVE, *AFTER, *TOGETHER]
