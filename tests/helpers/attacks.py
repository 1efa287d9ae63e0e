"""Attacks on `diagnose` and `improve`: inputs that are hostile, damaged or wrong, and what was promised of each."""

import io
import json
import os
import shlex
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
from transformers import CLIPConfig, CLIPModel, ViTForImageClassification

from robust_vit_hf import make_image_processor

from .families import FAMILIES
from .tiny import IMAGE_SIZE, save_pretrained, tiny_vit


NUM_IMAGES = 12  # validation images of the inputs, three of each class
CLASSES = "abcd"
LETTERS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: label for label, name in enumerate(CLASSES)}}
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
    model, processor = tiny_vit(**names).train(), make_image_processor("paper", IMAGE_SIZE)
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
        self.root, self.photos, self.masks, self.model = (
            root,
            *(root / name for name in ("photos", "masks", "model")),
        )
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

    def redraw(
        self, change: Callable[[np.ndarray], np.ndarray], every: bool = False, split: str = "validation"
    ) -> None:
        """Change the mask of `a/0.png`, or all of a split."""
        for path in sorted((self.masks / split).rglob("*.png")) if every else [self.mask()]:
            Image.fromarray(change(np.array(Image.open(path)))).save(path)

    def remove(self, *classes: str, split: str = "validation") -> None:
        for name in classes:
            shutil.rmtree(self.image(name, split))

    def metadata(self, text: str | bytes, name: str = "metadata.csv") -> None:
        self.image(name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def work_in_output(self) -> None:
        """Start a process that holds the lock of the output folder, until [`end`]."""
        (self.root / "out").mkdir()
        hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print(flush=True), sys.stdin.read()"
        command = [sys.executable, "-c", hold, str(self.root / "out" / ".stage.lock")]
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
    """An attack.

    Args:
        what: the inputs, in words.
        change: changes the inputs; may return options of the command, as [`Words`].
        refused: part of the error, of one line, where `{root}` is the folder of the inputs; `None` if the command succeeds.
        images: number of images that are measured then.
        told: part of what is printed then.
        command: `diagnose` or `improve`.
        after: whether the command is complete in the output folder before the attack.
        killed: name of a file, as a pattern, whose first writing a kill ends; then the command is started again.
        late: whether the kill comes just after that file is complete.
        processes: number of processes that share the command, started by a launcher.
    """

    what: str
    change: Callable[[Inputs], Any]
    refused: str | None = None
    images: int = NUM_IMAGES
    told: str = ""
    command: str = "diagnose"
    after: bool = False
    killed: str = ""
    late: bool = False
    processes: int = 1

    @property
    def promise(self) -> str:
        if self.refused is not None:
            return f"refused: {self.refused.replace('{root}/', '')}"
        if self.after:
            return "done again"
        if self.killed:
            return "the same command does the rest, as if nothing had happened"
        measured = "measured" if self.images == NUM_IMAGES else f"{self.images} of {NUM_IMAGES} measured"
        return f"{measured}: {self.told}" if self.told else measured


@contextmanager
def copied_at(folder: Path, copies: dict[Attack, Path]) -> Iterator[None]:
    """Context manager that copies a folder as kills leave it: before a file is complete, or just after."""
    replace = Path.replace

    def copy(target: Path, late: bool) -> None:
        for attack, place in copies.items():
            if attack.late == late and Path(target).match(attack.killed) and not place.exists():
                shutil.copytree(folder, place)

    def copied(path: Path, target: Path) -> Path:
        copy(target, late=False)
        replaced = replace(path, target)
        copy(target, late=True)
        return replaced

    with patch.object(Path, "replace", copied):
        yield


def noise(width: int = 40, height: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


PICTURE = Image.fromarray(noise())
LINES = "".join(f"{CLASSES[number % 4]}/{number}.png,{CLASSES[number % 4]}\n" for number in range(NUM_IMAGES))


def _png_with(before: bytes, after: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + before + after


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(of: Inputs) -> None:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    of.image().write_bytes(_png_with(header, _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _chunk(b"IEND", b"")))


def _text_bomb(of: Inputs) -> None:
    whole = of.image().read_bytes()
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 20_000_000))
    of.image().write_bytes(whole[:33] + text + whole[33:])


def _jpeg_named_png(of: Inputs) -> None:
    jpeg = io.BytesIO()
    PICTURE.save(jpeg, "JPEG")
    of.image().write_bytes(jpeg.getvalue())


def _rotated(of: Inputs, mask_size: tuple[int, int]) -> None:
    rotated = Image.Exif()
    rotated[0x112] = 6
    of.replace(PICTURE.crop((0, 0, 40, 20)), ".jpg", mask_size, exif=rotated)


def _link(path: Path, to: Path | str) -> None:
    if path.is_dir():
        shutil.move(path, to)
    elif path.exists():
        path.unlink()
    path.symlink_to(to)


def _moved_and_linked(of: Inputs) -> None:
    shutil.move(of.image(), of.root / "elsewhere.png")
    of.image().symlink_to(of.root / "elsewhere.png")


def _no_utf8(of: Inputs) -> None:
    os.rename(os.fsencode(of.image()), os.fsencode(of.image("a")) + b"/\xff.png")


def _keep(of: Inputs, count: int, split: str = "validation") -> None:
    """The first images of each class."""
    for folder in sorted((of.photos / split).iterdir()):
        for path in sorted(folder.iterdir())[count:]:
            path.unlink()


def _all(of: Inputs, picture: Image.Image) -> None:
    for path in (of.photos / "validation").rglob("*.png"):
        picture.save(path)


UNREADABLE = "row 0 ({root}/photos/validation/a/0.png): image cannot be decoded: "
IMAGES = [
    Attack(
        "an image of 1×1 pixels",
        lambda of: of.replace(Image.fromarray(noise(1, 1))),
        images=11,
        told="1 of 12 masks of the validation dataset are empty or full",
    ),
    Attack("an image of 4000×1 pixels", lambda of: of.replace(Image.fromarray(noise(4000, 1)))),
    Attack("an image of 10×3000 pixels", lambda of: of.replace(Image.fromarray(noise(10, 3000)))),
    Attack("an empty file", lambda of: of.image().write_bytes(b""), UNREADABLE + "cannot identify image file"),
    Attack(
        "a PNG that is cut off",
        lambda of: of.image().write_bytes(of.image().read_bytes()[:300]),
        UNREADABLE + "image file is truncated",
    ),
    Attack(
        "a text that is named as a PNG",
        lambda of: of.image().write_text("hello"),
        UNREADABLE + "cannot identify image file",
    ),
    Attack("a JPEG that is named as a PNG", _jpeg_named_png),
    Attack(
        "an animated GIF", lambda of: of.replace(PICTURE, ".gif", save_all=True, append_images=[PICTURE.rotate(90)])
    ),
    Attack(
        "a 16-bit greyscale PNG", lambda of: of.replace(Image.fromarray(noise(channels=2).view(np.uint16)[..., 0]))
    ),
    Attack("transparency", lambda of: of.replace(Image.fromarray(noise(channels=4)))),
    Attack("a palette", lambda of: of.replace(PICTURE.convert("P"))),
    Attack("a palette with a transparent colour", lambda of: of.replace(PICTURE.convert("P"), transparency=0)),
    Attack("a CMYK JPEG", lambda of: of.replace(PICTURE.convert("CMYK"), ".jpg")),
    Attack("an image of 1 bit", lambda of: of.replace(PICTURE.convert("1"))),
    Attack(
        "a floating-point TIFF",
        lambda of: of.replace(Image.fromarray(np.zeros((40, 40), np.float32)), ".tiff"),
        "image cannot be decoded: an image of mode F holds 32-bit floating-point numbers, whose range is not known",
    ),
    Attack(
        "a TIFF of NaN",
        lambda of: of.replace(Image.fromarray(np.full((40, 40), np.nan, np.float32)), ".tiff"),
        "image cannot be decoded: an image of mode F",
    ),
    Attack("a CIELAB TIFF", lambda of: of.replace(Image.merge("LAB", PICTURE.split()), ".tiff")),
    Attack(
        "a TIFF of two pages",
        lambda of: of.replace(PICTURE, ".tiff", save_all=True, append_images=[PICTURE.resize((20, 20))]),
    ),
    *(
        Attack(f"an image with the suffix `{suffix}`", lambda of, suffix=suffix: of.replace(PICTURE, suffix))
        for suffix in (".bmp", ".webp", ".ppm", ".JPEG")
    ),
    Attack("an icon of several sizes", lambda of: of.replace(PICTURE.resize((32, 32)), ".ico")),
    Attack(
        "a rotation in the EXIF data, with a mask of the stored size",
        lambda of: _rotated(of, (40, 20)),
        "image is 20×40 but mask is 40×20: expected equal sizes",
    ),
    Attack("a rotation in the EXIF data, with a mask of the shown size", lambda of: _rotated(of, (20, 40))),
    Attack("a header of 60000×60000 pixels", _bomb, UNREADABLE + "Image size (3600000000 pixels) exceeds limit"),
    Attack("a text of 20 MB in a PNG of 5 KB", _text_bomb, UNREADABLE + "Decompressed data too large"),
    Attack("all images black", lambda of: _all(of, Image.new("RGB", (40, 40)))),
    Attack("all images the same", lambda of: _all(of, PICTURE)),
    Attack("a folder with the name of an image", lambda of: of.image("a/9.png").mkdir()),
    Attack(
        "a link to nowhere",
        lambda of: _link(of.image(), "nowhere.png"),
        UNREADABLE + "[Errno 2] No such file or directory",
    ),
    Attack("a link to an image elsewhere", _moved_and_linked),
    Attack("a class folder that is a link", lambda of: _link(of.image("a"), of.root / "a")),
    Attack(
        "links in a circle",
        lambda of: of.image("a/loop").symlink_to(of.image("a")),
        told="images: 120 deeper than class folders",
    ),
    Attack("files of macOS (`._0.png`)", lambda of: of.image("a/._0.png").write_bytes(b"\0\5\x16\7")),
    Attack(
        "`Thumbs.db` and `desktop.ini`",
        lambda of: [of.image(name).write_text("x") for name in ("Thumbs.db", "a/desktop.ini")],
    ),
    Attack(
        "a folder `__MACOSX`", lambda of: (of.image("__MACOSX").mkdir(), of.image("__MACOSX/0.png").write_text("x"))
    ),
    Attack(
        "checkpoints of Jupyter among the images",
        lambda of: (
            of.image("a/.ipynb_checkpoints").mkdir(),
            shutil.copy(of.image(), of.image("a/.ipynb_checkpoints/0-checkpoint.png")),
        ),
    ),
    *(
        Attack(
            f"a file named `{name}`" if len(name) < 40 else "a file name of 204 letters",
            lambda of, name=name: of.rename(f"a/{name}"),
        )
        for name in (
            "-rf.png",
            "a b.png",
            "a#b.png",
            "a%20b.png",
            "a&b;c.png",
            "a'b\".png",
            "a:b.png",
            "😀.png",
            "0.x.png",
            "x" * 200 + ".png",
        )
    ),
    Attack("a line break in the name of a file", lambda of: of.rename("a/x\ny.png")),
    Attack(
        "a file name that is not UTF-8",
        _no_utf8,
        "`{root}/photos` has a file whose name is not UTF-8, b'validation/a/\\xff.png': rename it.",
    ),
    Attack("accents as macOS writes them, in the images alone", lambda of: of.rename("a/e\u0301.png", "a/\u00e9.png")),
    Attack(
        "two names that differ in the case of their suffix",
        lambda of: shutil.copy(of.image(), of.image("a/0.PNG")),
        "is the mask of `a/0.PNG` and of `a/0.png`, which differ in their suffix alone: rename one of them.",
    ),
    Attack("an empty class folder", lambda of: of.image("e").mkdir()),
    Attack(
        "a class of the model without images",
        lambda of: [path.unlink() for path in of.image("d").iterdir()],
        images=9,
    ),
    Attack(
        "a class of one image",
        lambda of: [path.unlink() for path in sorted(of.image("d").iterdir())[1:]],
        images=10,
        told="1 images are the only one of their class",
    ),
    Attack(
        "one class",
        lambda of: of.remove(*"bcd"),
        "All 3 images are of one class, and none has the background of another",
    ),
    Attack(
        "one image of each of two classes",
        lambda of: (of.remove(*"cd"), _keep(of, 1)),
        images=2,
        told="Too few images to tell",
    ),
    Attack("no image", lambda of: _keep(of, 0), 'Unknown split "validation". Should be one of'),
    Attack("no folder", lambda of: shutil.rmtree(of.photos), "There is no file or folder `{root}/photos`"),
    Attack(
        "a file in place of the folder",
        lambda of: (shutil.rmtree(of.photos), of.photos.write_text("x")),
        "`{root}/photos` is a file, expected a folder of images or parquet files, or one parquet file.",
    ),
    Attack(
        "an image beside the class folders",
        lambda of: shutil.copy(of.image(), of.image("9.png")),
        told="left out 1 image: 1 in no class folder (`9.png`)",
    ),
    Attack(
        "class folders one level deeper",
        lambda of: (of.image("deep").mkdir(), [of.image(name).rename(of.image(f"deep/{name}")) for name in CLASSES]),
        "has no image in a class folder that can be read. Left out are 12 images: 12 deeper than class folders",
    ),
    *(
        Attack(
            f"a class folder `{name}` in place of `a`",
            lambda of, name=name: of.image("a").rename(of.image(name)),
            f"`validation` has 1 class that the model does not have, such as `{name}`",
        )
        for name in ("a ", "A", "zebra")
    ),
    Attack("two of four classes", lambda of: of.remove(*"cd"), images=6),
    Attack(
        "metadata without a line",
        lambda of: of.metadata("file_name,label\n"),
        "has no line of metadata for its images. Left out are 12 images: 12 without a line in metadata.csv",
    ),
    Attack(
        "metadata of a file that is not there",
        lambda of: of.metadata("file_name,label\nnope.png,a\n"),
        "has a mask for none of 1 images: expected `nope.png` there",
    ),
    Attack(
        "metadata of some images",
        lambda of: of.metadata("file_name,label\na/0.png,a\na/4.png,a\nb/1.png,b\nb/5.png,b\n"),
        images=4,
        told="left out 8 images: 8 without a line in metadata.csv",
    ),
    Attack(
        "metadata that name an image twice",
        lambda of: of.metadata("file_name,label\na/0.png,a\na/0.png,b\n"),
        "The images have `a/0.png` twice, which has one mask: leave one of them.",
    ),
    Attack(
        "metadata with semicolons",
        lambda of: of.metadata("file_name;label\na/0.png;a\n"),
        "names no image in line 2: expected its `file_name` or `image_file_name`.",
    ),
    Attack(
        "metadata with null bytes",
        lambda of: of.metadata(b"file_name,label\n\0\0,a\n"),
        "has a mask for none of 1 images",
    ),
    Attack("metadata with a byte order mark", lambda of: of.metadata("\ufefffile_name,label\n" + LINES)),
    Attack(
        "metadata with the label 0.5",
        lambda of: of.metadata("file_name,label\na/0.png,0.5\nb/1.png,1.5\n"),
        "Column `label` of the validation dataset is Value('float64'), expected integers",
    ),
    Attack(
        "metadata without a label in one line",
        lambda of: of.metadata("file_name,label\n" + LINES.replace("a/0.png,a", "a/0.png,")),
        images=11,
    ),
    Attack(
        "metadata of JSON that are cut off",
        lambda of: of.metadata('{"file_name": "a/0.png", "label": \n', "metadata.jsonl"),
        "line 1: Expecting value",
    ),
    Attack(
        "metadata as CSV and as JSON",
        lambda of: (
            of.metadata("file_name,label\n" + LINES),
            of.metadata('{"file_name": "a/0.png", "label": "a"}\n', "metadata.jsonl"),
        ),
        "The images have `a/0.png` twice",
    ),
]

PIXELS = np.arange(1600).reshape(40, 40)
CHANNELS = "mask has mode {}, expected one channel (1 or L)"
DRAWN: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str | None, str | None]] = {
    # of one mask, and of all
    "empty": (lambda mask: 0 * mask, None, "has no row with a usable mask (12 rows)"),
    "full": (lambda mask: 0 * mask + 255, None, "has no row with a usable mask (12 rows)"),
    "of 0 and 1": (lambda mask: mask // 255, "", ""),
    "inverted": (lambda mask: 255 - mask, "", ""),
    "of one pixel": (lambda mask: np.uint8(255 * (PIXELS == 820)), "", ""),
    "of class ids": (
        lambda mask: mask // 17,
        *2 * ("usual value of the mask's foreground is 15, expected 1 or 255 (class ids are not a mask)",),
    ),
    "of 0, 1 and 255": (
        lambda mask: np.where(PIXELS == 0, 1, mask).astype(np.uint8),
        *2 * ("the mask mixes the values 1 and 255",),
    ),
    "of noise": (lambda mask: noise()[..., 0] // 2, *2 * ("expected 1 or 255 (class ids are not a mask)",)),
    "of grey 128": (lambda mask: mask // 2 + 1, *2 * ("expected 1 or 255 (class ids are not a mask)",)),
    "of three equal channels": (lambda mask: np.stack([mask] * 3, -1), *2 * (CHANNELS.format("RGB"),)),
    "with transparency": (lambda mask: np.stack([mask] * 4, -1), *2 * (CHANNELS.format("RGBA"),)),
    "of 16 bits": (lambda mask: mask.astype(np.uint16) * 257, *2 * (CHANNELS.format("I;16"),)),
    "of half the size": (
        lambda mask: mask[::2, ::2],
        *2 * ("image is 40×40 but mask is 20×20: expected equal sizes",),
    ),
    "without its last rows": (
        lambda mask: mask[:30],
        *2 * ("image is 40×40 but mask is 40×30: expected equal sizes",),
    ),
}


def _as(of: Inputs, suffix: str, mode: str = "L", **options) -> None:
    mask = Image.open(of.mask()).convert(mode)
    of.mask().unlink()
    mask.save(of.mask(f"a/0{suffix}"), **options)


MASKS = [
    *(
        Attack(
            f"a mask {what}",
            lambda of, draw=draw: of.redraw(draw),
            one or None,
            *([11, "1 of 12 masks of the validation dataset are empty or full"] if one is None else []),
        )
        for what, (draw, one, _) in DRAWN.items()
    ),
    *(
        Attack(f"all masks {what}", lambda of, draw=draw: of.redraw(draw, every=True), every or None)
        for what, (draw, _, every) in DRAWN.items()
    ),
    Attack(
        "all masks of a pixel that is cropped away",
        lambda of: of.redraw(lambda mask: np.uint8(255 * (PIXELS == 0)), every=True),
        told="none of 12 images could be composed with another background",
    ),
    Attack("a mask of 1 bit", lambda of: _as(of, ".png", "1")),
    Attack("a mask with a palette", lambda of: _as(of, ".png", "P")),
    Attack("a mask of floating-point numbers", lambda of: _as(of, ".tiff", "F"), CHANNELS.format("F")),
    Attack("a mask as a JPEG of quality 30", lambda of: _as(of, ".jpg", quality=30)),
    Attack(
        "a mask that is an empty file",
        lambda of: of.mask().write_bytes(b""),
        "mask cannot be decoded: cannot identify image file",
    ),
    Attack(
        "a mask that is cut off",
        lambda of: of.mask().write_bytes(of.mask().read_bytes()[:60]),
        "mask cannot be decoded: image file is truncated",
    ),
    Attack(
        "a mask that is a folder",
        lambda of: (of.mask().unlink(), of.mask().mkdir()),
        "mask cannot be decoded: [Errno 21] Is a directory",
    ),
    Attack(
        "a mask that is a link to nowhere",
        lambda of: _link(of.mask(), "nowhere"),
        "mask cannot be decoded: [Errno 2] No such file",
    ),
    Attack("an image without a mask", lambda of: of.mask().unlink(), images=11, told="1 of 12 images have no mask"),
    Attack(
        "a class without masks", lambda of: shutil.rmtree(of.mask("a")), images=9, told="3 of 12 images have no mask"
    ),
    Attack(
        "masks of one class",
        lambda of: [shutil.rmtree(of.mask(name)) for name in "bcd"],
        "All 3 images are of one class",
    ),
    Attack("a mask without an image", lambda of: shutil.copy(of.mask(), of.mask("a/99.png"))),
    Attack(
        "two masks of an image",
        lambda of: Image.open(of.mask()).save(of.mask("a/0.bmp")),
        "are masks of one image: leave one of them.",
    ),
    Attack(
        "masks without class folders",
        lambda of: [path.rename(of.masks / path.name) for path in [*(of.masks / "validation").rglob("*.png")]],
        "has a mask for none of 12 images: expected `a/0.png` there or in `validation/`",
    ),
    Attack("the images as masks", lambda of: Words(("--masks", of.photos)), CHANNELS.format("RGB")),
    Attack(
        "a file as the folder of masks",
        lambda of: Words(("--masks", of.image())),
        "There is no folder of masks `{root}/photos/validation/a/0.png`, and no method of that name",
    ),
    Attack(
        "an empty folder of masks",
        lambda of: (shutil.rmtree(of.masks), of.masks.mkdir()),
        "has a mask for none of 12 images",
    ),
]


def _first(value: float) -> Callable[[dict], dict]:
    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["classifier.weight"][0, 0] = value
        return weights

    return change


def _of_classes(names: dict, **labels) -> Callable[[Inputs], None]:
    return lambda of: of.configure(id2label=names, **labels)


PROCESSOR = "preprocessor_config.json"
HEAD = {"classifier.weight": torch.zeros(7, 24), "classifier.bias": torch.zeros(7)}
NON_FINITE = "has 1 weights with NaN or infinite values, such as `classifier.weight`"
MODELS = [
    Attack(
        "a model without `config.json`",
        lambda of: (of.model / "config.json").unlink(),
        "Unrecognized model in {root}/model. Should have a `model_type` key",
    ),
    Attack(
        "a `config.json` that is cut off",
        lambda of: (of.model / "config.json").write_text("{"),
        "`{root}/model/config.json` is not valid JSON, and may be cut off",
    ),
    Attack(
        "a `config.json` that is a list",
        lambda of: (of.model / "config.json").write_text("[]"),
        "`{root}/model/config.json` holds no JSON object",
    ),
    Attack(
        "a model without weights",
        lambda of: (of.model / "model.safetensors").unlink(),
        "`{root}/model` cannot be loaded. Error no file named model.safetensors",
    ),
    Attack(
        "weights that are cut off",
        lambda of: (of.model / "model.safetensors").write_bytes((of.model / "model.safetensors").read_bytes()[:1000]),
        "`{root}/model` cannot be loaded. SafetensorError",
    ),
    Attack(
        "an empty file of weights",
        lambda of: (of.model / "model.safetensors").write_bytes(b""),
        "`{root}/model` cannot be loaded. SafetensorError",
    ),
    Attack("a weight of NaN", lambda of: of.weigh(_first(float("nan"))), NON_FINITE),
    Attack("an infinite weight", lambda of: of.weigh(_first(float("inf"))), NON_FINITE),
    Attack(
        "a weight of 3e38",
        lambda of: of.weigh(_first(3e38)),
        "are NaN or infinite. Look at the image and at the model's weights",
    ),
    Attack(
        "weights in half precision",
        lambda of: of.weigh(lambda weights: {name: each.half() for name, each in weights.items()}),
    ),
    Attack(
        "no head",
        lambda of: of.weigh(
            lambda weights: {name: each for name, each in weights.items() if "classifier" not in name}
        ),
        "`{root}/model` lacks 2 weights of a `ViTForImageClassification`",
    ),
    Attack(
        "a layer without weights",
        lambda of: of.weigh(lambda weights: {name: each for name, each in weights.items() if "layer.1." not in name}),
        "`{root}/model` lacks 16 weights of a `ViTForImageClassification`",
    ),
    Attack(
        "a weight that the model has not", lambda of: of.weigh(lambda weights: weights | {"extra": torch.zeros(2)})
    ),
    Attack(
        "a head of seven classes, of which four are named",
        lambda of: of.weigh(lambda weights: weights | HEAD),
        "The weights of `{root}/model` do not have the shapes of its `config.json`: `classifier.bias` (7,), expected (4,)",
    ),
    Attack(
        "two classes of one name",
        _of_classes(dict(enumerate("aacd")), label2id={"a": 0, "c": 2, "d": 3}),
        "`validation` has 2 classes that the model has more than once, such as `a`",
    ),
    Attack(
        "a number that is no class in `id2label`",
        _of_classes({0: "a", 1: "b", 2: "c", 9: "d"}),
        "`id2label` in the `config.json` of `{root}/model` has no text for the class 3",
    ),
    Attack(
        "a class without a name",
        _of_classes({0: None, 1: "b", 2: "c", 3: "d"}),
        "has no text for the class 0, expected one for each from 0 to 3.",
    ),
    Attack(
        "a `label2id` that contradicts `id2label`", lambda of: of.configure(label2id={"a": 3, "b": 2, "c": 1, "d": 0})
    ),
    Attack(
        "an unknown `model_type`",
        lambda of: of.configure(model_type="nothing"),
        "has model type `nothing` but Transformers does not recognize this architecture",
    ),
    Attack(
        "a convolutional network",
        lambda of: of.configure(model_type="resnet", architectures=["ResNetForImageClassification"]),
        "weights of a `ResNetForImageClassification`",
    ),
    Attack(
        "a model of text",
        lambda of: of.configure(model_type="bert", architectures=["BertForSequenceClassification"]),
        "for this kind of AutoModel: AutoModelForImageClassification",
    ),
    Attack(
        "patches of 7 pixels, for weights of 8",
        lambda of: of.configure(patch_size=7),
        "projection.weight` (24, 3, 8, 8), expected (24, 3, 7, 7)",
    ),
    Attack(
        "patches of 0 pixels",
        lambda of: of.configure(patch_size=0),
        "its `config.json` may not describe a model. ZeroDivisionError",
    ),
    Attack(
        "a size of images that is a text",
        lambda of: of.configure(image_size="32"),
        "its `config.json` may not describe a model",
    ),
    Attack(
        "a configuration that names code",
        lambda of: of.configure(auto_map={"AutoModelForImageClassification": "evil.Evil"}),
    ),
    Attack(
        "no image processor",
        lambda of: (of.model / PROCESSOR).unlink(),
        "`{root}/model` has no image processor, which the preset `model` takes",
    ),
    Attack(
        "an image processor that is cut off",
        lambda of: (of.model / PROCESSOR).write_text("{"),
        "`{root}/model/preprocessor_config.json` is not valid JSON",
    ),
    Attack(
        "a standard deviation of 0",
        lambda of: of.configure(PROCESSOR, image_std=[0, 0, 0]),
        "`image_std` of the image processor of `{root}/model` is [0, 0, 0], expected a list with a number above 0 for each of 3 channels.",
    ),
    Attack(
        "a mean of NaN",
        lambda of: of.configure(PROCESSOR, image_mean=[float("nan")] * 3),
        "`image_mean` of the image processor of `{root}/model` is [nan, nan, nan], expected a list with a finite number",
    ),
    Attack(
        "a mean of one channel",
        lambda of: of.configure(PROCESSOR, image_mean=[0.5]),
        "is [0.5], expected a list with a finite number for each of 3 channels",
    ),
    Attack(
        "a mean that is a text",
        lambda of: of.configure(PROCESSOR, image_mean="x"),
        "is x, expected a list with a finite number",
    ),
    Attack(
        "an image processor of another size",
        lambda of: of.configure(PROCESSOR, size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64}),
    ),
    Attack(
        "an image processor of 0 pixels",
        lambda of: of.configure(PROCESSOR, size={"height": 0, "width": 0}),
        "Size must contain 'height' and 'width' keys",
    ),
    Attack(
        "a crop of 33 pixels, for patches of 8",
        lambda of: of.configure(PROCESSOR, size={"shortest_edge": 36}, crop_size={"height": 33, "width": 33}),
        "Image size 33×33 is not divisible by the patch size 8×8",
    ),
    Attack(
        "an unknown image processor",
        lambda of: of.configure(PROCESSOR, image_processor_type="Nothing"),
        "Unrecognized image processor in {root}/model",
    ),
]


def _clip(change: Callable[[dict], dict] = dict, **values) -> Callable[[Inputs], None]:
    """The zero-shot classifier of CLIP in place of the model, with other weights or another configuration."""
    family = FAMILIES["CLIP, zero-shot"]

    def place(of: Inputs) -> None:
        save_pretrained(family.tiny(**LETTERS), of.model, "paper")
        of.weigh(change)
        of.configure(**values)

    return place


def _whole_clip(of: Inputs) -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48}
    texts = sizes | {"vocab_size": 9, "max_position_embeddings": 9}
    images = sizes | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=texts, vision_config=images, projection_dim=16)).save_pretrained(of.model)


