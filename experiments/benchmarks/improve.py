"""What `improve` gains, by effort, on all sets that the project has, as users have them: folders of photographs without masks.

    python -m experiments improve --output_dir runs/improve --efforts minute full --bf16       # all sets, in hours
    python -m experiments improve --output_dir runs/improve --sets example cnn-1 --bf16        # some, with --effort minute

- `example`: the bundled model and emoji-shift as photographs (export_photographs.py);
- `emoji-1`, `-3`, `-4`, `-5`: the other biased models of emoji-shift, which train_emoji_bias.py makes first (6 minutes each);
- `cnn-0` to `cnn-2`: EfficientNet-Lite0 with a head for the same classes (export_cnn.py);
- `digits`: handwritten digits on textures, and a DINOv2-S that was finetuned on them (digits.py);
- each of them also with `-100`: no training or validation image has another background than the habitual one.

Each result is measured on images that had no part in it: `home`, with the habitual backgrounds; `random`, with those of all classes; and
`new`, with backgrounds that nothing was trained on; and `mixed_rand` is that of the test images. Writes improve.json, after each set anew.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets

from robust_vit_hf import improve, make_image_processor
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, IMAGE_SIZE, classes_before, load_split
from robust_vit_hf.evaluation.accuracy import measure_accuracy
from robust_vit_hf.evaluation.session import Models, open_session
from robust_vit_hf.evaluation.sets import own_set
from robust_vit_hf.improvement.verdict import DIAGNOSIS_FOLDER
from robust_vit_hf.models.emoji_shift_model import load_biased_model
from robust_vit_hf.results.intervals import Difference, Resamples
from robust_vit_hf.results.tables import Table
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.stage import Stage

from ..makers.export_cnn import biased_cnn
from ..makers.export_photographs import write_folders
from ..scripts import script_parser
from .digits import finetune, write_split


IMAGES = {"train": 288, "validation": 288, "home": 300, "random": 300, "new": 300}  # of emoji-shift
PLACES = ("home", "random", "new")


def emoji_rows(name: str, seed: int, bias: float) -> datasets.Dataset:
    """Images of `train`, `validation` or a place, with true masks. Those of the places have a seed of their own."""
    split = {"validation": "val", "home": "val", "random": "background_random", "new": "background_new"}.get(
        name, name
    )
    rows = load_split(split, 2 * IMAGES[name], seed + (100 if name in PLACES else 0))
    if bias == 1 and name not in ("random", "new"):
        habitual = zip(rows["label"], rows["background"], strict=True)
        rows = rows.select(
            [place for place, (label, scene) in enumerate(habitual) if CLASS_NAMES[label] in classes_before(scene)]
        )
    return rows.select(range(IMAGES[name]))


def emoji_photographs(folder: Path, seed: int, bias: float) -> None:
    """Class folders of JPEGs."""
    for name in IMAGES:
        place = folder / ("elsewhere" if name in PLACES else "photographs") / name
        write_folders(emoji_rows(name, seed, bias), place)


def digit_photographs(folder: Path, seed: int, bias: float) -> None:
    write_split(folder / "photographs" / "train", range(500), "habitual", 0, bias)
    write_split(folder / "photographs" / "validation", range(500, 900), "habitual", 1, bias)
    for place, kinds in {"home": "habitual", "random": "random", "new": "new"}.items():
        first = 900 + 300 * PLACES.index(place)
        write_split(folder / "elsewhere" / place, range(first, min(first + 300, 1797)), kinds, 2 + len(place), bias)


def emoji_model(folder: Path, seed: int, photographs: Path) -> None:
    if seed:
        # In a process of its own, since a process has one number format for all trainings.
        options = ["--seed", str(seed), "--output_dir", str(folder)]
        subprocess.run([sys.executable, "-m", "experiments", "train_emoji_bias", *options], check=True)
        return
    load_biased_model().save_pretrained(folder)
    make_image_processor("paper", IMAGE_SIZE).save_pretrained(folder)


def cnn(folder: Path, seed: int, photographs: Path) -> None:
    biased_cnn(seed).save_pretrained(folder)


def digits_model(folder: Path, seed: int, photographs: Path) -> None:
    finetune(photographs, folder, bf16=True)


Photographs = Callable[[Path, int, float], None]
Model = Callable[[Path, int, Path], None]
SETS: dict[str, tuple[Photographs, Model, int]] = {"example": (emoji_photographs, emoji_model, 0)}
SETS |= {
    f"emoji-{seed}": (emoji_photographs, emoji_model, seed) for seed in (1, 3, 4, 5)
}  # those of docs/emoji-shift.md
SETS |= {f"cnn-{seed}": (emoji_photographs, cnn, seed) for seed in range(3)}
SETS |= {"digits": (digit_photographs, digits_model, 0)}


def share_of(name: str) -> float:
    """Share of the images of a set that have the habitual background of their class."""
    return 1.0 if name.endswith("-100") else 0.97


def make(name: str, root: Path) -> tuple[Path, Path]:
    """Folder of a set and its model, made if they are not there. Models are those of the set without `-100`, but of digits, whose
    model is trained on the photographs themselves."""
    photographs, make_model, seed = SETS[name.removesuffix("-100")]
    folder, model = root / name, root / (name if make_model is digits_model else name.removesuffix("-100")) / "model"
    if not (folder / "elsewhere").is_dir():  # renamed last
        making = folder / "making"
        photographs(making, seed, share_of(name))
        for part in ("photographs", "elsewhere"):
            (making / part).rename(folder / part)
    if not (model / "config.json").is_file():
        make_model(model, seed, folder / "photographs")
    return folder, model


def measured(model: Path, better: Path, elsewhere: Path, folder: Path, bf16: bool) -> dict[str, dict]:
    """Top-1 before and after, its change with an interval, and the calibration error, by place."""
    models = Models(str(model), str(better if (better / "config.json").is_file() else model), "model")
    sets = {place: own_set(str(elsewhere / place), "train") for place in PLACES}
    with open_session(models, Stage(folder, {"command": "improve"}), bf16=bf16) as session:
        found = measure_accuracy(session.with_sets(sets), relevance=False)
    results = {}
    for place, result in found.items():
        (gain,) = Resamples.means({place: result.gains().astype(float)}).values()
        change = gain.interval(Difference)
        results[place] = {side: one.scores["top1"] for side, one in result.sides.items()}
        results[place] |= {"change": change.mean, "low": change.low, "high": change.high}
        results[place] |= {f"ece_{side}": one.scores["ece"] for side, one in result.sides.items()}
    return results


def run(name: str, effort: str, root: Path, bf16: bool) -> dict:
    """Result of an effort on a set."""
    folder, model = make(name, root)
    started = time.time()
    report = improve(str(model), str(folder / "photographs"), folder / effort, effort=effort, bf16=bf16)
    found = {"seconds": round(time.time() - started), "outcome": report.outcome, "verdict": report.verdict}
    diagnoses = read_json(folder / effort / DIAGNOSIS_FOLDER / "results.json")["diagnosis"]
    found["mixed_rand"] = {side: of["measures"]["mixed_rand"] for side, of in diagnoses.items()}
    found["chosen"] = [row[:2] for row in report.candidates.rows if row[-1] == "chosen"]
    places = measured(model, folder / effort, folder / "elsewhere", folder / f"measured-{effort}", bf16)
    return found | {"places": places}


def table(results: dict[str, dict]) -> Table:
    rows = []
    for name, efforts in results.items():
        for effort, found in efforts.items():
            cells = [f"{100 * found['places'][place]['before']:.1f}" for place in PLACES]
            changes = [
                Difference(*(found["places"][place][key] for key in ("change", "low", "high"))) for place in PLACES
            ]
            rows.append(
                [
                    name,
                    effort,
                    *(f"{one} {change}" for one, change in zip(cells, changes, strict=True)),
                    str(found["seconds"]),
                ]
            )
    return Table("Top-1 before, and its change", ["set", "effort", *PLACES, "seconds"], rows)


def main() -> None:
    names = [name + variant for variant in ("", "-100") for name in SETS]
    parser = script_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=names, default=names, metavar="SET")
    parser.add_argument("--efforts", nargs="+", choices=["minute", "full"], default=["minute"])
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    file = arguments.output_dir / "improve.json"
    results = (read_json(file) or {}).get("sets", {})
    for effort in arguments.efforts:
        for name in arguments.sets:
            if effort in results.get(name, {}):
                continue
            results.setdefault(name, {})[effort] = run(name, effort, arguments.output_dir, arguments.bf16)
            write_json(file, {"sets": results, **environment()})
            print(table(results).markdown(), flush=True)
