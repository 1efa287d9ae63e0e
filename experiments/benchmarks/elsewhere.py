"""Photographs that were taken elsewhere: BAR (Biased Action Recognition, https://github.com/alinlab/BAR).

In its training photographs, each of six actions happens at one place: climbing on rock, diving under water, and so on.
In its test photographs, it happens elsewhere. Nothing is pasted.

    python -m experiments elsewhere measure --root runs/bar

with the steps `prepare` and `models` before it. This run used one commit of BAR:

    git clone https://github.com/alinlab/BAR && git -C BAR checkout 1364b0a77f64e3d885db3f9c0eb0b1d837cad549

`prepare` writes class folders under `--root`, split by the SHA-256 of the file name: 70 % of the training photographs
are `train`, 15 % `validation` (to choose on) and 15 % `aligned` (to test on); half of the test photographs are `a`, for
development, and half `b`, which is measured once. A photograph that nearly looks like one of an earlier folder is left
out, and listed in left_out.json.

`models` trains the models to improve: DINOv2-S at 112 pixels and EfficientNet-Lite0, all layers, in 255 steps of 16
photographs. `graded` trains them on folders in which 0 to 50 % of the photographs were taken elsewhere (from 60 % of
`a`; the rest tests them). Models with a real bias, and healthy ones, show how often the verdict of `improve` is wrong.

`measure` changes each model by the arms of improve.py, and writes to elsewhere.json which photographs of `aligned` and
`a` are recognised (`1`), by class and in the order of their names. With `--graded`, it measures the models of `graded`,
on the photographs of `a` that they were not trained on.

Protocol of the frozen run, written before it (7 December 2026):

    python -m experiments elsewhere models --root runs/bar --seeds 0 1 2 3 4
    python -m experiments elsewhere measure --root runs/bar --seeds 0 1 2 3 4 --test b --arms original labels_quick
        reweighted quick shuffled labels swap full paper weight_8 weight_80 squared

- Models: five seeds of each kind that no development used. They are not biased on purpose.
- Each arm has the same images, interpolation weights and rule of choice, and each training 240 steps of 8 photographs.
  The rates and weights of the relevance loss are chosen by this rule too, which sees `validation` alone.
- Measure: top-1 on `b`, in which each class counts the same. `b` is measured once, whatever comes out. If the method
  changes afterwards, the pages say so.
- Primary, with Holm's correction for two: `quick` minus `labels_quick` and `full` minus `labels`, over the DINOv2-S.
  Intervals are over seeds and photographs; photographs of one owner (metadata.json of BAR) are resampled together.
- Also reported: the same for EfficientNet-Lite0, all arms, each class and the worst one, `aligned`, and how often each
  outcome is said and is wrong.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import datasets
import torch
from PIL import Image

from robust_vit_hf.data.copies import clusters
from robust_vit_hf.data.find_images import find_images
from robust_vit_hf.data.transforms import eval_transform
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.image_processors import load_processor, make_image_processor
from robust_vit_hf.models.loading import load_model, with_new_head
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json

from ..makers.biased_cnn import load_efficientnet, processor_of
from ..scripts import chosen_model, script_parser
from .digits import finetune
from .improve import ARMS, EFFORTS, RELEVANCE_WEIGHTS, run_arm, run_effort


RESULTS = Path(__file__).with_suffix(".json")
ROLES = ("train", "validation", "aligned", "a", "b")
TRAIN, VALIDATION, GRADED = 0.70, 0.85, 0.6  # bounds of the hash, from 0 to 1
SHARES = (0, 5, 10, 25, 50)  # per cent of the photographs of graded models that were taken elsewhere
STEPS = 255
DEVELOPMENT_SEEDS, FROZEN_SEEDS = range(10, 12), range(5)


def fraction(text: str) -> float:
    """Number from 0 to 1 that a name stands for."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def role_of(path: Path) -> str:
    place = fraction(path.name)
    if path.parent.name == "test":
        return "a" if place < 0.5 else "b"
    return "train" if place < TRAIN else "validation" if place < VALIDATION else "aligned"


def prepare(bar: Path, root: Path) -> None:
    files = sorted((bar / "train").glob("*.jpg")) + sorted((bar / "test").glob("*.jpg"))
    files.sort(key=lambda path: ROLES.index(role_of(path)))  # of near-copies, the first counts
    rows = datasets.Dataset.from_dict({"image": [*map(str, files)]}).cast_column("image", datasets.Image(decode=False))
    first, left_out = {}, []
    for path, cluster in zip(files, clusters(rows)[0].tolist(), strict=True):
        role = role_of(path)
        if first.setdefault(cluster, (role, path))[0] != role:
            left_out.append({"file": path.name, "role": role, "like": first[cluster][1].name})
            continue
        link(path, root / "photographs" / role)
    (root / "left_out.json").write_text(json.dumps(left_out, indent=1) + "\n")
    counts = {role: len([*(root / "photographs" / role).rglob("*.jpg")]) for role in ROLES}
    print(counts, f"left out: {len(left_out)}")


def link(path: Path, folder: Path) -> None:
    """Put a photograph into the folder of its class."""
    target = folder / path.name.partition("_")[0] / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(path, target)