def _with_head(name: str, value: float) -> Callable[[dict], dict]:
    return lambda weights: weights | {name: torch.full_like(weights[name], value)}


def _without(name: str) -> Callable[[dict], dict]:
    return lambda weights: {each: value for each, value in weights.items() if name not in each}


CLIP = [
    Attack("the zero-shot classifier of CLIP", _clip()),
    Attack("CLIP without classes", _whole_clip, "is CLIP, whose classes are texts: name them with"),
    Attack("the image encoder of CLIP alone", _clip(_without("text_embeds")), "is the image encoder of CLIP alone"),
    Attack("CLIP without its projection", _clip(_without("projection")), "is the image encoder of CLIP alone"),
    Attack(
        "CLIP with a text of NaN",
        _clip(_with_head("text_embeds", float("nan"))),
        NON_FINITE.replace("classifier.weight", "text_embeds"),
    ),
    Attack(
        "CLIP with an infinite temperature",
        _clip(_with_head("logit_scale", float("inf"))),
        "such as `logit_scale`",
    ),
    Attack(
        "CLIP with a temperature of e^100",
        _clip(_with_head("logit_scale", 100.0)),
        "are NaN or infinite. Look at the image and at the model's weights",
    ),
    Attack("CLIP with texts of zeros", _clip(_with_head("text_embeds", 0.0))),
    Attack(
        "CLIP with texts of another projection",
        _clip(projection_dim=12),
        "do not have the shapes of its `config.json`: `text_embeds` (4, 16), expected (4, 12)",
    ),
    Attack(
        "CLIP with three names for four texts",
        _clip(id2label=dict(enumerate("abc")), label2id={}),
        "`text_embeds` (4, 16), expected (3, 16)",
    ),
]


