"""Whole commands with many options, on small and varied inputs: what they write and print is what it was."""

import json
import os
from itertools import product
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from robust_vit_hf import (
    ConfidenceLoss,
    RelevanceLoss,
    RobustViTTrainer,
    eval_transform,
    load_masked_dataset,
    load_model,
    make_image_processor,
    relevance_map,
)
from robust_vit_hf.app.gallery import FILTERS
from robust_vit_hf.app.handlers import Handlers
from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.other_backgrounds_tab import KINDS
from robust_vit_hf.data.attributes import ATTRIBUTES, edited
from robust_vit_hf.data.composition import compose, draw_donors
from robust_vit_hf.data.draw_images import choose_images, halves, held_out
from robust_vit_hf.data.geometry import measured_place
from robust_vit_hf.data.known_sets import IMAGENET_9_VARIATIONS
from robust_vit_hf.experiments.paper.ablations import ABLATIONS
from robust_vit_hf.relevance.attribution import ATTRIBUTION_METHODS
from robust_vit_hf.relevance.overlay import place_in_image
from robust_vit_hf.results.metrics.calibration import Calibration
from robust_vit_hf.results.metrics.relevance_segmentation import RelevanceSegmentation
from robust_vit_hf.results.metrics.robust_accuracy import RobustAccuracy
from robust_vit_hf.results.metrics.worst_group_accuracy import WorstGroupAccuracy
from robust_vit_hf.training.methods import method_names
from robust_vit_hf.utils.images import to_rgb

from .data.test_geometry import KEPT, OTHERS, made
from .data.test_later_sets import DOG, VEHICLE
from .helpers import layouts
from .helpers.experiment import result_rows, write_rows
from .helpers.families import FAMILIES
from .helpers.golden import WRITES, Recorder, difference, moments, read, write
from .helpers.golden_inputs import write_inputs, write_model, write_wide
from .helpers.tiny import GOLDFISH, STINGRAY, TENCH, TOILET_TISSUE, tiny_config
from .masks.test_grounded import make_models


PHOTOS = {"dataset": "photographs", "masks": "masks"}


def diagnose_two(run: Recorder) -> None:
    options = {"attributes": "all", "slices": ["site", "camera"], "html": True, "export": "fiftyone", "num_images": 30}
    run("pair", "diagnose", model="vit", compare="dino", **PHOTOS, batch_size=7, **options)


def diagnose_cnn(run: Recorder) -> None:
    options = {
        "masks": "tokencut",
        "mask_model": "vit",
        "slices": "camera",
        "attributes": ["place", "corners"],
        "num_images": 7,
    }
    run("cnn-diagnosis", "diagnose", model="cnn", dataset="photographs", split="train", **options)


def improve_layer(run: Recorder) -> None:
    options = {"seed": 3, "max_loss": 20, "num_images": 16, "attributes": "colours", "batch_size": 5}
    run("layer", "improve", model="vit", **PHOTOS, backgrounds="pictures", **options)


def improve_fully(run: Recorder) -> None:
    options = {"learning_rates": [1e-3, 1e-2], "max_steps": 8, "train_batch_size": 4, "max_loss": 60, "seed": 2}
    run("full", "improve", model="cnn", **PHOTOS, effort="full", **options)


def finetune(run: Recorder) -> None:
    options = {"num_train_epochs": 3, "learning_rate": 2e-3, "lr_decay_every": 1, "per_device_train_batch_size": 4}
    options |= {"gradient_accumulation_steps": 2, "seed": 5, "per_device_eval_batch_size": 5, "logging_steps": 1}
    options |= {
        "control": True,
        "use_cpu": True,
        "disable_tqdm": True,
        "relevance_strip_steps": 2,
        "weight_decay": 0.1,
    }
    losses = {"confidence_target": "original", "confidence_temperature": 0.7, "background_swap": 0.5, "start_layer": 1}
    run("tuned", "train", model="still", dataset="masked", **options, **losses)
    pair = {"model": "still", "compare": "tuned", "batch_size": 7}
    run("robustness", "evaluate", **pair, dataset="masked", training_data="masked", cut_out=True, sensitivity=True)
    run("card", "card", "tuned", evaluation="robustness", output_dir=None)
    run(
        "figures",
        "figures",
        "robustness",
        model="still",
        compare="tuned",
        dataset="masked",
        num_examples=2,
        seed=1,
        target="true",
    )
    run("segmentation", "segment", **pair, dataset="masked")
    run(
        "sis",
        "sis",
        model="still",
        compare="tuned",
        dataset="masked",
        num_images=5,
        threshold=0.6,
        pixels_per_step=50,
        batch_size=2,
        classes=["dot", "ring"],
    )
    run("mixed", "interpolate", "still", "tuned", alpha=0.3)
    run("page", "report", "robustness", html=True)


