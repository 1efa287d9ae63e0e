"""Each command on small photographs: the numbers that it writes are those of `golden/numbers.json`, by file and key.

python -m tests.test_numbers [-k NAME]    # writes them anew: each line that `git diff` shows must be meant
"""

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import load_file

import robust_vit_hf as package
from robust_vit_hf.cli.commands import COMMANDS
from robust_vit_hf.data.background_edits import ATTRIBUTES, compose, draw_donors, edited
from robust_vit_hf.data.balanced_splits import choose_images, hold_out
from robust_vit_hf.training.methods import METHODS

from .helpers.commands import succeed
from .helpers.photographs import write_inputs
from .helpers.tiny import ABLATIONS, DATA, tiny_config


WRITES = "ROBUST_VIT_HF_WRITES_NUMBERS"  # variable of the environment
FILE = DATA / "numbers.json"
TRAINING = "--learning_rate 0.002 --per_device_train_batch_size 5 --logging_steps 1 --report_to none --use_cpu"
SETS = """imagenet-1k=official/imagenet imagenet-a=official/a imagenet-r=official/r imagenet-sketch=official/sketch
    imagenet-v2=official/v2 objectnet=official/objectnet-1.0 si-score-rotation=official/rotation/rotation"""
MIXED_SETS = "--in_distribution imagenet-1k=official/imagenet --shifted imagenet-a=official/a imagenet-r=official/r"
# Words of each command by the name of its output folder. A run whose name is among the words comes first.
RUNS = {
    "diagnosis": "diagnose --model vit --compare dino --dataset photographs --masks masks --attributes all",
    "of-a-cnn": "diagnose --model cnn --dataset photographs --split train --masks cut --num_images 9",
    "new-layer": "improve --model vit --dataset photographs --masks masks --num_images 16 --seed 3",
    "new-model": "improve --model cnn --dataset photographs --masks masks --num_images 16 --effort full --max_steps 8 "
    "--learning_rate 0.01 --train_batch_size 4",
    "tuned": f"train --model still --dataset masked {TRAINING} --num_train_epochs 3 --gradient_accumulation_steps 2 "
    "--control --weight_decay 0.1 --confidence_target original --background_swap 0.5 --start_layer 1 --seed 5",
    "adapter": f"train --model dino --dataset masked {TRAINING} --lora_rank 4 --method gradmask --protocol paper "
    "--max_steps 4 --eval_split validation[9:] --test_split validation[:9]",
    "evaluation": "evaluate --model still --compare tuned --dataset masked --training_data masked",
    "sets": f"evaluate --model wide --compare wider --protocols paper native --batch_size 3 --sets {SETS}",
    "segmentation": "segment --model still --compare tuned --dataset masked --batch_size 7",
    "mixed": f"interpolate wide wider --weights 0 0.4 1 --protocol native {MIXED_SETS}",
    "halfway": "interpolate still tuned --weight 0.5",
    "annotated": "masks coco --images photographs --annotations coco.json --skip_bad --rows_per_shard 3",
    "cut": "masks tokencut --images photographs --split train --model dino --min_side 40 --min_pixels 20 --skip_bad",
    "prepared": "data prepare imagenet-1k official/imagenet --rows_per_shard 2",
    "described": "data describe annotated",
    "timm": "convert still --to timm",
    "card": "card tuned --evaluation evaluation",
    "pushed": "push tuned user/tuned --private",
    "space": "app --model vit-b --compare augreg-b --protocol native --diagnose diagnosis --export space",
}
WITHOUT_OUTPUT = {"described", "card", "pushed", "space"}
PRINTED = {
    "described": "(?s)rows: 7, .*median 48.*20–30 +5 ",
    "pushed": r"/user/tuned/commit/[0-9a-f]{40}",
    "space": "space",
}
WRITTEN = {
    "card": "tuned/README.md",
    "pushed": "pushed",
    "space": "space/requirements.txt",
}  # other places than the output folder
RESULTS = ("results.json", "verdict.json", "trainer_state.json", "interpolation_weights.json")
# Keys of settings, of what differs between machines, and of texts.
LEFT_OUT = re.compile(
    "settings|seconds|version|energy|digest|runtime|per_second|flos|_args|best_|by_pair|num_input|^(epoch|step|max_steps|.*_steps)$"
)


def numbers_below(path: Path) -> dict[str, dict]:
    """Numbers of each file of a folder, by file and key."""
    found: dict[str, dict] = {}
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        if file.is_file() and not re.search("cache|checkpoint-", name):
            found |= {f"{name} {key}".strip(): values for key, values in numbers_in(file) if values}
    return found