def _options(*options: str) -> Callable[[Inputs], Words]:
    return lambda of: Words(options)


def _another_model(of: Inputs) -> Words:
    save_pretrained(tiny_vit(seed=1, num_labels=5), of.root / "other", "paper")
    return Words(("--compare", of.root / "other"))


def _at(place: Callable[[Inputs], Path | str]) -> Callable[[Inputs], Words]:
    return lambda of: Words(("--output_dir", place(of)))


WITHIN = "where its files would be read as images the next time: choose another --output_dir."
OPTIONS = [
    *(
        Attack(f"`{shlex.join(options)}`", _options(*options), message)
        for options, message in {
            ("--num_images", "1"): "All 1 images are of one class",
            ("--num_images", "nan"): "Expected `num_images` to be a whole number, but got a number.",
            ("--num_images", "-3"): "Expected `num_images` ≥ 1, but got -3.",
            ("--num_images", "3.5"): "Expected `num_images` to be a whole number, but got a number.",
            ("--num_images", str(10**12)): None,
            ("--batch_size", "0"): "Expected `batch_size` ≥ 1, but got 0.",
            ("--batch_size", "1"): None,
            ("--batch_size", str(10**9)): None,
            ("--num_workers", "-1"): "Expected `num_workers` ≥ 0, but got -1.",
            ("--preset", "x"): "Expected `preset` to be one of paper, native, model.",
            ("--split", "../x"): 'Unknown split "../x". Should be one of',
            ("--masks", "nowhere"): "There is no folder of masks `nowhere`",
            (
                "--imagenet_9",
                "nowhere",
            ): "There is no file or folder `nowhere`, and it is not a Hub id (owner/name) either.",
            ("--html", "yes"): "there are more values than the options take.",
            ("--seed", "1"): "unknown option --seed.",
        }.items()
    ),
    *(
        Attack(f"`--{name} ''`", _options(f"--{name}", ""), f"Expected `{name}` not to be empty.")
        for name in ("model", "dataset", "split", "masks", "compare", "imagenet_9", "output_dir")
    ),
    Attack("a comparison with itself", lambda of: Words(("--compare", of.model))),
    Attack(
        "a comparison with a model of other classes",
        _another_model,
        "The models have 4 and 5 classes, so that they cannot be compared",
    ),
    Attack(
        "an output folder that is a file",
        lambda of: (of.root / "out").write_text("x"),
        "`{root}/out` is a file, so that `{root}/out` cannot be a folder",
    ),
    Attack(
        "an output folder below a file",
        _at(lambda of: of.model / "config.json" / "out"),
        "`{root}/model/config.json` is a file",
    ),
    Attack("the images as the output folder", _at(lambda of: of.photos), WITHIN),
    Attack("an output folder among the images", _at(lambda of: of.image("out")), WITHIN),
    Attack(
        "a link to the images as the output folder",
        lambda of: ((of.root / "link").symlink_to(of.photos), Words(("--output_dir", of.root / "link")))[1],
        WITHIN,
    ),
    Attack("the masks as the output folder", _at(lambda of: of.masks), WITHIN),
    Attack(
        "the model as the output folder",
        _at(lambda of: of.model),
        "holds files without a `stage.json`",
    ),
    Attack(
        "an output folder with a file of somebody else",
        lambda of: ((of.root / "out").mkdir(), (of.root / "out" / "thesis.txt").write_text("x"))[2:],
        "holds files without a `stage.json`",
    ),
    Attack("an output folder whose name has 300 letters", _at(lambda of: of.root / ("x" * 300)), "File name too long"),
]


