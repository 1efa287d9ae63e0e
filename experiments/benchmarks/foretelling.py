"""Does `mixed_rand` foretell top-1 on really random backgrounds, by true masks and by those that `improve` made?

    python -m experiments foretelling --root runs/improve --bf16    # after improve.py, which leaves models and images there

Of each set of emoji-shift, the test images, with four composites of each by either mask, by the model before and after each effort; and
top-1 on 300 other images whose backgrounds are random, from improve.json. Adds to foretelling.json beside this script.
"""

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np

from robust_vit_hf.evaluation.other_backgrounds import composite_outputs
from robust_vit_hf.evaluation.session import Models, open_session
from robust_vit_hf.evaluation.sets import own_set
from robust_vit_hf.improvement.candidates import SELECTION_COMPOSITES
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.stage import Stage

from ..scripts import script_parser
from .improve import SETS, emoji_photographs, emoji_rows, share_of


PASSES = (16, 0)  # batch size, processes that read images
RESULTS = Path(__file__).with_suffix(".json")


def with_true_masks(made: datasets.Dataset, name: str) -> datasets.Dataset:
    """The same images with the masks by which they were composed."""
    true = emoji_rows("validation", SETS[name.removesuffix("-100")][2], share_of(name))
    masks = true.select([int(Path(file).stem) for file in made["file_name"]])["mask"]
    return made.map(lambda _, row: {"mask": masks[row]}, with_indices=True, features=made.features)


def mixed_rand(name: str, root: Path, effort: str, bf16: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Top-1 on the backgrounds of other classes and its standard error, by side and kind of masks."""
    folder, model = root / name, str(root / name.removesuffix("-100") / "model")
    better = folder / effort
    made = own_set(str(better / "masks" / "test"), "train")
    rows = {"made": made, "true": replace(made, dataset=with_true_masks(made.dataset, name))}
    models = Models(model, str(better) if (better / "config.json").is_file() else None, "model")
    found: dict[str, dict[str, dict[str, float]]] = {}
    stage = Stage(folder / f"foretold-{effort}", {"command": "foretelling"})
    with open_session(models, stage, bf16=bf16, passes=PASSES) as of_pair:
        for kind, images in rows.items():
            session = of_pair.with_sets({kind: images})
            for side, measured in session.sides.items():
                outputs = composite_outputs(measured, session, SELECTION_COMPOSITES)
                right = outputs.right()["mixed_rand"]
                right = right[~np.isnan(right)]
                found.setdefault(side, {})[kind] = {
                    "mean": float(right.mean()),
                    "error": float(right.std()) / len(right) ** 0.5,
                }
    return found


def main() -> None:
    names = [name + variant for variant in ("", "-100") for name, of in SETS.items() if of[0] is emoji_photographs]
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=names, default=names, metavar="SET")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    results = (read_json(RESULTS) or {"sets": {}})["sets"]
    for name in arguments.sets:
        for effort in ("minute", "full"):
            if effort in results.get(name, {}) or not (arguments.root / name / effort / "verdict.json").is_file():
                continue
            found = mixed_rand(name, arguments.root, effort, arguments.bf16)
            results.setdefault(name, {})[effort] = found
            print(name, effort, found, flush=True)
            write_json(RESULTS, {"sets": results} | environment())