def numbers_in(file: Path) -> Iterator[tuple[str, dict]]:
    if file.name in RESULTS:
        yield from leaves(json.loads(file.read_bytes()))
    elif file.name == "README.md":
        results = ModelCard.load(file).data.eval_results or []
        for result in results:
            yield f"{result.dataset_name}, {result.metric_name or result.metric_type}", {"value": result.metric_value}
    elif file.suffix == ".parquet" and file.name not in ("predictions.parquet", "examples.parquet"):  # of predictions
        columns = pq.read_table(file).to_pydict()
        yield "means", {name: mean(column) for name, column in columns.items() if mean(column) is not None}
    elif file.suffix == ".csv":
        yield "means", pd.read_csv(file).mean(numeric_only=True).to_dict()
    elif file.suffix == ".safetensors":
        weights = [*load_file(file).values()]
        norm, absolute = sum((each.astype(float) ** 2).sum() for each in weights), sum(abs(w).sum() for w in weights)
        yield "", {"norm": float(norm**0.5), "absolute": float(absolute), "weights": sum(w.size for w in weights)}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, dict]]:
    """Numbers and outcomes of each dict in nested values, by its name."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    items = [(str(key), of) for key, of in items if not LEFT_OUT.search(str(key))]
    if isinstance(value, list) and all(isinstance(of, (int, float)) for of in value):
        items = [("count", len(value)), ("mean", float(np.mean(value)))] if value else []
    outcomes = {f"{key} {of}": 1 for key, of in items if key in ("outcome", "verdict") and " " not in str(of)}
    if own := {key: of for key, of in items if type(of) in (int, float)} | outcomes:
        yield name, own
    for key, of in items:
        yield from leaves(of, f"{name}.{key}".strip("."))


def mean(column: list) -> float | None:
    """Of numbers, or of the pixels of images."""
    values = [one for one in column if one is not None]
    if values and isinstance(values[0], dict):
        pictures = [Image.open(io.BytesIO(one["bytes"])) for one in values]
        return float(np.mean([np.asarray(one.convert("RGB"), float).mean() for one in pictures]))
    return float(np.mean(values)) if values and isinstance(values[0], (int, float)) else None


def of_command(name: str) -> dict[str, dict]:
    """Run a command in the working directory; each that is named in its words before."""
    words = RUNS[name].split()
    for word in words:
        if word in RUNS and word != name and not Path(word).exists():
            of_command(word)
    torch.manual_seed(0)
    printed = succeed(*words, *([] if name in WITHOUT_OUTPUT else ["--output_dir", name]))
    assert re.search(PRINTED.get(name, ""), printed), printed
    return numbers_below(Path(WRITTEN.get(name, name)))


def methods() -> dict[str, dict]:
    """Steps of each method and ablation: the losses of the last, and the norm of the weights."""
    options = ABLATIONS | {name: {"method": name} for name in METHODS} | {"start-layer": {"start_layer": 1}}
    options["region"] = {"mean_over": "region", "mask_edges": "complement"}
    options["released"] = {"method": "rrr", "released_gradients": True}
    options["distance"] = {"relevance_distance": "bce", "foreground_weight": 0.9, "relevance_target": "prediction"}
    options["decayed"] = {"lr_decay_rate": 0.3, "lr_decay_every": 1, "num_train_epochs": 2, "max_grad_norm": 0.1}
    images, found = package.load_masked_dataset("masked", "train").select(range(3, 12)), {}
    for name, given in options.items():
        given = {"per_device_train_batch_size": 4, "seed": 3, "num_train_epochs": 1, "eval_strategy": "epoch"} | given
        config = tiny_config(Path("methods", name), **given)
        trainer = package.RobustViTTrainer("still", config, images, images.select(range(5)))
        trainer.train()
        norm = sum(value.double().square().sum() for value in trainer.model.parameters()).sqrt()
        *_, step, evaluation, _ = trainer.state.log_history
        for part, log in {"step": step, "evaluation": evaluation}.items():
            found |= {f"{name}, {part}": values for _, values in leaves(log)}
        found[f"{name}, weights"] = {"norm": norm.item()}
    return found


def edits() -> dict[str, dict]:
    """Composed and edited images: mean, deviation, and a projection that tells the places of values apart."""
    rng, masks = np.random.default_rng(5), torch.zeros(2, 3, 1, 24, 36)
    masks[0, :, :, 5:14, 8:28], masks[1, :, :, 12:20, 4:13] = 1, 0.7
    masks[0, 1, :, 14:16] = 0.4
    (mask, other), (image, donor) = masks, torch.from_numpy(rng.random((2, 3, 3, 24, 36))).float()
    levels = [torch.tensor([-1.0, -0.5, 0]), torch.tensor([1.0, 1.5, 2])]
    made = {name: edited(name, (image, mask), (donor, other), levels) for name in ATTRIBUTES}
    made |= compose(image, mask, (donor, other), (image.flip(0), mask.flip(0)), levels[0])
    found = {}
    for name, pixels in made.items():
        places = torch.arange(pixels.numel()).cos()
        values = pixels.mean(), pixels.std(), places @ pixels.flatten()
        found[name] = dict(zip(("mean", "deviation", "places"), map(float, values), strict=True))
    return found


def draws() -> dict[str, dict]:
    """Donors of backgrounds, images that are held out, and images that are chosen, by which figures were made."""
    labels = np.repeat([4, 0, 2, 7], [9, 2, 1, 5])[np.random.default_rng(6).permutation(17)].tolist()
    rows = datasets.Dataset.from_dict({"label": labels, "place": [*range(17)]})
    found = {f"donors {number}": places for number, places in enumerate(draw_donors(labels, 3))}
    found["held out"] = hold_out(package.load_masked_dataset("masked", "train"), 0.34)[1]
    found |= {f"{count} chosen": choose_images(rows, count, 1)["place"][:] for count in (3, 8, 12)}
    return {name: {str(place): int(of) for place, of in enumerate(places)} for name, places in found.items()}


def losses() -> dict[str, dict]:
    """Of every option of the relevance loss."""
    mask = torch.zeros(2, 1, 24, 36)
    mask[0, :, 5:14, 8:28], mask[1, :, 14:16] = 1, 0.4
    relevance, found = torch.from_numpy(np.random.default_rng(6).random((2, 1, 24, 36))).float(), {}
    for options in product(("mse", "bce"), ("fractional", "complement"), ("image", "region")):
        loss = package.RelevanceLoss(1.2, 0.5, *options).per_image(relevance, mask)
        found[" ".join(options)] = {f"{key} {place}": float(of[place]) for key, of in loss.items() for place in (0, 1)}
    return found


FUNCTIONS = {of.__name__: of for of in (methods, edits, draws, losses)}
# The order of sums that all processors with AVX2 share: others round otherwise, and near ties fall elsewhere.
ARITHMETIC = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A process in a folder with the inputs. Libraries read these variables once, and MKL's makes larger models slow."""
    root = tmp_path_factory.mktemp("numbers")
    with patch.dict(os.environ, ARITHMETIC), ProcessPoolExecutor(1, get_context("spawn"), begin, (root,)) as pool:
        yield pool