def _backgrounds(of: Inputs, *pictures: tuple[str, Any]) -> Words:
    folder = of.root / "backgrounds"
    folder.mkdir()
    for name, picture in pictures:
        if isinstance(picture, str):
            (folder / name).write_text(picture)
        else:
            picture.save(folder / name)
    return Words(("--backgrounds", folder))


improved = partial(Attack, command="improve")
IMPROVE = [
    improved(
        "no split to train on",
        lambda of: shutil.rmtree(of.photos / "train"),
        'Unknown split "train". Should be one of',
    ),
    improved(
        "the split that chooses is trained on",
        _options("--train_split", "validation"),
        "images that train, choose and report must be others",
    ),
    improved(
        "slices that overlap",
        _options("--train_split", "validation[:50%]", "--eval_split", "validation[40%:]"),
        "images that train, choose and report must be others",
    ),
    improved(
        "an image of both splits, by a link",
        lambda of: _link(of.image(split="train"), of.image()),
        "images that train, choose and report must be others",
    ),
    improved(
        "an image of both splits, as a copy of another name",
        lambda of: (
            shutil.copy(of.image(), of.image("a/copy.png", "train"))
            and shutil.copy(of.mask(), of.mask("a/copy.png", "train"))
            and None
        ),
        "images that train, choose and report must be others",
    ),
    improved(
        "training images of one class",
        lambda of: of.remove(*"bcd", split="train"),
        told="The training images are all of one class: a swap gives them the backgrounds of their own class alone.",
    ),
    improved(
        "one training image",
        lambda of: (of.remove(*"bcd", split="train"), _keep(of, 1, "train")),
        "Of the training images, one with a usable mask is left, and the swap takes the backgrounds of others",
    ),
    improved(
        "validation images of one class",
        lambda of: of.remove(*"bcd"),
        "The validation images, 3, are too few: of those that choose, two classes are needed.",
    ),
    improved(
        "two validation images", lambda of: (of.remove(*"cd"), _keep(of, 1)), "The validation images, 2, are too few"
    ),
    improved(
        "training images without masks",
        lambda of: shutil.rmtree(of.masks / "train"),
        "has a mask for none of 8 images: expected `a/0.png` there or in `train/`",
    ),
    improved(
        "validation images without masks",
        lambda of: shutil.rmtree(of.masks / "validation"),
        "has a mask for none of 12 images",
    ),
    improved(
        "training masks that are full",
        lambda of: of.redraw(lambda mask: 0 * mask + 255, every=True, split="train"),
        "The train dataset has no row with a usable mask",
    ),
    improved(
        "a model of other classes",
        lambda of: of.configure(id2label=dict(enumerate("wxyz")), label2id={}),
        "`train` has 4 classes that the model does not have, such as `a`",
    ),
    *(
        improved(f"`{shlex.join(options)}`", _options(*options), message)
        for options, message in {
            ("--learning_rates", "nan"): "Expected `learning_rates` > 0 and finite, but got nan.",
            ("--learning_rates", "inf"): "Expected `learning_rates` > 0 and finite, but got inf.",
            ("--learning_rates", "0"): "Expected `learning_rates` > 0, but got 0.0.",
            ("--learning_rates", "x"): "Expected `learning_rates` to be a number, but got text.",
            ("--learning_rates",): "expected at least one argument.",
            ("--learning_rates", "1e-4", "0.0001"): "--learning_rates has a rate twice: leave one of them.",
            ("--max_loss", "nan"): "Expected `max_loss` from 0 to 100, but got nan.",
            ("--max_loss", "101"): "Expected `max_loss` from 0 to 100, but got 101.0.",
            ("--max_steps", "0"): "Expected `max_steps` ≥ 1, but got 0.",
            ("--max_steps", "1.5"): "Expected `max_steps` to be a whole number, but got a number.",
            ("--seed", "-1"): "Expected `seed` from 0 to 4294967295, but got -1.",
            ("--method", "x"): "Expected `method` to be one of cft, cutmix,",
            ("--train_batch_size", "0"): "Expected `train_batch_size` ≥ 1, but got 0.",
            (
                "--train_batch_size",
                "1",
            ): "--train_batch_size 1: the swap takes the background of another image of the batch.",
            ("--train_split", "nope"): 'Unknown split "nope". Should be one of',
            ("--eval_split", "nope"): 'Unknown split "nope". Should be one of',
            ("--backgrounds", "nowhere"): "There is no folder of backgrounds `nowhere`.",
            ("--backgrounds", ""): "Expected `backgrounds` not to be empty.",
            (
                "--num_images",
                "1",
            ): "Of the images that report, 1 with a usable mask are left, all of one class: two are needed.",
            ("--compare", "x"): "unknown option --compare.",
        }.items()
    ),
    improved(
        "no backgrounds in their folder",
        _backgrounds,
        "holds no pictures: give a folder of photographs without objects of your classes.",
    ),
    improved(
        "a background that is a text",
        lambda of: _backgrounds(of, ("x.png", PICTURE), ("y.png", "hello")),
        "The background `{root}/backgrounds/y.png` cannot be read: cannot identify image file",
    ),
    improved(
        "a background of floating-point numbers",
        lambda of: _backgrounds(of, ("x.tiff", Image.fromarray(np.zeros((9, 9), np.float32)))),
        "cannot be read: an image of mode F holds 32-bit floating-point numbers",
    ),
    improved(
        "a file as the folder of backgrounds",
        lambda of: Words(("--backgrounds", of.model / "config.json")),
        "There is no folder of backgrounds",
    ),
    improved(
        "validation images as backgrounds",
        lambda of: Words(("--backgrounds", of.photos / "validation")),
        "12 pictures of `{root}/photos/validation` are validation images, which would be trained on: take them out.",
    ),
    improved(
        "the model as the output folder",
        _at(lambda of: of.model),
        "holds a `config.json` that is not of `improve`, and would be replaced",
    ),
    improved("the masks as the output folder", _at(lambda of: of.masks), WITHIN),
    improved("training images as the output folder", _at(lambda of: of.photos / "train"), WITHIN),
    improved("a file as the output folder", lambda of: (of.root / "out").write_text("x"), "`{root}/out` is a file"),
    improved("a weight of NaN", lambda of: of.weigh(_first(float("nan"))), NON_FINITE),
    improved(
        "a weight of 3e38",
        lambda of: of.weigh(_first(3e38)),
        "are NaN or infinite. Look at the image and at the model's weights",
    ),
]