def graded_photographs(root: Path, share: int) -> Path:
    """Class folders for training and choice, of which `share` per cent were taken elsewhere."""
    folder, photographs = root / f"graded-{share:02}", root / "photographs"
    elsewhere = sorted(path for path in (photographs / "a").rglob("*.jpg") if fraction(f"graded {path.name}") < GRADED)
    parts = {"train": [path for path in elsewhere if fraction(f"half {path.name}") < 0.7]}
    parts["validation"] = [path for path in elsewhere if path not in parts["train"]]
    for role, others in parts.items():
        usual = sorted((photographs / role).rglob("*.jpg"), key=lambda path: fraction(f"order {path.name}"))
        others.sort(key=lambda path: fraction(f"order {path.name}"))
        # As many of both as there are in this ratio.
        total = min(len(usual) / (1 - share / 100), len(others) / (share / 100) if share else len(usual))
        taken = round(total * share / 100)
        for path in [*usual[: round(total) - taken], *others[:taken]]:
            link(path, folder / role)
    return folder


def make_model(photographs: Path, folder: Path, kind: str, seed: int) -> None:
    if (folder / "config.json").is_file():
        return
    torch.manual_seed(seed)
    rows = find_images(str(photographs), "train").labelled().rows
    network = load_backbone() if kind == "vit" else load_efficientnet()
    model = with_new_head(network, rows.features["label"].names)
    processor = make_image_processor("paper", 112) if kind == "vit" else processor_of(model)
    finetune(model, rows, processor, folder, 5e-5 if kind == "vit" else 3e-4, bf16=True, steps=STEPS, seed=seed)


@torch.no_grad()
def right_by_class(model: Path, files: Sequence[Path]) -> dict[str, str]:
    """Whether a model recognises each photograph (`1`), by class."""
    loaded = load_model(str(model)).eval()
    transform, predicted = eval_transform(load_processor(str(model), "model", loaded)), []
    for first in range(0, len(files), 32):
        pixels = transform({"image": [Image.open(file) for file in files[first : first + 32]]})["pixel_values"]
        numbers = loaded(pixel_values=torch.stack(pixels)).logits.argmax(dim=1).tolist()
        predicted += [loaded.config.id2label[number] for number in numbers]
    right: dict[str, str] = {}
    for file, best in zip(files, predicted, strict=True):
        right[file.parent.name] = right.get(file.parent.name, "") + str(int(best == file.parent.name))
    return right


def measured(model: Path, root: Path, graded: bool, test: str) -> dict[str, dict[str, str]]:
    """Top-1 at the usual places and elsewhere, on `test`: `a` or `b`."""
    files = {place: sorted((root / "photographs" / place).rglob("*.jpg")) for place in ("aligned", test)}
    if graded:
        files["a"] = [path for path in files["a"] if fraction(f"graded {path.name}") >= GRADED]
    return {place: right_by_class(model, of_place) for place, of_place in files.items()}


def measure(root: Path, name: str, arm: str, test: str) -> dict:
    """Result of an arm on a model, which is in the root by its name."""
    graded = name.partition("-graded-")[2]
    photographs = root / (f"graded-{graded}" if graded else "photographs")
    improved, masks = root / "improved" / name, root / "masks" / photographs.name
    if arm == "original":
        return measured(root / name, root, bool(graded), test)
    if masks.is_dir():  # they do not depend on the model
        shutil.copytree(masks, improved / "masks", dirs_exist_ok=True)
    if arm in EFFORTS:
        folder, record = improved, run_effort(arm, root / name, photographs, improved)
        shutil.copytree(improved / "masks", masks, dirs_exist_ok=True)
    else:
        folder = root / "arms" / f"{name}-{arm}"
        record = run_arm(arm, root / name, photographs, improved, folder)
    return record | measured(chosen_model(folder) or root / name, root, bool(graded), test)


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("step", choices=("prepare", "models", "graded", "measure"))
    parser.add_argument("--bar", type=Path, help="checkout of BAR, for `prepare`")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*DEVELOPMENT_SEEDS])
    parser.add_argument("--graded", action="store_true", help="`measure` the models of `graded`")
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=("original", *ARMS),
        default=("original", *EFFORTS),
        metavar="ARM",
        help="of `measure`",
    )
    parser.add_argument("--test", choices=("a", "b"), default="a", help="half of BAR's test to `measure` on")
    arguments = parser.parse_args()
    root = arguments.root
    if arguments.step == "prepare":
        prepare(arguments.bar, root)
        return
    for seed, kind in product(arguments.seeds, ("vit", "cnn")):
        name = f"{kind}-{seed}"
        if arguments.step == "models":
            make_model(root / "photographs", root / name, kind, seed)
        elif arguments.step == "graded":
            for share in SHARES:
                make_model(graded_photographs(root, share), root / f"{name}-graded-{share:02}", kind, seed)
        else:
            names = [f"{name}-graded-{share:02}" for share in SHARES] if arguments.graded else [name]
            for of, arm in product(names, arguments.arms):
                if kind == "cnn" and arm in RELEVANCE_WEIGHTS:
                    continue
                record = measure(root, of, arm, arguments.test) | {"commit": environment()["commit"]}
                results = read_json(RESULTS) or {}  # another process may have written to it
                results[of] = results.get(of, {}) | {arm: results.get(of, {}).get(arm, {}) | record}
                write_json(RESULTS, results)
                print(of, arm, record.get("chosen", ""), record.get("outcome", ""), flush=True)
