"""Whole commands with many options, and functions, on small and varied inputs: what they write and print is what it was."""

import configparser
import gc
import os
import shlex
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context, set_start_method
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

import robust_vit_hf as package
from robust_vit_hf.app.gallery import FILTERS
from robust_vit_hf.app.handlers import Handlers
from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.other_backgrounds_tab import KINDS
from robust_vit_hf.data.background_edits import ATTRIBUTES, compose, draw_donors, edited
from robust_vit_hf.data.balanced_splits import choose_images
from robust_vit_hf.data.transforms import place_in_image
from robust_vit_hf.metrics.streaming import RelevanceSegmentation
from robust_vit_hf.relevance.attribution import ATTRIBUTION_METHODS
from robust_vit_hf.training.methods import METHODS
from robust_vit_hf.utils.images import to_rgb

from .data.test_transforms import KEPT, OTHERS, made
from .helpers.families import FAMILIES
from .helpers.golden import Recorder, compare, moments
from .helpers.golden_figures import draw_figures
from .helpers.golden_inputs import write_inputs, write_model
from .helpers.golden_scripts import push_folders, run_scripts, serve
from .helpers.metrics import OF_GROUPS, SCRIPTS, load
from .helpers.tiny import ABLATIONS, CHECKPOINTING, DATA, tiny_config


def train_by_methods(record: Recorder) -> None:
    """Steps of each method and ablation."""
    options = ABLATIONS | {name: {"method": name} for name in METHODS} | {"start-layer": {"start_layer": 1}}
    options["pool"] = {"background_swap": 0.6, "backgrounds": "pictures", "confidence_target": "label"}
    options["region"] = {"mean_over": "region", "mask_edges": "complement"}
    options["released"] = {"method": "rrr", "released_gradients": True}
    options["distance"] = {"relevance_distance": "bce", "foreground_weight": 0.9, "relevance_target": "prediction"}
    options["second order"] = {"second_order": True, "lr_decay_rate": 0.3, "lr_decay_every": 1, "num_train_epochs": 2}
    options["checkpointed"] = {CHECKPOINTING: True, "max_grad_norm": 0.1}
    images = package.load_masked_dataset("masked", "train").select(range(3, 12))
    for name, given in options.items():
        given = {"per_device_train_batch_size": 4, "seed": 3, "num_train_epochs": 1, "eval_strategy": "epoch"} | given
        config = tiny_config(record.root / "methods" / name, **given)
        trainer = package.RobustViTTrainer("still", config, images, images.select(range(5)))
        trainer.train()
        state = trainer.model.state_dict()
        weights = {key: moments(value.numpy()) for key, value in state.items() if value.ndim > 1}
        record.add(name, {"log": trainer.state.log_history, "method": trainer.args.describe(), "weights": weights})


def show_page(record: Recorder) -> None:
    """What the page shows of an image, a diagnosis and a set."""
    pair = ["--model", "vit", "--compare", "dino", "--dataset", "photographs"]
    record.run("page-pair", ["diagnose", *pair, "--masks", "masks", "--num_images", "9"])
    record.run("page-sets", ["evaluate", *pair])
    results = {"results": Path("page-sets"), "diagnose": Path("page-pair")}
    picture = str(min(Path("photographs/train/ring").iterdir()))
    for name, given in {"two": {"compare": "dino", "dataset": "photographs"} | results, "one": {}}.items():
        page = Handlers(AppOptions(model="vit", mask_model="still", **given))
        sets = [page.look("model/validation", shown, 1) for shown in FILTERS] if given else []
        sets += [page.look("model/validation", "all", number) for number in (2, 99, None)] if given else []
        shown = {"samples": [[one.caption, one.image, one.mask] for one in page.samples], "sets": sets}
        [image, seen], first = page.choose_sample(SimpleNamespace(index=0)), SimpleNamespace(index=0)
        image.save("sample.png")
        shown["chosen"] = page.choose_image("model/validation", sets[0][1], first)[2] if given else ""
        shown["explained"] = [page.explain(picture, target, "gae", None) for target in (-1, 2)]
        shown["nothing"] = [page.explain(None, 1, "gae", None), page.look(None, "all", 3), page.on_backgrounds(None)]
        shown["sample"] = page.explain("sample.png", -1, "rollout", seen)
        shown["conditions"] = [page.conditions(kind, 2, step) for kind in KINDS for step in (0, 1)]
        record.add(f"page of {name}", shown | {"backgrounds": page.on_backgrounds(picture)})
    served = (
        "--split train --results page-sets --diagnose page-pair --mask_model still --protocol native --host localhost"
    )
    serve(record, "served pair", [*pair, *served.split(), "--allowed_hosts", "proxy.example", "192.168.1.5"])
    serve(record, "served", ["--model", "cnn", "--port", "PORT"])
    export = "--model vit-b --compare augreg-b --protocol native --diagnose page-pair --export space"
    record.run("exported", ["app", *export.split()])
    texts = {name: Path("space", name).read_text() for name in ("app.py", "requirements.txt")}
    record.add("space", texts | {"files": sorted(path.name for path in Path("space").glob("*/*"))})
    answer = pipeline("relevance-map", model="dino")
    record.add("pipeline", [answer(picture, overlay=True), answer(picture, target="cross")])