def _damage(path: str, how: Callable[[Path], Any]) -> Callable[[Inputs], None]:
    """Damage the first file of a name in the output folder."""

    def change(of: Inputs) -> None:
        how(sorted((of.root / "out").glob(path))[0])

    return change


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _as_list(path: Path) -> None:
    path.write_text("[]")


diagnosed, complete = partial(Attack, after=True), partial(improved, after=True)
IN_A_FOLDER = "Is a directory"
IN_USE = "`{root}/out` is in use by another process. Wait for it, stop it, or choose another --output_dir."
AFTER = [
    *(
        diagnosed(f"`{name}` of an earlier run {what}", _damage(name, how))
        for name in ("results.json", "strip.png", "tables.md")
        for what, how in {"cut off": _cut, "empty": _empty, "deleted": Path.unlink}.items()
    ),
    diagnosed("`examples.parquet` of an earlier run cut off", _damage("examples.parquet", _cut)),
    diagnosed(
        "predictions of an earlier run cut off",
        _damage("**/rows.parquet", _cut),
        "`{root}/out/validation/before/rows.parquet` is damaged",
    ),
    diagnosed(
        "predictions of an earlier run empty",
        _damage("**/rows.parquet", _empty),
        "Parquet file size is 0 bytes. Delete `{root}/out/validation/before`, and measure it again.",
    ),
    diagnosed("predictions of an earlier run deleted", _damage("**/rows.parquet", Path.unlink)),
    diagnosed("a folder in place of the results", _damage("results.json", _as_folder), IN_A_FOLDER),
    diagnosed("an image changed since", lambda of: Image.fromarray(noise()).save(of.image()), "differs in: rows"),
    diagnosed("a mask changed since", lambda of: of.redraw(lambda mask: mask[::-1].copy()), "differs in: rows"),
    diagnosed("a weight changed since", lambda of: of.weigh(_first(0.5)), "differs in: model"),
    diagnosed(
        "the image processor changed since",
        lambda of: of.configure(PROCESSOR, image_mean=[0.4] * 3),
        "differs in: processor",
    ),
    complete("`verdict.json` cut off", _damage("verdict.json", _cut)),
    complete("`results.json` cut off", _damage("results.json", _cut)),
    *(
        complete(f"`{name}` {what}", _damage(name, how))
        for name, what, how in (
            ("model.safetensors", "deleted", Path.unlink),
            ("model.safetensors", "cut off", _cut),
            ("config.json", "cut off", _cut),
            ("preprocessor_config.json", "deleted", Path.unlink),
            ("run.json", "deleted", Path.unlink),
            ("interpolation.json", "deleted", Path.unlink),
        )
    ),
    *(
        complete(
            f"`{name}` cut off",
            _damage(name, _cut),
            f"`{{root}}/out/{name}` is not valid JSON, and may be cut off",
        )
        for name in ("run.json", "interpolation.json")
    ),
    complete(
        "`inputs.json` cut off",
        _damage("inputs.json", _cut),
        "`{root}/out/inputs.json` is not valid JSON, and may be cut off",
    ),
    complete("`inputs.json` empty", _damage("inputs.json", _empty), "`{root}/out/inputs.json` is not valid JSON"),
    complete(
        "`inputs.json` a list",
        _damage("inputs.json", _as_list),
        "`{root}/out/inputs.json` holds no JSON object. Delete it, or restore it.",
    ),
    complete("a folder in place of `inputs.json`", _damage("inputs.json", _as_folder), IN_A_FOLDER),
    complete(
        "a candidate cut off",
        _damage("candidates/*/candidate.json", _cut),
        "`{root}/out/candidates/swap-0.003-12/candidate.json` is not valid JSON, and may be cut off",
    ),
    complete(
        "a candidate empty",
        _damage("candidates/*/candidate.json", _empty),
        "`{root}/out/candidates/swap-0.003-12/candidate.json` is not valid JSON",
    ),
    complete(
        "a candidate a list",
        _damage("candidates/*/candidate.json", _as_list),
        "`{root}/out/candidates/swap-0.003-12/candidate.json` holds no JSON object",
    ),
    complete("a folder in place of the table of candidates", _damage("candidates.md", _as_folder), IN_A_FOLDER),
    complete(
        "a training image deleted since",
        lambda of: of.image(split="train").unlink(),
        "other inputs, which differ in: images (train).",
    ),
    complete(
        "a training image changed since",
        lambda of: Image.fromarray(noise()).save(of.image(split="train")),
        "differ in: images (train).",
    ),
    complete(
        "a training mask changed since",
        lambda of: of.redraw(lambda mask: mask[::-1].copy(), every=True, split="train"),
        "differ in: images (train).",
    ),
    complete(
        "a validation image changed since", lambda of: Image.fromarray(noise()).save(of.image()), "differ in: images"
    ),
    complete("a weight changed since", lambda of: of.weigh(_first(0.5)), "differ in: model."),
    complete(
        "the improved model replaced since",
        lambda of: shutil.copy(of.model / "model.safetensors", of.root / "out"),
        "`{root}/out/predictions/reporting/after` was made from other inputs, which differ in: model.",
    ),
    complete(
        "the image processor changed since",
        lambda of: of.configure(PROCESSOR, image_mean=[0.4] * 3),
        "differ in: processor.",
    ),
    *(
        complete(f"`--{name} {value}` since", _options(f"--{name}", value), f"differ in: {named}")
        for name, value, named in (
            ("max_steps", "1", "max_steps, images (train)."),
            ("max_loss", "50", "max_loss."),
            ("learning_rates", "2e-4", "learning_rates."),
            ("train_batch_size", "2", "train_batch_size"),
            ("num_images", "4", "num_images"),
            ("seed", "1", "seed"),
            ("method", "cft", "method"),
        )
    ),
    complete(
        "the improved folder as the model",
        lambda of: Words(("--model", of.root / "out")),
        "differ in: model",
    ),
]