def begin(root: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(root)
    write_inputs(root)
    Figure.savefig = lambda figure, file, **options: Image.new("RGB", (1, 1)).save(file, "PNG")  # drawing takes long


def numbers_of(name: str) -> dict[str, dict]:
    found = FUNCTIONS[name]() if name in FUNCTIONS else of_command(name)
    return {key: {of: rounded(value) for of, value in values.items()} for key, values in found.items()}


def rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="the numbers are of processors with AVX2"
)
@pytest.mark.parametrize("name", [*RUNS, *FUNCTIONS])
def test_numbers_are_what_they_were(name, worker):
    found, known = worker.submit(numbers_of, name).result(), json.loads(FILE.read_text())
    if WRITES in os.environ:
        known = {each: found if each == name else known.get(each, {}) for each in [*RUNS, *FUNCTIONS]}
        lines = (
            f"{json.dumps(each)}: {{\n"
            + ",\n".join(f"  {json.dumps(key)}: {json.dumps(values)}" for key, values in of.items())
            + "\n}"
            for each, of in known.items()
        )
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    intervals = [values for values in found.values() if {"mean", "low", "high"} <= values.keys()]
    assert all(values["low"] <= values["mean"] <= values["high"] for values in intervals)
    expected = known[name]
    differ = {
        key: (expected.get(key), found.get(key))
        for key in expected | found
        if not {key} <= {*found} & {*expected} or found[key] != pytest.approx(expected[key], rel=2e-3, abs=2e-5)
    }
    assert not differ


def test_every_command_has_numbers():
    assert {words.split()[0] for words in RUNS.values()} == {*COMMANDS}


if __name__ == "__main__":
    os.environ[WRITES] = "yes"
    sys.exit(pytest.main(["-q", __file__, "-p", "no:cacheprovider", *sys.argv[1:]]))