def sweep(run: Recorder) -> None:
    options = {
        "model": "still",
        "dataset": "masked",
        "train_split": "train[:12]",
        "eval_split": "validation[:16]",
        "num_train_epochs": 1,
    }
    options |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True}
    variants = {"swap": {"method": "swap", "learning_rate": [1e-3, 1e-2]}}
    grid = {"options": options, "variants": variants, "seeds": {"0": {"seed": 0}, "b": {"seed": 4}}}
    grid |= {"choose_by": "mixed_rand", "mixtures": [0.3, 0.7], "validation_bound": 0.2}
    (run.root / "grid.yaml").write_text(json.dumps(grid))
    run("swept", "sweep", "grid.yaml", cluster="debug")
    run("reported", "report", "swept", html=True)
    (run.root / "paper").mkdir()
    write_rows(run.root / "paper" / "results.parquet", result_rows())
    run("reported-paper", "report", "paper/results.parquet", html=True)


def evaluate_sets(run: Recorder) -> None:
    folders = layouts.miniatures(run.root / "sets")
    write_wide(run.root, folders)
    named = [f"{name}={folder}" for name, folder in folders.items()]
    run(
        "sets-out",
        "evaluate",
        model="wide",
        compare="wider",
        sets=named,
        paper_model="ViT-B",
        batch_size=3,
        protocols=["paper", "native"],
    )
    run(
        "sets-mixed",
        "interpolate",
        "wide",
        "wider",
        sweep=[0, 0.4, 1],
        in_distribution=named[:1],
        shifted=named[1:4],
        protocol="native",
    )


def make_masks(run: Recorder) -> None:
    photos = run.root / "photographs" / "train"
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))[:8]
    images, annotations = [], []
    for number, name in enumerate(names):
        width, height = Image.open(photos / name).size
        images.append({"id": 40 - number, "file_name": name, "width": width, "height": height})
        one = {"id": number, "image_id": 40 - number, "category_id": 3 + number % 2, "bbox": [3.5, 4, 11, 20 + number]}
        annotations += [one, one | {"segmentation": [[10, 5, 30, 8, 24, 31 + number]]}] if number != 4 else []
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
    }
    (run.root / "coco.json").write_text(json.dumps(content))
    run("coco", "masks", "coco", images="photographs", annotations="coco.json", skip_bad=True, rows_per_shard=3)
    run(
        "coco-cat",
        "masks",
        "coco",
        images="photographs",
        annotations="coco.json",
        skip_bad=True,
        category="cat",
        per_class=2,
    )
    run(
        "cut",
        "masks",
        "tokencut",
        images="photographs",
        model="dino",
        per_class=1,
        min_side=64,
        min_pixels=100,
        skip_bad=True,
    )
    run(
        "cut-coarse",
        "masks",
        "tokencut",
        images="photographs",
        model="vit",
        per_class=1,
        coarse=True,
        released=True,
        min_side=40,
        skip_bad=True,
    )
    detector, detector_processor, segmenter, segmenter_processor = make_models()
    detector_processor.image_processor.size = {"shortest_edge": 128, "longest_edge": 192}
    write_model(detector, run.root / "detector", detector_processor, 6)
    write_model(segmenter, run.root / "segmenter", segmenter_processor, 7)
    (run.root / "prompts.json").write_text(json.dumps({"dot": ["head", "tail"], "bar": ["dog"]}))
    run(
        "grounded",
        "masks",
        "grounded",
        images="photographs",
        detector="detector",
        segmenter="segmenter",
        prompts="prompts.json",
        per_class=1,
        box_threshold=0.1,
        skip_bad=True,
    )
    run("described", "data", "describe", "coco", output_dir=None)


