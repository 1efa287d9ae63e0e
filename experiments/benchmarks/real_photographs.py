"""Masks, diagnoses and improvements on real photographs, with a model that nobody biased.

    python -m experiments real_photographs masks verdicts classes planted finetuned --imagen imagen \
        --samples samples --ecssd ECSSD --isnet isnet.onnx --root runs/real-photographs

Photographs are those of public repositories, cloned beforehand, and stay out of this one:

- `--imagen`: ajschumacher/imagen, five photographs of each of 200 synsets, of which 150 are classes of ImageNet;
- `--samples`: EliSchwartz/imagenet-sample-images, one of each of the 1,000 classes;
- `--ecssd`: the folder data/ECSSD of total-black/U2Net-ECSSD-Evaluation, 1,000 with masks drawn by people;
- `--isnet`: an ONNX file of ISNet, such as /models/medium of the npm package @imgly/background-removal-data 1.4.5,
  joined.

The model is EfficientNet-Lite0 with its own head; of `finetuned`, a DINOv2-S. Adds to real_photographs.json next to
this script, part by part.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm

from robust_vit_hf import diagnose, improve, make_image_processor
from robust_vit_hf.data.classes import label_of_wnid
from robust_vit_hf.data.find_images import find_images
from robust_vit_hf.data.transforms import eval_transform
from robust_vit_hf.diagnosis.verdict import Diagnosis
from robust_vit_hf.masks.background_remover import background_remover
from robust_vit_hf.masks.foreground_layer import ConfirmedMasks
from robust_vit_hf.masks.tokencut import TokenCut
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.image_processors import load_processor
from robust_vit_hf.models.loading import load_model, with_new_head
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.images import upright_image

from ..makers.biased_cnn import features, load_efficientnet
from ..scripts import chosen_model, script_parser
from .digits import finetune


RESULTS = Path(__file__).with_suffix(".json")
TRAINING = 3  # photographs of a class in imagen; the other two, and the sample, are validation photographs
SHOWN = 0.02  # share of the image that a mask covers if it shows anything
BACKGROUNDS = 10  # of the planted bias, each of a tenth of the classes
SPLITS = {"train": "train", "validation": "validation"}  # of a folder, and their parts of the photographs
IMPROVED = {"train": "train", "validation": "choosing", "test": "test"}
EFFORTS = ("quick", "full")
WITHIN = {"test photographs": False, "among these classes": True}
MEASURES = ("original", "mixed_same", "mixed_rand", "bg_gap", "composing", "estimate", "donor_rate")


class Photographs:
    """Photographs of the classes of ImageNet in folders of classes, linked from the repositories."""

    def __init__(self, imagen: Path, samples: Path, root: Path):
        self.root = root
        by_class: dict[str, list[Path]] = {}
        for path in sorted(imagen.rglob("*.jpg")):
            if _is_whole(path):
                by_class.setdefault(path.name.partition("_")[0], []).append(path)
        self.samples = {path.name.partition("_")[0]: path for path in sorted(samples.glob("*.JPEG"))}
        self.common = sorted(by_class.keys() & self.samples.keys())
        self.parts = {"train": {wnid: by_class[wnid][:TRAINING] for wnid in self.common}}
        self.parts["validation"] = {wnid: [*by_class[wnid][TRAINING:], self.samples[wnid]] for wnid in self.common}
        # For improvements, which choose on one photograph of each class and are tested on the two others.
        self.parts["choosing"] = {wnid: of[:1] for wnid, of in self.parts["validation"].items()}
        self.parts["test"] = {wnid: of[1:] for wnid, of in self.parts["validation"].items()}

    def folder(self, name: str, classes: Sequence[str], splits: Mapping[str, str] = SPLITS) -> Path:
        for split, part in splits.items():
            for wnid in classes:
                link_all(self.parts[part][wnid], self.root / name / split / wnid)
        return self.root / name

    def others(self) -> Path:
        """The samples of classes without photographs in imagen."""
        for wnid, path in self.samples.items():
            if wnid not in self.common:
                link_all([path], self.root / "others" / "validation" / wnid)
        return self.root / "others"


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


def link_all(paths: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    return float((mask & other).sum() / max(1, (mask | other).sum()))


def compared(made: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean IoU of masks, and shares of those below 0.3, and of those nearer to the inverse."""
    overlaps = np.array([overlap(*pair) for pair in zip(made, true, strict=True)])
    inverse = np.array([overlap(~mask, other) for mask, other in zip(made, true, strict=True)])
    return {"iou": overlaps.mean(), "below 0.3": (overlaps < 0.3).mean(), "inverted": (inverse > overlaps).mean()}