# Those that a better model comes with, where a kill before and after each is tried.
MODEL_FILES = ("out/run.json", "out/interpolation.json", "out/results.json", "out/report.html", "out/README.md")
WORK = [
    *(
        Attack(f"another process in the output folder of `{command}`", Inputs.work_in_output, IN_USE, command=command)
        for command in ("diagnose", "improve")
    ),
    Attack("a process that was killed in the output folder", lambda of: (of.work_in_output(), of.end())),
    *(
        Attack(
            f"a kill {when} `{file.removeprefix('out/')}` is {done}",
            lambda of: None,
            command=command,
            killed=file,
            late=late,
        )
        for command, files in {
            "diagnose": (
                "stage.json",
                "rows.parquet",
                "results.json",
                "tables.md",
                "examples.parquet",
            ),
            "improve": (
                "inputs.json",
                "candidates/*/candidate.json",
                "candidates/*/run.json",
                "candidates/original.json",
                "predictions/*/*/rows.parquet",
                "diagnosis/results.json",
                "candidates.md",
                "verdict.json",
                *MODEL_FILES,
            ),
        }.items()
        for file in files
        for when, done, late in (("while", "written", False), ("after", "complete", True))
        if not late or file in MODEL_FILES
    ),
    improved(
        "a kill while masks are made, of which those to train on are complete",
        _options("--masks", "tokencut"),
        killed="masks/choosing/*.parquet",
    ),
    Attack("two processes", lambda of: None, processes=2),
    Attack(
        "an image that is cut off, with two processes",
        lambda of: _cut(of.image()),
        UNREADABLE + "image file is truncated",
        processes=2,
    ),
    Attack("CLIP with two processes", _clip(), processes=2),
]

ATTACKS = [*IMAGES, *MASKS, *MODELS, *CLIP, *OPTIONS, *IMPROVE, *AFTER, *WORK]