def prepare_sets(run: Recorder) -> None:
    root, known = run.root / "official", {DOG: 2, VEHICLE: 1}
    folders = {name: [folder] for name, folder in layouts.miniatures(root).items()}
    folders["imagenet-9-original"] = [layouts.imagenet_9(root / "bg_challenge", known, IMAGENET_9_VARIATIONS)]
    folders["imagenet-9-mixed_rand"] = folders["imagenet-9-original"]
    ids = {"backpack": ["414"], "car": [817, 436]}
    folders["imagenet-d-background"] = [layouts.imagenet_d(root / "d", ids, {"background": {"backpack": 1, "car": 2}})]
    for number, part in enumerate(("common-snow", "counter-grass")):
        layouts.class_folders(root / "LAION-final" / "9 ostrich", {part: number + 1})
        layouts.class_folders(root / "LAION-final" / "296 ice bear", {part: 2 - number})
    folders["counteranimal-counter"] = [root / "LAION-final"]
    names = {TENCH: ["ILSVRC2012_val_00000007"], GOLDFISH: ["ILSVRC2012_val_00000009"]}
    folders["hard-imagenet"] = [layouts.hard_imagenet(root / "hardImageNet", root / "imagenet-of-hard", names)]
    birds = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)]
    folders["waterbirds"] = [layouts.waterbirds(root / "birds", birds)]
    ids = {TENCH: 1, GOLDFISH: 2, STINGRAY: 7, TOILET_TISSUE: 919}
    named = {wnid: [f"{wnid}_{number}" for number in range(4)] for wnid in ids}
    folders["imagenet-s919"] = folders["paper-split"] = [layouts.imagenet_s(root / "s", ids, named)]
    options = {
        "hard-imagenet": {"imagenet": root / "imagenet-of-hard", "split": "validation"},
        "waterbirds": {"segmentations": root / "birds" / "segmentations"},
    }
    options |= {
        "imagenet-1k": {"rows_per_shard": 2},
        "objectnet": {"cropped": True},
        "paper-split": {"num_classes": 2, "class_seed": 3, "samples_per_class": 2},
    }
    for name, sources in folders.items():
        run(f"prepared/{name}", "data", "prepare", name, *sources, **options.get(name, {}))
    run("described-birds", "data", "describe", "prepared/waterbirds", output_dir=None, split="test")


def convert_models(run: Recorder) -> None:
    run("timm", "convert", "still", to="timm", statistics="half")
    run("again", "convert", "timm", preset="native", statistics="imagenet", image_size=48)
    (run.root / "classes.txt").write_text("house\nbird\n\nfish tank\n")
    run("headless", "convert", "dino", classes="classes.txt", preset="paper")


def train_by_methods(run: Recorder) -> None:
    """Three steps of each method and ablation, the last on a smaller batch."""
    pool = {"background_swap": 0.6, "backgrounds": "pictures", "confidence_target": "label"}
    options = (
        ABLATIONS
        | {name: {"method": name} for name in method_names()}
        | {"pool": pool, "region": {"mean_over": "region", "mask_edges": "complement"}}
    )
    options["start-layer"] = {"start_layer": 1}
    options["head"] = {"method": "finetune", "head_epochs": 0.5, "head_learning_rate": 0.05}
    options["released"] = {"method": "rrr", "released_gradients": True}
    images = load_masked_dataset("masked", "train").select(range(3, 12))
    for name, given in options.items():
        given = {"per_device_train_batch_size": 4, "seed": 3, "num_train_epochs": 1, "eval_strategy": "epoch"} | given
        torch.manual_seed(0)
        trainer = RobustViTTrainer(
            "still", tiny_config(run.root / "methods" / name, **given), images, images.select(range(5))
        )
        trainer.train()
        weights = {key: moments(value.numpy()) for key, value in trainer.model.state_dict().items() if value.ndim > 1}
        run.add(name, {"log": trainer.state.log_history, "method": trainer.describe_method(), "weights": weights})


def show_page(run: Recorder) -> None:
    """What the page shows: before and after, of any image, of a diagnosis, and of a set."""
    run("page-pair", "diagnose", model="vit", compare="dino", **PHOTOS, num_images=9)
    run("page-sets", "evaluate", model="vit", compare="dino", dataset="photographs")
    options = {
        "compare": "dino",
        "dataset": "photographs",
        "results": run.root / "page-sets",
        "diagnose": run.root / "page-pair",
    }
    for name, given in {"two": options, "one": {}}.items():
        page = Handlers(AppOptions(model="vit", mask_model="still", **given))
        picture = run.root / "photographs" / "train" / "ring"
        picture = str(sorted(picture.iterdir())[0])
        run.add(f"{name}, samples", [[one.caption, one.image, one.mask] for one in page.samples])
        run.add(f"{name}, explained", [page.explain(picture, target, "gae", None) for target in (-1, 2)])
        run.add(f"{name}, backgrounds", page.on_backgrounds(picture))
        run.add(f"{name}, conditions", [page.conditions(kind, 2, step) for kind in KINDS for step in (0, 1)])
        run.add(f"{name}, set", [page.look("model/validation", shown, 1) for shown in FILTERS] if given else [])
    answer = pipeline("relevance-map", model="dino")
    run.add("pipeline", [answer(picture, overlay=True), answer(picture, target="cross")])


