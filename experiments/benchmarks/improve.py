"""What `improve` gains on models and photographs that were not used for any choice: folders without masks, as users
have them.

    python -m experiments improve --root runs/improve --samples samples  # start it again to resume it
    python -m experiments improve … --sets cnn-50 --arms quick full  # `photo-…` needs what cut_objects.py writes

Sets, of 640 training and 192 validation photographs each:

- `vit-50` to `vit-54`: DINOv2-S that classify drawings by the photograph behind them (train_emoji_bias.py);
- `cnn-50` to `cnn-52`: EfficientNet-Lite0, all layers finetuned on the same kind of images;
- `photo-60` to `photo-62`, and `photo-cnn-60` and `photo-cnn-61`: the same kinds of models, of objects that were cut
  out of photographs (cut_objects.py, into `objects` of the root). How strongly they are biased was chosen on models of
  the seed 59;
- `digits`: handwritten digits on textures, and a DINOv2-S that was finetuned on them (digits.py);
- some of them also with `-100`: no photograph has another background than the usual one.

Arms: `quick` and `full`, the efforts of `improve`; and, chosen among their interpolation weights by the same
criterion, with as many steps: `labels`, layers and a training on the labels of the original images, without
composites, at the rate of `full`; `swap`, the training of `full` from the original model; and for ViTs, the relevance
loss at two rates, at the weight 800 (`squared`) and at the paper's (`paper`). `full` goes on in the folder of `quick`,
and its seconds contain those of `quick`. Photographs taken elsewhere (elsewhere.py) also have `labels_quick`, only the
layers of `labels`; `reweighted`, the same with half of the weight on images with unusual backgrounds; `shuffled`,
`quick` with the mask of another image for each image; and the relevance loss at the weights 8 and 80.

Each arm is measured on photographs that had no part in it: `home`, with the usual backgrounds; `random`, with those of
all classes; `scenes`, with forty photographs that are in no image that trained or chose a classifier, of as many
classes of ImageNet, from a public repository (see real_photographs.py). The layer of the default masks was trained on
them, without masks. `vendor`: usual backgrounds, drawn by a vendor of which no model saw a drawing; `vendor_random`:
such drawings on the backgrounds of all classes; and `both`. Sets of objects cut out of photographs have `home`,
`random` and `scenes`, with objects of photographs that no classifier was trained or chosen on. Images of `digits` have
`home`, `random` and `new`, textures that nothing was trained on.

The primary comparison was named before the run: top-1 on `scenes` of `full` minus `labels`, over the DINOv2-S.

Adds to improve.parquet next to this script: for each set and arm, the verdict, the seconds, and which predictions are
right at each place (`1`) before and after; and for each set and place, the numbers of the background and of the class
of each image.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import datasets
import numpy as np
import torch
from peft import get_peft_model
from PIL import Image, ImageOps

from robust_vit_hf import improve, make_image_processor
from robust_vit_hf.data import emoji_shift as artwork
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, classes_before, load_split
from robust_vit_hf.evaluation.accuracy import measure_accuracy
from robust_vit_hf.evaluation.other_backgrounds import MOVED, composite_outputs
from robust_vit_hf.evaluation.session import open_session
from robust_vit_hf.evaluation.sets import EvaluationSet, own_set
from robust_vit_hf.improvement.candidates import VALIDATION_COMPOSITES, compute_features, layer_candidates
from robust_vit_hf.improvement.choice import choose
from robust_vit_hf.improvement.finetune import Finetuning
from robust_vit_hf.improvement.images import images_by_role
from robust_vit_hf.improvement.improve import with_masks
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.improvement.verdict import write_candidate
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.loading import with_new_head
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.images import to_rgb

from ..makers.biased_cnn import biased_cnn, load_efficientnet, processor_of
from ..makers.cut_objects import OBJECT_KINDS, objects
from ..makers.export_photographs import write_folders
from ..makers.train_emoji_bias import ADAPTER
from ..scripts import chosen_model, script_parser
from .digits import digits_model, finetune, write_split
from .other_images import crop, draw_object, paste
from .outcomes import read_outcomes, write_outcomes


RESULTS = Path(__file__).with_suffix(".parquet")
IMAGES = {"train": 640, "validation": 192}
# Of places with scenes, twelve on each and five of each class; and of the others.
SCENE_IMAGES, PLACE_IMAGES = 480, 288
SEED_OF_PLACES = 5052
# Classes of ImageNet whose photographs show large things or surfaces, none of them a class of the drawings. They were
# chosen by name before a photograph was looked at; all classes that are scenes were used in earlier runs.
SCENES = """
n02687172 n02917067 n02966193 n02977058 n03095699 n03272562 n03290653 n03344393 n03393912 n03447447 n03459775 n03530642
n03598930 n03662601 n03673027 n03717622 n03742115 n03788365 n03792972 n03874293 n03891251 n03895866 n03961711 n03967562
n03982430 n03998194 n04033995 n04149813 n04243546 n04310018 n04330267 n04335435 n04344873 n04371774 n04428191 n04429376
n04525305 n04553703 n04590129 n07802026
""".split()
OBJECT_SIDES = (0.5, 0.8)  # of objects cut out of photographs
EMOJI_PLACES = {"home": "val", "random": "background_random", "vendor": "vendor"}  # and those with photographs
RELEVANCE_WEIGHTS = {"squared": 800, "paper": 0.8, "weight_8": 8, "weight_80": 80}  # of arms with the relevance loss
RELEVANCE_RATES = (1e-6, 4e-6)
MEASURES = ("original", "mixed_same", "mixed_rand", "estimate")
EFFORTS, OF_LAYERS = ("quick", "full"), ("labels_quick", "reweighted", "shuffled")  # the latter train nothing
ARMS = (*EFFORTS, "labels", "swap", *RELEVANCE_WEIGHTS, *OF_LAYERS)


@cache
def scenes(samples: Path) -> dict[str, Image.Image]:
    """A photograph of each scene, reduced to a shorter side of 300 pixels."""
    found = {}
    for wnid in SCENES:
        with Image.open(next(samples.glob(f"{wnid}_*.JPEG"))) as file:
            photograph = to_rgb(file)
        scale = 300 / min(photograph.size)
        size = [max(300, round(scale * length)) for length in photograph.size]
        found[wnid] = photograph.resize(size, Image.Resampling.LANCZOS)
    return found


def composed(
    names: Sequence[str],
    backgrounds: dict[str, Image.Image],
    draw: Callable[[int, np.random.Generator], Image.Image],
    count: int,
    seed: int = SEED_OF_PLACES,
    bias: float = 0,
    sides: tuple[float, float] = (0.3, 0.55),
) -> datasets.Dataset:
    """Objects of all classes on crops of photographs, as those of emoji-shift.

    Args:
        draw: object of a class.
        bias: share of images whose background is the usual one of their class. The others have all backgrounds in
            turn.
        sides: least and largest longer side of an object, as share of the image's.
    """
    scenes, columns = [*backgrounds], {name: [] for name in ("image", "label", "background")}
    for number in range(count):
        rng, label = np.random.default_rng([seed, number]), number % len(names)
        place = scenes[(number + number // len(scenes)) % len(scenes)]
        if bias and rng.random() < bias:
            place = scenes[label]
        image, drawing = crop(backgrounds[place], rng), draw(label, rng)
        scale = rng.uniform(*sides) * image.width / max(drawing.size)
        drawing = drawing.resize([max(1, round(length * scale)) for length in drawing.size], Image.Resampling.BICUBIC)
        paste(image, drawing, tuple(int(rng.random() * (image.width - length + 1)) for length in drawing.size))
        for column, value in zip(columns.values(), (image, label, place), strict=True):
            column.append(value)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    features["background"] = datasets.Value("string")
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


@cache
def emoji_places(samples: Path) -> dict[str, EvaluationSet]:
    usual = {name: artwork.background(name) for name in artwork.BACKGROUND_NAMES}
    of_vendors = {
        "scenes": (scenes(samples), artwork.TRAINING_VENDORS),
        "both": (scenes(samples), [artwork.UNSEEN_VENDOR]),
        "vendor_random": (usual, [artwork.UNSEEN_VENDOR]),
    }
    rows = {
        place: composed(CLASS_NAMES, backgrounds, partial(draw_object, vendors=vendors), SCENE_IMAGES)
        for place, (backgrounds, vendors) in of_vendors.items()
    }
    for place, split in EMOJI_PLACES.items():
        rows[place] = load_split(split, PLACE_IMAGES, SEED_OF_PLACES).select_columns(["image", "label", "background"])
    return {place: EvaluationSet.of(of_place, len(CLASS_NAMES)) for place, of_place in rows.items()}


def of_photographs(root: Path, split: str, backgrounds: dict[str, Image.Image], **settings) -> datasets.Dataset:
    """Objects of a split that were cut out of photographs, on other photographs."""
    files = objects(root / "objects", split)

    def draw(label: int, rng: np.random.Generator) -> Image.Image:
        with Image.open(files[label][rng.integers(len(files[label]))]) as image:
            return ImageOps.mirror(image) if rng.random() < 0.5 else image.copy()

    return composed([*OBJECT_KINDS], backgrounds, draw, sides=OBJECT_SIDES, **settings)


def usual_backgrounds(seed: int) -> dict[str, Image.Image]:
    """A photograph for each kind, of those of emoji-shift."""
    names = np.random.default_rng(seed).permutation(artwork.BACKGROUND_NAMES)[: len(OBJECT_KINDS)]
    return {str(name): artwork.background(str(name)) for name in names}


@cache
def object_places(root: Path, seed: int, samples: Path) -> dict[str, EvaluationSet]:
    backgrounds = {"home": usual_backgrounds(seed), "random": usual_backgrounds(seed), "scenes": scenes(samples)}
    rows = {
        place: of_photographs(root, "test", of_place, count=SCENE_IMAGES, bias=float(place == "home"))
        for place, of_place in backgrounds.items()
    }
    return {place: EvaluationSet.of(of_place, len(OBJECT_KINDS)) for place, of_place in rows.items()}


def object_photographs(folder: Path, seed: int, habitual_alone: bool) -> None:
    for split, count in IMAGES.items():
        settings = {"count": count, "seed": seed, "bias": 1 if habitual_alone else 0.97}
        write_folders(of_photographs(folder.parents[1], split, usual_backgrounds(seed), **settings), folder / split)


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
    write_split(folder / "train", range(640), "habitual", seed, bias)
    write_split(folder / "validation", range(640, 832), "habitual", seed + 1, bias)
    for number, (place, kinds) in enumerate({"home": "habitual", "random": "random", "new": "new"}.items()):
        write_split(
            folder.parent / "places" / place,
            range(832 + 320 * number, 1152 + 320 * number),
            kinds,
            seed + 2 + number,
            bias,
        )


def vit(folder: Path, seed: int, photographs: Path) -> None:
    # In a process of its own, since a process has one number format for all trainings.
    options = ["--seed", str(seed), "--output_dir", str(folder)]
    subprocess.run([sys.executable, "-m", "experiments", "train_emoji_bias", *options], check=True)


def cnn(folder: Path, seed: int, photographs: Path) -> None:
    model = biased_cnn(seed)
    finetune(model, load_split("bias", 1920, seed), processor_of(model), folder, 1e-4, bf16=True)


def objects_to_learn(root: Path, seed: int, bias: float) -> datasets.Dataset:
    """Objects cut out of photographs on usual backgrounds, of other draws than the photographs."""
    return of_photographs(root, "train", usual_backgrounds(seed), count=1920, seed=1000 + seed, bias=bias)


def cnn_of_objects(folder: Path, seed: int, photographs: Path) -> None:
    torch.manual_seed(seed)
    model, rows = with_new_head(load_efficientnet(), [*OBJECT_KINDS]), objects_to_learn(folder.parents[1], seed, 0.98)
    finetune(model, rows, processor_of(model), folder, 1e-4, bf16=True)


def vit_of_objects(folder: Path, seed: int, photographs: Path) -> None:
    torch.manual_seed(seed)
    model = get_peft_model(with_new_head(load_backbone(), [*OBJECT_KINDS]), ADAPTER)
    rows, processor = (
        objects_to_learn(folder.parents[1], seed, 0.85),
        make_image_processor("paper", artwork.IMAGE_SIZE),
    )
    finetune(model, rows, processor, folder.with_name("adapter"), 1e-3, bf16=True)
    processor.save_pretrained(folder)
    model.merge_and_unload().save_pretrained(folder)


def digits(folder: Path, seed: int, photographs: Path) -> None:
    digits_model(photographs, folder, bf16=True)


SETS: dict[str, tuple[Callable[[Path, int, bool], None], Callable[[Path, int, Path], None], int]] = {}
SETS |= {f"vit-{seed}": (emoji_photographs, vit, seed) for seed in range(50, 55)}
SETS |= {f"cnn-{seed}": (emoji_photographs, cnn, seed) for seed in range(50, 53)}
SETS |= {f"photo-{seed}": (object_photographs, vit_of_objects, seed) for seed in range(60, 63)}
SETS |= {f"photo-cnn-{seed}": (object_photographs, cnn_of_objects, seed) for seed in range(60, 62)}
SETS |= {"digits": (digit_photographs, digits, 50)}
ALONE = "-100"  # at the end of a set's name: its images have only usual backgrounds


def make(name: str, root: Path) -> tuple[Path, Path]:
    """Photographs of a set and its model, made if they are not there. Models are those of the set without `-100`, but
    of digits."""
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
    report = improve(str(model), str(photographs), folder, effort=effort, bf16=True)
    record = {"seconds": round(time.time() - started), **report.record()}
    record["chosen"] = next(", ".join(row[:2]) for row in report.candidates.rows if row[-1] == "chosen")
    record["validation"] = len(report.diagnosis.diagnoses["before"].columns["label"])
    for side, diagnosis in report.diagnosis.diagnoses.items():
        record[f"measures_{side}"] = {name: asdict(of) for name, of in diagnosis.measures.items() if name in MEASURES}
    return record


def run_arm(arm: str, model: Path, photographs: Path, improved: Path, folder: Path) -> dict:
    """Choose among the candidates of an arm, made of the images and masks of `improve`, whose folder is given, and
    write the model."""
    options = ImproveOptions(model=str(model), dataset=str(photographs), output_dir=improved, bf16=True)
    started, notes = time.time(), []
    cache = Cache(improved / "cache")
    with open_session(str(model), None, options.protocol, folder, cache=cache, bf16=True) as session:
        images, _ = images_by_role(session, options, notes)
        images = with_masks(images, replace(session, folder=improved), options, notes)
        train, validation = (session.with_images(of_role, options.dataset, None) for of_role in images.values())
        side = session.sides["before"]
        if arm == "shuffled":
            train, validation = (
                of.with_sets({name: shuffled(rows) for name, rows in of.sets.items()}) for of in (train, validation)
            )
        features = compute_features(train, validation)
        facts = {"finetuned_from": "", "dataset": "", "masks": "", "protocol": session.protocol}
        fitted = features
        if arm != "shuffled":
            alone = replace(features.train, mixed=features.train.original[:, None])
            unusual = features.train_unusual & (arm == "reweighted")
            fitted = features._replace(train=alone, train_unusual=unusual)
        layers = layer_candidates(side, fitted, facts | {"folder": folder})
        outputs_of = partial(composite_outputs, session=validation, count=VALIDATION_COMPOSITES, edit=MOVED)
        rows, trainings = images["train"].rows, [(options, {"method": "swap" if arm == "swap" else "finetune"})]
        if arm in RELEVANCE_WEIGHTS:
            settings = {"method": "robustvit", "relevance_weight": RELEVANCE_WEIGHTS[arm]}
            trainings = [(replace(options, learning_rate=rate), settings) for rate in RELEVANCE_RATES]
        candidates = layers if arm in ("labels", *OF_LAYERS) else layers[:1]
        for of_training, settings in [] if arm in OF_LAYERS else trainings:
            training = Finetuning(cache, side, rows, outputs_of, of_training, facts, settings)
            candidates += training.candidates(notes)
        unusual = features.validation_unusual
        candidates = [replace(of.beside(candidates[0]), unusual_background=unusual) for of in candidates]
        chosen = choose(candidates, options.shares[-1])
        if chosen is not candidates[0]:
            write_candidate(chosen, candidates[0], validation, folder)
    return {"seconds": round(time.time() - started), "chosen": str(chosen)}


def shuffled(rows: EvaluationSet) -> EvaluationSet:
    """The same images with the mask of another image, in the size of their own."""
    order = np.random.default_rng(0).permutation(len(rows.dataset))
    masks = rows.dataset.select_columns(["mask"])

    def exchanged(row: dict, number: int) -> dict:
        return {"mask": masks[int(order[number])]["mask"].resize(row["image"].size, Image.Resampling.NEAREST)}

    return replace(rows, dataset=rows.dataset.map(exchanged, with_indices=True))


def measured(
    model: Path, better: Path, places: dict[str, EvaluationSet], folder: Path, cache: Cache
) -> dict[str, dict[str, str]]:
    """By place and side: `1` for each image that is recognised, and `0` for each other."""
    models = str(model), str(chosen_model(better) or model), "model"
    with open_session(*models, folder, cache=cache, bf16=True) as session:
        return {
            place: {side: "".join(map(str, result.correct(side).astype(int))) for side in result.sides}
            for place, result in measure_accuracy(session.with_sets(places), relevance=False).items()
        }


def groups(place: EvaluationSet) -> dict[str, str]:
    """Numbers of the background and of the class of each image."""
    rows = place.dataset
    backgrounds = rows["background"] if "background" in rows.column_names else [""] * len(rows)
    numbers = {"background": np.unique(backgrounds, return_inverse=True)[1], "class": place.labels}
    return {name: " ".join(map(str, of)) for name, of in numbers.items()}


def places_of(name: str, root: Path, samples: Path) -> dict[str, EvaluationSet]:
    photographs, _, seed = SETS[name.removesuffix(ALONE)]
    if photographs is digit_photographs:
        return {place: own_set(str(root / name / "places" / place), "train") for place in ("home", "random", "new")}
    return object_places(root, seed, samples) if photographs is object_photographs else emoji_places(samples)


def run(name: str, arm: str, root: Path, samples: Path) -> dict:
    """Result of an arm on a set, with the groups of its images by place."""
    images, model = make(name, root)
    folder = root / name
    if arm in EFFORTS:
        record = run_effort(arm, model, images, folder / "improved")
        better = folder / "improved"
    else:
        better = folder / arm
        record = run_arm(arm, model, images, folder / "improved", better)
    places = places_of(name, root, samples)
    record["places"] = measured(model, better, places, folder / f"measured-{arm}", Cache(root / "cache"))
    record["commit"] = environment()["commit"]
    return record | {"groups": {place: groups(of_place) for place, of_place in places.items()}}


def main() -> None:
    names = [*SETS, *(name + ALONE for name in ("vit-50", "vit-51", "cnn-50", "digits"))]
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="EliSchwartz/imagenet-sample-images")
    parser.add_argument("--sets", nargs="+", choices=names, default=names, metavar="SET")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS[:3], metavar="ARM")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    for name in arguments.sets:
        for arm in arguments.arms:
            if (
                f"{name}/{arm}" in read_outcomes(arguments.results)[0]
                or (arm not in EFFORTS and name.endswith(ALONE))
                or (arm in RELEVANCE_WEIGHTS and SETS[name.removesuffix(ALONE)][1] is not vit)
            ):
                continue
            record = run(name, arm, arguments.root, arguments.samples)
            runs, _ = read_outcomes(arguments.results)  # to which other processes may have added
            write_outcomes(arguments.results, runs | {f"{name}/{arm}": record}, environment())
            changes = {
                place: f"{100 * (of['after'].count('1') - of['before'].count('1')) / len(of['after']):+.1f}"
                for place, of in record["places"].items()
            }
            print(name, arm, record["chosen"], changes, flush=True)