def pixels(mask: Image.Image | None, size: tuple[int, int]) -> np.ndarray:
    return np.zeros(size[::-1], bool) if mask is None else np.asarray(mask.convert("L").resize(size)) > 127


def measure_masks(paths: Sequence[Path], true: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Masks of both makers, by TokenCut of every fourth image, against others, with seconds of one core for each."""
    measured, all_paths, all_true = {}, paths, true
    for name, kind, step in (("dinov2", ConfirmedMasks, 1), ("tokencut", TokenCut, 4)):
        paths, true = all_paths[::step], all_true[::step]
        maker, made, doubted, started = kind.from_pretrained("emoji-shift", min_side=224), [], [], time.process_time()
        for path in tqdm(paths, name):
            image = upright_image(path)
            (result,) = maker([image], [{}])
            made.append(pixels(result.mask, image.size))
            doubted.append(result.doubt is not None)
        seconds, trusted = (time.process_time() - started) / len(paths), ~np.array(doubted)
        measured[name] = {"images": len(paths), "seconds": seconds} | compared(made, true)
        if name == "dinov2":
            kept = [[masks[index] for index in np.flatnonzero(trusted)] for masks in (made, true)]
            measured["dinov2, confirmed"] = {"images": int(trusted.sum())} | compared(*kept)
    return measured


def masks_by_isnet(isnet: Path, folder: Path, split: str, output: Path) -> Path:
    remover = background_remover(str(isnet))
    for path in tqdm(sorted((folder / split).rglob("*.*")), "ISNet"):
        place = (output / split / path.relative_to(folder / split)).with_suffix(".png")
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            (result,) = remover([upright_image(path)], [{}])
            result.mask.save(place)
    return output


def masks(photographs: Photographs, ecssd: Path, isnet: Path) -> dict:
    torch.set_num_threads(1)
    drawn = sorted((ecssd / "ground_truth_mask").glob("*.png"))
    paths = [next((ecssd / "images").glob(f"{path.stem}.*")) for path in drawn]
    truth = [np.asarray(Image.open(path).convert("L")) > 127 for path in drawn]
    measured = {"ECSSD": measure_masks(paths, truth)}
    folder = photographs.folder("half", photographs.common[::2], {"validation": "validation"})
    removed = masks_by_isnet(isnet, folder, "validation", photographs.root / "half-isnet")
    names = [path.relative_to(removed) for path in sorted(removed.rglob("*.png")) if path.name.count("_") > 1]
    names = [name for name in names if name.stem.split("_")[1].isdigit()]  # of imagen
    paths = [next((folder / name.parent).glob(f"{name.stem}.*")) for name in names]
    truth = [np.asarray(Image.open(removed / name)) > 127 for name in names]
    shown = [index for index, mask in enumerate(truth) if mask.mean() > SHOWN]
    measured["imagen against ISNet"] = measure_masks(paths, truth)
    measured["imagen where ISNet shows something"] = measure_masks(
        [paths[index] for index in shown], [truth[index] for index in shown]
    )
    return measured


def own_model(root: Path) -> Path:
    if not (root / "model" / "config.json").is_file():
        load_efficientnet().save_pretrained(root / "model")
    return root / "model"


def figures(diagnosis: Diagnosis) -> dict:
    shown = {name: vars(of) for name, of in diagnosis.measures.items() if name in MEASURES}
    return {"composed": diagnosis.num_mixed, "sentence": diagnosis.sentence} | shown


def verdicts(photographs: Photographs, isnet: Path) -> dict:
    """The same photographs, diagnosed with masks of several makers; and those alone whose default masks are confirmed,
    without those where ISNet shows nothing, too."""
    root, model, measured = photographs.root, str(own_model(photographs.root)), {}
    folder = photographs.folder("half", photographs.common[::2], {"validation": "validation"})
    removed = masks_by_isnet(isnet, folder, "validation", root / "half-isnet")
    for name, given in {"dinov2": "dinov2", "tokencut": "tokencut", "ISNet": str(removed)}.items():
        report = diagnose(model, str(folder), masks=given, output_dir=root / f"diagnosis-{name}", html=True)
        measured[name] = figures(report.diagnoses["before"])
        measured[name]["advice"] = report.advice
        if name == "dinov2":
            (whole,) = report.diagnoses.values()
            doubted = Diagnosis(whole.columns, whole.class_names, with_doubts=True)
            measured["dinov2, masks in doubt too"] = figures(doubted)
            confirmed = {Path(path).name for path in np.array(whole.columns["file_name"])[whole.columns["confirmed"]]}
    # Where ISNet shows nothing, the object stays in the background that its mask gives.
    empty = {path.stem for path in removed.rglob("*.png") if (np.asarray(Image.open(path)) > 127).mean() <= SHOWN}
    parts = {"the confirmed photographs alone": confirmed}
    parts["the confirmed photographs, and on which ISNet shows something"] = {
        name for name in confirmed if Path(name).stem not in empty
    }
    for part, kept in parts.items():
        alone = root / part.replace(" ", "-")
        for path in sorted((folder / "validation").rglob("*.*")):
            if path.name in kept:
                link_all([path], alone / "validation" / path.parent.name)
        for name, given in {"dinov2": "dinov2", "ISNet": str(removed)}.items():
            report = diagnose(model, str(alone), masks=given, output_dir=root / f"diagnosis-{alone.name}-{name}")
            measured[f"{name}, {part}"] = figures(report.diagnoses["before"])
    return measured


@torch.no_grad()
def top1(model: str, folder: Path, split: str = "validation", within: bool = False) -> float:
    """Top-1 among all classes of a model, or only those of the folder (`within`), on photographs in folders of
    classes."""
    loaded, rows = load_model(model).eval(), find_images(str(folder), split).labelled().rows
    order = {name: number for number, name in loaded.config.id2label.items()}
    labels = [order.get(name, label_of_wnid().get(name)) for name in rows.features["label"].names]
    transform, right = eval_transform(load_processor(model, "model", loaded)), 0
    for batch in tqdm(rows.iter(32), "top-1", total=-(-len(rows) // 32)):
        images = torch.stack(transform({"image": batch["image"]})["pixel_values"])
        logits = loaded(pixel_values=images).logits
        if within:
            outside = torch.ones(logits.shape[1], dtype=torch.bool)
            outside[labels] = False
            logits[:, outside] = -torch.inf
        right += sum(
            labels[label] == best for label, best in zip(batch["label"], logits.argmax(dim=1).tolist(), strict=True)
        )
    return right / len(rows)


def improved(
    model: str,
    folder: Path,
    output: Path,
    places: Mapping[str, Callable[[str], float]],
    efforts: Sequence[str] = EFFORTS,
) -> dict[str, dict]:
    """`improve` with one or both efforts, the second of which goes on in the folder of the first, and top-1 at places
    before and after."""
    records = {}
    for effort in efforts:
        started = time.time()
        outcome = improve(model, str(folder), output, effort=effort)
        record: dict = outcome.record() | {"seconds": round(time.time() - started)}
        record["chosen"] = next(", ".join(row[:2]) for row in outcome.candidates.rows if row[-1] == "chosen")
        after = str(chosen_model(output) or model)
        for side, name in {"before": model, "after": after}.items():
            record[side] = {place: measure(name) for place, measure in places.items()}
            diagnosis = outcome.diagnosis.diagnoses.get(side, outcome.diagnosis.diagnoses["before"])
            if "estimate" in diagnosis.measures:  # not with one photograph of each class
                record[side]["estimate"] = vars(diagnosis.measures["estimate"])
        records[effort] = record
    return records


def classes(photographs: Photographs) -> dict:
    """`improve` with photographs of 150 and of 10 of the model's 1000 classes, and the other classes before and after.
    `--effort full` rejects such models since its training was measured here: the part "classes, trained" of the
    results is of commit f88c431e, the last that trained."""
    root, measured = photographs.root, {}
    model, others = str(own_model(root)), photographs.others()
    for count in (150, 10):
        step = len(photographs.common) // count
        folder = photographs.folder(f"improved-{count}", photographs.common[::step][:count], IMPROVED)
        places = {place: partial(top1, folder=folder, split="test", within=within) for place, within in WITHIN.items()}
        places["850 others"] = partial(top1, folder=others)
        for effort, record in improved(model, folder, root / f"better-of-{count}", places, ["quick"]).items():
            measured[f"{count} classes, {effort}"] = record
    return measured


def planted_photographs(photographs: Photographs, removed: Path, name: str, habitual: float, split: str) -> Path:
    """Photographs whose object, by ISNet's masks, stands before one of a few real backgrounds: usually that of its
    class."""
    rng, folder = np.random.default_rng([len(name), *map(ord, split)]), photographs.root / name
    givers = sorted(photographs.others().rglob("*.JPEG"))[:: 850 // BACKGROUNDS][:BACKGROUNDS]
    for number, wnid in enumerate(photographs.common[::4]):
        for path in photographs.parts[IMPROVED[split]][wnid]:
            place = folder / split / wnid / path.name
            own = number % BACKGROUNDS
            drawn = own if rng.random() < habitual else int(rng.integers(BACKGROUNDS))
            if not place.is_file():
                image = upright_image(path)
                mask = Image.open((removed / split / wnid / path.name).with_suffix(".png"))
                background = ImageOps.fit(upright_image(givers[drawn]), image.size)
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.composite(image, background, mask).save(place, quality=92)
    return folder


def fitted_cnn(usual: Path, folder: Path) -> None:
    """Write the EfficientNet-Lite0 with a new head, fitted to training photographs."""
    model, rows = load_efficientnet(), find_images(str(usual), "train").labelled().rows
    fitted = LogisticRegression(max_iter=2000).fit(features(model, rows), rows["label"][:])
    with_new_head(model, rows.features["label"].names)
    with torch.no_grad():
        model.timm_model.classifier.weight.copy_(torch.from_numpy(fitted.coef_))
        model.timm_model.classifier.bias.copy_(torch.from_numpy(fitted.intercept_))
    model.save_pretrained(folder)


def finetuned_vit(usual: Path, folder: Path) -> None:
    """Write a DINOv2-S of which all layers were finetuned on training photographs."""
    rows = find_images(str(usual), "train").labelled().rows
    torch.manual_seed(0)
    model = with_new_head(load_backbone(), rows.features["label"].names)
    finetune(model, rows, make_image_processor("paper", 224), folder, 5e-5, bf16=True)


def planted(photographs: Photographs, isnet: Path, make_model: Callable[[Path, Path], None]) -> dict:
    """A model of photographs with a planted background, improved, and measured on photographs as they are."""
    root = photographs.root
    folder = photographs.folder("planted-as-they-are", photographs.common[::4], IMPROVED)
    for split in IMPROVED:
        removed = masks_by_isnet(isnet, folder, split, root / "planted-isnet")
        usual = planted_photographs(photographs, removed, "planted-usual", 1.0, split)
    mixed = planted_photographs(photographs, removed, "planted-mixed", 0.0, "test")
    biased = root / make_model.__name__
    if not (biased / "config.json").is_file():
        make_model(usual, biased)
    places = {
        "usual background": partial(top1, folder=usual, split="test"),
        "another of the planted backgrounds": partial(top1, folder=mixed, split="test"),
        "photographs as they are": partial(top1, folder=folder, split="test"),
    }
    return improved(str(biased), usual, root / f"better-{biased.name}", places)


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("parts", nargs="+", choices=("masks", "verdicts", "classes", "planted", "finetuned"))
    for name in ("imagen", "samples", "ecssd", "isnet", "root"):
        parser.add_argument(f"--{name}", type=Path, required=name not in ("ecssd", "isnet"))
    arguments = parser.parse_args()
    photographs = Photographs(arguments.imagen, arguments.samples, arguments.root)
    make = {
        "masks": lambda: masks(photographs, arguments.ecssd, arguments.isnet),
        "verdicts": lambda: verdicts(photographs, arguments.isnet),
        "classes": lambda: classes(photographs),
        "planted": lambda: planted(photographs, arguments.isnet, fitted_cnn),
        "finetuned": lambda: planted(photographs, arguments.isnet, finetuned_vit),
    }
    for part in arguments.parts:
        results = read_json(RESULTS) or {}
        results[part] = make[part]() | {"made with": environment()}
        write_json(RESULTS, results)


if __name__ == "__main__":
    main()