def call_functions(run: Recorder) -> None:
    """Functions that users call, on images and numbers of many kinds."""
    rng = np.random.default_rng(5)
    pictures = [[Image.open(f"masked/validation/{number}{kind}.png") for number in range(5)] for kind in ("", "_mask")]
    saved = AutoImageProcessor.from_pretrained("vit")
    sizes = {"square": 40, "wide": (32, 48)}
    processors = {
        f"{preset}, {name}": make_image_processor(preset, of, saved)
        for preset in ("paper", "native")
        for name, of in sizes.items()
    }
    processors |= {
        name: made(name)
        for name in [*OTHERS, "CLIPImageProcessor", "LevitImageProcessor", "BeitImageProcessor"]
        if name not in KEPT
    }
    for name, processor in processors.items():
        rows = eval_transform(processor, border=2)({"image": pictures[0], "mask": pictures[1]})
        given = {key: [moments(of) for of in rows[key]] for key in ("pixel_values", "mask")}
        found = [
            [place_in_image(mask[0], picture.size, processor), measured_place(processor, picture.size)]
            for mask, picture in zip(rows["mask"], pictures[0], strict=True)
        ]
        run.add(name, given | {"place": found})
    for name in ("ViT", "DeiT, distilled", "Dinov2WithRegisters", "BEiT", "CLIP, zero-shot", "SigLIP"):
        folder = write_model(FAMILIES[name].tiny(), run.root / "families" / name, make_image_processor("paper", 32), 9)
        model = load_model(str(folder)).eval()
        pixels = torch.from_numpy(rng.standard_normal((2, 3, 32, 48))).float()
        maps = {method: of(model, pixels, torch.tensor([3, 1])) for method, of in ATTRIBUTION_METHODS.items()}
        maps |= {
            f"{layer} {graph}": relevance_map(model, pixels, start_layer=layer, create_graph=graph, normalize=False)
            for layer in (0, 1)
            for graph in (False, True)
        }
        run.add(
            f"maps, {name}",
            {key: [moments(of.relevance.detach()), moments(of.logits.detach())] for key, of in maps.items()},
        )
    image, donor = (torch.from_numpy(rng.random((3, 3, 24, 36))).float() for _ in range(2))
    masks = torch.zeros(2, 3, 1, 24, 36)
    masks[0, :, :, 5:14, 8:28], masks[1, :, :, 12:20, 4:13] = 1, 0.7
    masks[0, 1, :, 14:16] = 0.4
    black, white = torch.tensor([-1.0, -0.5, 0]), torch.tensor([1.0, 1.5, 2])
    run.add(
        "edited", {name: moments(edited(name, image, masks[0], donor, masks[1], black, white)) for name in ATTRIBUTES}
    )
    composed = compose(image, masks[0], (donor, masks[1]), (image.flip(0), masks[0].flip(0)), black)
    run.add("composed", {name: moments(of) for name, of in composed.items()})
    labels = np.repeat([4, 0, 2, 7], [9, 2, 1, 5])[rng.permutation(17)]
    rows = datasets.Dataset.from_dict({"label": labels.tolist(), "place": [*range(17)]})
    draws = {"donors": draw_donors(labels.tolist(), 3), "held out": held_out(labels, 2), "halves": halves(labels, 2)}
    run.add("draws", draws | {"chosen": [choose_images(rows, count, 1)["place"][:] for count in (3, 8, 12)]})
    logits, references = (
        rng.standard_normal((40, 6)) * 2,
        [[int(rng.integers(6)), int(rng.integers(6))][: 1 + n % 2] if n % 9 else [] for n in range(40)],
    )
    groups = [("land", "water", "ice and snow")[n % 3] for n in range(40)]
    for subset in (None, [0, 2, 3, 5]):
        accuracy, calibration, worst = (
            RobustAccuracy(subset),
            Calibration(class_subset=subset),
            WorstGroupAccuracy(group_weights={"land": 0.5, "water": 0.2, "ice and snow": 0.3}),
        )
        kept = [[one for one in of if subset is None or one in subset] for of in references]
        for part in (slice(0, 25), slice(25, 40)):
            accuracy.update(logits[part], kept[part], groups=groups[part])
            calibration.update(logits[part], kept[part])
            worst.update(logits[part], kept[part], groups=groups[part])
        run.add(f"metrics, {subset}", [accuracy.compute(), calibration.compute(), worst.compute()])
    segmentation = RelevanceSegmentation()
    segmentation.update(torch.from_numpy(rng.random((3, 1, 24, 36))), masks[0])
    relevance = torch.from_numpy(rng.random((3, 1, 24, 36))).float()
    run.add("segmentation", segmentation.compute())
    for distance, edges, over in product(("mse", "bce"), ("fractional", "complement"), ("image", "region")):
        run.add(
            f"loss {distance} {edges} {over}",
            {
                key: of.tolist()
                for key, of in RelevanceLoss(1.2, 0.5, distance, edges, over).per_image(relevance, masks[0]).items()
            },
        )
    targets = {"own": None, "labels": torch.tensor([1, 0, 5]), "original": torch.from_numpy(logits[3:6]).float()}
    run.add(
        "confidence",
        {
            key: ConfidenceLoss(0.6).per_image(torch.from_numpy(logits[:3]).float(), of)["confidence_loss"].tolist()
            for key, of in targets.items()
        },
    )
    levels, kinds = np.linspace(0, 65535, 12 * 16).reshape(12, 16), ("L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr")
    shown = [pictures[0][0].convert(kind) for kind in kinds] + [Image.fromarray(levels.astype(np.uint16))]
    run.add("rgb", [to_rgb(one) for one in shown])


