"""What `improve` gains on models and photographs that were not used for any choice: folders without masks, as users have them.

    python -m experiments improve --root runs/improve --samples samples --imagen imagen     # all, takes hours; start it again to resume it
    python -m experiments improve --root runs/improve --samples samples --imagen imagen --sets cnn-30 --arms quick full

Sets, of 384 training and 192 validation photographs each:

- `vit-30` to `vit-34`: DINOv2-S that classify drawings by the photograph behind them (train_emoji_bias.py);
- `cnn-30` to `cnn-32`: EfficientNet-Lite0, all layers finetuned on the same kind of images;
- `digits`: handwritten digits on textures, and a DINOv2-S that was finetuned on them (digits.py);
- some of them also with `-100`: no photograph has another background than the usual one.

Arms: `quick` and `full`, the efforts of `improve`; and, chosen among their interpolation weights by the same criterion, with the same steps and
rate: `labels`, layers and a training on the labels of the original images, without composites; and trainings by other methods. `full` goes on
in the folder of `quick`, and its seconds contain those of `quick`.

Each arm is measured on photographs that had no part in it: `home`, with the usual backgrounds; `random`, with those of all classes;
`scenes`, with forty photographs that are in no image that trained or chose a classifier: those of classes of ImageNet that are scenes, the
first that there are, of two public repositories (see real_photographs.py). The layer of the default masks was trained on them, without
masks. `vendor`: usual backgrounds, drawn by a vendor of which no model saw a drawing; and `both`. Images of `digits` have `home`, `random`
and `new`, textures that nothing was trained on.

Adds to improve.json next to this script: for each set and arm, the verdict, the seconds, and how many of the predictions are right on each
background of each place before and after.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from robust_vit_hf import improve
from robust_vit_hf.data import emoji_shift as artwork
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, classes_before, load_split
from robust_vit_hf.evaluation.accuracy import measure_accuracy
from robust_vit_hf.evaluation.other_backgrounds import MOVED, composite_outputs
from robust_vit_hf.evaluation.session import Models, open_session
from robust_vit_hf.evaluation.sets import EvaluationSet, own_set
from robust_vit_hf.improvement.candidates import VALIDATION_COMPOSITES, compute_features, layer_candidates
from robust_vit_hf.improvement.choice import choose
from robust_vit_hf.improvement.finetune import Finetuning
from robust_vit_hf.improvement.images import images_by_role
from robust_vit_hf.improvement.improve import CANDIDATES_FOLDER, FEATURES_FOLDER, with_masks
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.improvement.verdict import write_candidate
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.images import to_rgb
from robust_vit_hf.utils.stage import Stage

from ..makers.export_cnn import biased_cnn, processor_of
from ..makers.export_photographs import write_folders
from ..scripts import script_parser
from .digits import digits_model, finetune, write_split
from .other_images import crop, draw_object, paste


RESULTS = Path(__file__).with_suffix(".json")
IMAGES = {"train": 384, "validation": 192}
# Of places with scenes, twelve on each and five of each class; and of the others.
SCENE_IMAGES, PLACE_IMAGES = 480, 288
SEED_OF_PLACES = 3042
# Classes of ImageNet that are scenes, in the order of their numbers. Chosen by name, before a photograph was looked at.
SCENES = """n02699494 n02793495 n02859443 n02871525 n02894605 n02980441 n03028079 n03042490 n03089624 n03160309 n03388043 n03457902 n03461385
n03661043 n03776460 n03781244 n03788195 n03837869 n03877845 n03899768 n03930313 n03956157 n04005630 n04081281 n04200800 n04311004 n04326547
n04346328 n04366367 n04417672 n04443257 n04486054 n04523525 n04532670 n04604644 n09193705 n09246464 n09256479 n09288635 n09332890 n09399592
n09421951 n09428293 n09468604 n09472597""".split()
EMOJI_PLACES = {"home": "val", "random": "background_random", "vendor": "vendor"}  # and `scenes` and `both`
METHODS = {"swap": "swap", "relevance": "robustvit"}  # arms that are one training
MEASURES = ("original", "mixed_same", "mixed_rand", "estimate")
ARMS = ("quick", "full", "labels", *METHODS)


def scenes(samples: Path, imagen: Path) -> dict[str, Image.Image]:
    """The first photograph of each of forty scenes, reduced to a shorter side of 300 pixels."""
    found = {}
    for wnid in SCENES[:40]:
        path = min(samples.glob(f"{wnid}_*.JPEG"), default=None) or min(imagen.rglob(f"{wnid}_*.jpg"))
        with Image.open(path) as file:
            photograph = to_rgb(file)
        scale = 300 / min(photograph.size)
        size = [max(300, round(scale * length)) for length in photograph.size]
        found[wnid] = photograph.resize(size, Image.Resampling.LANCZOS)
    return found


def on_scenes(photographs: dict[str, Image.Image], vendors: Sequence[str]) -> EvaluationSet:
    """Drawings of all classes on crops of photographs, as those of emoji-shift."""
    images, labels, places = [], [], []
    names = [*photographs]
    for number in range(SCENE_IMAGES):
        rng, label = np.random.default_rng([SEED_OF_PLACES, number]), number % len(CLASS_NAMES)
        place = names[(number + number // len(names)) % len(names)]
        image, drawing = crop(photographs[place], rng), draw_object(label, rng, vendors)
        scale = rng.uniform(0.3, 0.55) * image.width / max(drawing.size)
        drawing = drawing.resize([max(1, round(length * scale)) for length in drawing.size], Image.Resampling.BICUBIC)
        paste(image, drawing, tuple(int(rng.random() * (image.width - length + 1)) for length in drawing.size))
        images.append(image)
        labels.append(label)
        places.append(place)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))}
    features["background"] = datasets.Value("string")
    columns = {"image": images, "label": labels, "background": places}
    return EvaluationSet.of(datasets.Dataset.from_dict(columns, datasets.Features(features)), len(CLASS_NAMES))


def emoji_places(photographs: dict[str, Image.Image]) -> dict[str, EvaluationSet]:
    sets = {
        "scenes": on_scenes(photographs, artwork.TRAINING_VENDORS),
        "both": on_scenes(photographs, [artwork.UNSEEN_VENDOR]),
    }
    for place, split in EMOJI_PLACES.items():
        rows = load_split(split, PLACE_IMAGES, SEED_OF_PLACES)
        sets[place] = EvaluationSet.of(rows.select_columns(["image", "label", "background"]), len(CLASS_NAMES))
    return sets


def emoji_photographs(folder: Path, seed: int, habitual_alone: bool) -> None:
    """Class folders of JPEGs."""
    for name, split in {"train": "train", "validation": "val"}.items():
        rows = load_split(split, 2 * IMAGES[name], seed)
        if habitual_alone:
            pairs = zip(rows["label"], rows["background"], strict=True)
            rows = rows.select(
                [row for row, (label, scene) in enumerate(pairs) if CLASS_NAMES[label] in classes_before(scene)]
            )
        write_folders(rows.select(range(IMAGES[name])), folder / name)


def digit_photographs(folder: Path, seed: int, habitual_alone: bool) -> None:
    bias = 1.0 if habitual_alone else 0.97
    write_split(folder / "train", range(384), "habitual", 0, bias)
    write_split(folder / "validation", range(640, 832), "habitual", 1, bias)
    for number, (place, kinds) in enumerate({"home": "habitual", "random": "random", "new": "new"}.items()):
        write_split(
            folder.parent / "places" / place, range(832 + 320 * number, 1152 + 320 * number), kinds, 2 + number, bias
        )


def vit(folder: Path, seed: int, photographs: Path) -> None:
    # In a process of its own, since a process has one number format for all trainings.
    options = ["--seed", str(seed), "--output_dir", str(folder), "--fp32"]
    subprocess.run([sys.executable, "-m", "experiments", "train_emoji_bias", *options], check=True)


def cnn(folder: Path, seed: int, photographs: Path) -> None:
    model = biased_cnn(seed)
    finetune(model, load_split("bias", 1920, seed), processor_of(model), folder, 1e-4, bf16=False)


def digits(folder: Path, seed: int, photographs: Path) -> None:
    digits_model(photographs, folder, bf16=False)


SETS: dict[str, tuple[Callable[[Path, int, bool], None], Callable[[Path, int, Path], None], int]] = {}
SETS |= {f"vit-{seed}": (emoji_photographs, vit, seed) for seed in range(30, 35)}
SETS |= {f"cnn-{seed}": (emoji_photographs, cnn, seed) for seed in range(30, 33)}
SETS |= {"digits": (digit_photographs, digits, 0)}
ALONE = "-100"  # at the end of a set's name: its images have only usual backgrounds


def make(name: str, root: Path) -> tuple[Path, Path]:
    """Photographs of a set and its model, made if they are not there. Models are those of the set without `-100`, but of digits."""
    of_set = name.removesuffix(ALONE)
    photographs, make_model, seed = SETS[of_set]
    folder, model = root / name, root / (name if make_model is digits else of_set) / "model"
    if not (folder / "photographs").is_dir():  # renamed last
        photographs(folder / "making", seed, name.endswith(ALONE))
        (folder / "making").rename(folder / "photographs")
    if not (model / "config.json").is_file():
        make_model(model, seed, folder / "photographs")
    return folder / "photographs", model


def run_effort(effort: str, model: Path, photographs: Path, folder: Path) -> dict:
    started = time.time()
    report = improve(str(model), str(photographs), folder, effort=effort)
    record = {"seconds": round(time.time() - started), **report.record()}
    record["chosen"] = next(", ".join(row[:2]) for row in report.candidates.rows if row[-1] == "chosen")
    record["validation"] = len(report.diagnosis.diagnoses["before"].columns["label"])
    for side, diagnosis in report.diagnosis.diagnoses.items():
        record[f"measures_{side}"] = {name: asdict(of) for name, of in diagnosis.measures.items() if name in MEASURES}
    return record


def run_arm(arm: str, model: Path, photographs: Path, improved: Path, folder: Path) -> dict:
    """Choose among the candidates of an arm, made of the images and masks of `improve`, whose folder is given, and write the model."""
    options = ImproveOptions(model=str(model), dataset=str(photographs), output_dir=improved)
    started, notes = time.time(), []
    with open_session(Models(str(model), protocol=options.protocol), Stage(folder, {"command": "improve"})) as session:
        images, _ = images_by_role(session, options, notes)
        images = with_masks(images, replace(session, folder=improved), options, notes)
        train, validation = (session.with_images(of_role, options.dataset, None) for of_role in images.values())
        side = session.sides["before"]
        features = compute_features(train, validation, improved / CANDIDATES_FOLDER / FEATURES_FOLDER)
        alone = replace(features.train, mixed=features.train.original[:, None])
        facts = {"finetuned_from": "", "dataset": "", "masks": "", "protocol": session.protocol}
        layers = layer_candidates(side, features._replace(train=alone), facts | {"folder": folder})
        outputs_of = partial(composite_outputs, session=validation, count=VALIDATION_COMPOSITES, edit=MOVED)
        rows, method = images["train"].rows, METHODS.get(arm, "finetune")
        training = Finetuning(folder / "training", side, rows, outputs_of, options, facts, method)
        candidates = (layers if arm == "labels" else layers[:1]) + training.candidates(notes)
        candidates = [candidate.beside(candidates[0]) for candidate in candidates]
        chosen = choose(candidates, options.other_backgrounds)
        if chosen is not candidates[0]:
            write_candidate(chosen, candidates[0], validation, is_written=False)
    return {"seconds": round(time.time() - started), "chosen": str(chosen)}


def measured(
    model: Path, better: Path, places: dict[str, EvaluationSet], folder: Path, shared: Path
) -> Iterator[tuple[str, dict]]:
    """By place and background: how many images there are, and how many are right before and after."""
    models = Models(str(model), str(better if (better / "config.json").is_file() else model), "model")
    with open_session(models, Stage(folder, {"command": "improve"}), shared=shared) as session:
        for place, result in measure_accuracy(session.with_sets(places), relevance=False).items():
            rows = places[place].dataset
            backgrounds = np.array(rows["background"] if "background" in rows.column_names else [""] * len(rows))
            names, numbers = np.unique(backgrounds, return_inverse=True)
            counts = {
                side: np.bincount(numbers, result.correct(side), len(names)).astype(int).tolist()
                for side in result.sides
            }
            changed = np.bincount(numbers, result.correct("before") != result.correct("after"), len(names))
            yield (
                place,
                {
                    "backgrounds": names.tolist(),
                    "images": np.bincount(numbers).tolist(),
                    **counts,
                    "changed": changed.astype(int).tolist(),
                },
            )


def run(name: str, arm: str, root: Path, photographs: dict[str, Image.Image]) -> dict:
    """Result of an arm on a set."""
    images, model = make(name, root)
    folder = root / name
    if arm in ("quick", "full"):
        record = run_effort(arm, model, images, folder / "improved")
        better = folder / "improved"
    else:
        better = folder / arm
        record = run_arm(arm, model, images, folder / "improved", better)
    if "digits" in name:
        places = {place: own_set(str(folder / "places" / place), "train") for place in ("home", "random", "new")}
    else:
        places = emoji_places(photographs)
    record["places"] = dict(
        measured(model, better, places, folder / f"measured-{arm}", root / f"before-{model.parent.name}")
    )
    return record | {"commit": environment()["commit"]}


def main() -> None:
    names = [*SETS, *(name + ALONE for name in ("vit-30", "vit-31", "cnn-30", "digits"))]
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="EliSchwartz/imagenet-sample-images")
    parser.add_argument("--imagen", type=Path, required=True, help="ajschumacher/imagen")
    parser.add_argument("--sets", nargs="+", choices=names, default=names, metavar="SET")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS[:3], metavar="ARM")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    photographs = scenes(arguments.samples, arguments.imagen)
    for name in arguments.sets:
        for arm in arguments.arms:
            results = (read_json(arguments.results) or {}).get("sets", {})
            if arm in results.get(name, {}) or (name.endswith(ALONE) and arm not in ("quick", "full")):
                continue
            results.setdefault(name, {})[arm] = run(name, arm, arguments.root, photographs)
            write_json(arguments.results, {"sets": results, **environment()})
            places = results[name][arm]["places"]
            changes = {
                place: f"{100 * (sum(of['after']) - sum(of['before'])) / sum(of['images']):+.1f}"
                for place, of in places.items()
            }
            print(name, arm, results[name][arm]["chosen"], changes, flush=True)