def diagnose_objects(record: Recorder) -> None:
    """A model in memory that is in training, a function, and a module."""
    model, processor = (
        AutoModelForImageClassification.from_pretrained("cnn").train(),
        AutoImageProcessor.from_pretrained("cnn"),
    )
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 40 * 32, 4))
    module.load_state_dict(
        {name: torch.arange(of.numel()).cos().view_as(of) for name, of in module.state_dict().items()}
    )
    given = {"classes": [*model.config.id2label.values()], "slices": ["lens"], "protocol": None}
    given["transform"] = lambda image: processor([image], return_tensors="pt")["pixel_values"][0]
    own = {"processor": processor, "compare": "still", "protocol": "model"}
    models = {
        "object": (model, own),
        "function": (lambda images: 3 * images.flatten(1)[:, :4], given),
        "module": (module, given),
    }
    for name, (of, options) in models.items():
        report = package.diagnose(of, "photographs", masks="masks", num_images=12, output_dir=name, **options)
        record.add(name, {"text": str(report).splitlines(), "pairs": report.pairs.to_csv().splitlines()})


def process_images(record: Recorder) -> None:
    """Image processors, maps, attributes and conversions."""
    rng = np.random.default_rng(5)
    images, masks = (
        [Image.open(f"masked/validation/{number}{kind}.png") for number in range(5)] for kind in ("", "_mask")
    )
    saved = AutoImageProcessor.from_pretrained("vit")
    own = {(protocol, size): (protocol, size, saved) for protocol in ("paper", "native") for size in (40, (32, 48))}
    processors = {str(name): package.make_image_processor(*of) for name, of in own.items()}
    names = [*OTHERS, "CLIPImageProcessor", "LevitImageProcessor", "BeitImageProcessor"]
    processors |= {name: made(name) for name in names if name not in KEPT}
    for name, processor in processors.items():
        rows = package.eval_transform(processor, border=2)({"image": images, "mask": masks})
        given = {key: [moments(of) for of in rows[key]] for key in ("pixel_values", "mask")}
        placed = zip(rows["mask"], images, strict=True)
        given["map"] = [place_in_image(mask[0], image.size, processor) for mask, image in placed]
        record.add(name, given)
    for name in ("ViT", "DeiT, distilled", "Dinov2WithRegisters", "BEiT", "CLIP, zero-shot", "SigLIP"):
        folder = record.root / "families" / name
        write_model(FAMILIES[name].tiny(), folder, package.make_image_processor("paper", 32), 9)
        model = package.load_model(str(folder)).eval()
        pixels = torch.from_numpy(rng.standard_normal((2, 3, 32, 48))).float()
        maps = {method: of(model, pixels, torch.tensor([3, 1])) for method, of in ATTRIBUTION_METHODS.items()}
        for layer, graph in product((0, 1), (False, True)):
            arguments = {"start_layer": layer, "create_graph": graph, "normalize": False}
            maps[f"{layer} {graph}"] = package.relevance_map(model, pixels, **arguments)
        found = {key: [moments(part.detach()) for part in (of.relevance, of.logits)] for key, of in maps.items()}
        record.add(f"maps, {name}", found)
    image, donor = torch.from_numpy(rng.random((2, 3, 3, 24, 36))).float()
    mask, other = soft_masks()
    levels = [torch.tensor([-1.0, -0.5, 0]), torch.tensor([1.0, 1.5, 2])]
    edits = {name: moments(edited(name, (image, mask), (donor, other), levels)) for name in ATTRIBUTES}
    composed = compose(image, mask, (donor, other), (image.flip(0), mask.flip(0)), levels[0])
    record.add("edits", edits | {name: moments(of) for name, of in composed.items()})
    shown = [images[0].convert(mode) for mode in ("L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr")]
    grey = Image.fromarray(np.linspace(0, 65535, 12 * 16).reshape(12, 16).astype(np.uint16))
    record.add("rgb", [to_rgb(one) for one in (*shown, grey)])


def soft_masks() -> torch.Tensor:
    masks = torch.zeros(2, 3, 1, 24, 36)
    masks[0, :, :, 5:14, 8:28], masks[1, :, :, 12:20, 4:13] = 1, 0.7
    masks[0, 1, :, 14:16] = 0.4
    return masks