def refuse(run: Recorder) -> None:
    """What commands say to wrong words, files and models."""
    (run.root / "empty").mkdir()
    Image.fromarray(np.zeros((3, 3000, 3), np.uint8)).save(run.root / "empty" / "narrow.png")
    for number, words in enumerate(WRONG):
        run(f"refused {number}", *words.split())


WRONG = (
    "diagnose --model vit --dataset photographs --num_images 1",
    "diagnose --model vit --dataset photographs --masks nowhere",
    "diagnose --model vit --dataset photographs --masks sam3 --mask_model dino",
    "diagnose --model vit --dataset photographs --attributes colour",
    "diagnose --model vit --dataset photographs --slices place --masks masks",
    "diagnose --model vit --compare wide --dataset photographs --masks masks",
    "diagnose --modell vit",
    "improve --model vit --dataset photographs --method swap",
    "improve --model vit --dataset photographs --max_loss 101",
    "improve --model vit --dataset photographs --train_batch_size 1",
    "improve --model vit --dataset photographs --backgrounds masks/train/nothing",
    "improve --model vit --dataset photographs --learning_rates 0",
    "train --model cnn --dataset masked --use_cpu",
    "train --model still --dataset photographs --use_cpu",
    "train --model still --dataset masked --use_cpu --streaming",
    "train --model still --dataset masked --use_cpu --method swapp",
    "train --model still --dataset masked --use_cpu --method swap --relevance_weight 1",
    "train --model still --dataset masked --use_cpu --start_layer 2",
    "train --model still --dataset masked --use_cpu --per_device_train_batch_size 16 --method cutmix",
    "train --model still --dataset masked --use_cpu --train_split train[:0]",
    "train --model still --dataset masked --use_cpu --image_size 36",
    "evaluate --model vit --sets imagenet-z",
    "evaluate --model vit --dataset photographs --protocols paper modern",
    "segment --model cnn --dataset masked",
    "segment --model vit --dataset photographs",
    "segment --model vit --set imagenet-a=nowhere",
    "sis --model vit --images empty/narrow.png --classes dot",
    "sis --model vit --dataset photographs --classes square",
    "interpolate vit still --alpha 2",
    "interpolate vit dino --alpha 0.5",
    "interpolate vit still",
    "figures nowhere --compare still",
    "data prepare imagenet-a photographs",
    "data prepare objectnet photographs --class_seed 3",
    "data prepare imagenett photographs",
    "convert cnn --to timm",
    "convert vit --classes photographs/train/metadata.csv --to timm --image_size 40",
    "report photographs",
    "sweep photographs/train/metadata.csv",
)
SCENARIOS = (
    diagnose_two,
    diagnose_cnn,
    improve_layer,
    improve_fully,
    finetune,
    sweep,
    evaluate_sets,
    make_masks,
    prepare_sets,
    convert_models,
    train_by_methods,
    show_page,
    call_functions,
    refuse,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_nothing_differs(scenario, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    run = Recorder(inputs)
    scenario(run)
    if WRITES in os.environ:
        write(scenario.__name__, run.lines)
    if found := difference(read(scenario.__name__), run.lines):
        pytest.fail(found)