def measure_numbers(record: Recorder) -> None:
    """Draws, metrics and losses."""
    rng = np.random.default_rng(6)
    labels = np.repeat([4, 0, 2, 7], [9, 2, 1, 5])[rng.permutation(17)]
    rows = datasets.Dataset.from_dict({"label": labels.tolist(), "place": [*range(17)]})
    draws = {"donors": draw_donors(labels.tolist(), 3)}
    record.add("draws", draws | {"chosen": [choose_images(rows, count, 1)["place"][:] for count in (3, 8, 12)]})
    logits, ids = rng.standard_normal((40, 6)) * 2, rng.integers(0, 6, (40, 2)).tolist()
    references = [of[: 1 + row % 2] if row % 9 else [] for row, of in enumerate(ids)]
    groups, weights = ("land", "water", "ice and snow"), {"land": 0.5, "water": 0.2, "ice and snow": 0.3}
    for subset in (None, [0, 2, 3, 5]):
        metrics = (
            load("robust_accuracy", "groups", class_subset=subset),
            load("worst_group_accuracy", group_weights=weights),
            load("calibration", class_subset=subset),
        )
        kept = [[one for one in of if subset is None or one in subset] for of in references]
        for part in (range(25), range(25, 40)):
            named = {"groups": [groups[row % 3] for row in part]}
            for metric in metrics:
                more = {} if metric.name == "calibration" else named
                metric.add_batch(predictions=logits[part], references=[kept[row] for row in part], **more)
        record.add(f"metrics, {subset}", [metric.compute() for metric in metrics])
    tied = {"predictions": np.array([0, 0, 1]), "references": [0, 1, 2], "groups": ["much water", "sea", "shore"]}
    record.add("tied groups", load("worst_group_accuracy").compute(**tied))
    of_groups = {"groups": [("original", "mixed_same", "mixed_rand")[row % 3] for row in range(40)]}
    for name in SCRIPTS:
        metric = load(name)
        record.add(f"script, {name}", [str(metric.features), metric.citation, metric.info.reference_urls])
        if name in OF_GROUPS:
            metric.add_batch(predictions=logits, references=references, **of_groups)
            record.add(f"groups, {name}", metric.compute())
    mask, _ = soft_masks()
    relevance, segmentation = torch.from_numpy(rng.random((3, 1, 24, 36))).float(), RelevanceSegmentation()
    segmentation.update(relevance, mask)
    record.add("segmentation", segmentation.compute())
    for options in product(("mse", "bce"), ("fractional", "complement"), ("image", "region")):
        loss = package.RelevanceLoss(1.2, 0.5, *options)
        record.add(f"loss {options}", {key: of.tolist() for key, of in loss.per_image(relevance, mask).items()})
    first, original = torch.from_numpy(logits[:6]).float().split(3)
    loss = package.ConfidenceLoss(0.6)
    for name, target in {"own": None, "labels": torch.tensor([1, 0, 5]), "original": original}.items():
        record.add(f"confidence, {name}", loss.per_image(first, target)["confidence_loss"].tolist())


COMMANDS = configparser.ConfigParser(delimiters=":", interpolation=None)
COMMANDS.optionxform = str
COMMANDS.read(DATA / "commands.txt", encoding="utf-8")
FUNCTIONS = {
    of.__name__: of
    for of in (
        train_by_methods,
        show_page,
        diagnose_objects,
        process_images,
        measure_numbers,
        draw_figures,
        push_folders,
        run_scripts,
    )
}


# The order of sums that all processors with AVX2 share: others round otherwise, and near ties of small models fall elsewhere.
ARITHMETIC = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


@pytest.fixture(scope="module")
def worker():
    """A process of its own, since libraries read these variables once, and MKL's makes models of a usual size slow."""
    with patch.dict(os.environ, ARITHMETIC), ProcessPoolExecutor(1, get_context("spawn"), one_thread) as pool:
        yield pool


def one_thread() -> None:
    """As tests/conftest.py has it."""
    torch.set_num_threads(1)
    set_start_method(
        "fork", force=True
    )  # of loaders' workers, which would inherit that of this process and import all anew
    gc.freeze()


@pytest.fixture(scope="module")
def inputs(worker, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    worker.submit(write_inputs, root).result()
    return root


def lines_of_group(name: str, inputs: Path) -> dict[str, list[str]]:
    os.chdir(inputs)
    record = Recorder()
    if name in FUNCTIONS:
        FUNCTIONS[name](record)
    else:
        for folder, words in COMMANDS[name].items():
            record.run(folder, shlex.split(words))
    return record.lines


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="records are of processors with AVX2"
)
@pytest.mark.parametrize("name", [*COMMANDS.sections(), *FUNCTIONS])
def test_nothing_differs(name, worker, inputs):
    lines = worker.submit(lines_of_group, name, inputs).result()
    if found := compare(name, lines):
        pytest.fail(found)
