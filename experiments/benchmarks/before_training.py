"""Does `diagnose` without a model order sets of photographs as the models that are trained on them are ordered?

    python -m experiments before_training
    python -m experiments before_training --picture docs/before_training.png      # of the results
    python -m experiments before_training --imagen imagen --samples samples --root runs/before-training

The sets are those of shortcuts.py, in which each class has a usual background in 0, 95 or 100 % of the images: ten
training images of each class are measured without a model, with true masks. Of the DINOv2-S that was finetuned on each
set, shortcuts.parquet tells what random backgrounds cost: top-1 with usual backgrounds minus top-1 with random ones.
With --imagen, photographs as people take them are measured, see real_photographs.py. Adds to before_training.json next
to this script.
"""

from itertools import product
from pathlib import Path

from transformers import ViTImageProcessor

from robust_vit_hf import diagnose
from robust_vit_hf.diagnosis.diagnose import measure_backgrounds
from robust_vit_hf.diagnosis.linear_probe import LinearProbe, PhotographsDiagnosis
from robust_vit_hf.evaluation.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import Session
from robust_vit_hf.masks.tokencut import backbone_of
from robust_vit_hf.models.image_processors import STATISTICS
from robust_vit_hf.models.loading import with_new_head
from robust_vit_hf.models.model_names import BUNDLED_MODEL
from robust_vit_hf.results.plots import figure_bytes
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.processes import make_accelerator

from ..pages.without_model import picture
from ..scripts import script_parser
from .outcomes import read_outcomes
from .planted_images import SIZE, SOURCES
from .real_photographs import Photographs, link_all
from .shortcuts import MEASURED, Shortcut, images_of


RESULTS, OTHERS = Path(__file__).with_suffix(".json"), Path(__file__).with_name("shortcuts.parquet")
RATES, SEEDS = (0.0, 0.95, 1.0), (3, 4)
IMAGES = 10  # of a class
IMAGEN_STEP = 4  # every fourth class
OF_PHOTOGRAPHS = Backgrounds(("original", "mixed_same", "mixed_rand"), relevance=False)
MEASURES = ("background", "background_chance", "original", "mixed_same", "mixed_rand", "bg_gap", "donor_rate")


def figures(diagnosis: PhotographsDiagnosis) -> dict:
    shown = {name: vars(diagnosis.measures[name]) for name in MEASURES if name in diagnosis.measures}
    return {"photographs": diagnosis.likely, "sentence": diagnosis.sentence} | shown


def of_images(of: Shortcut) -> dict:
    """What `diagnose` says of the training images of a model, without it, at their size."""
    names = [f"class {label}" for label in range(SOURCES[of.source][1])]
    rows = of.rows("train")[: IMAGES * len(names)]
    model = with_new_head(backbone_of(BUNDLED_MODEL), names)
    mean, std = STATISTICS["imagenet"]
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=mean, image_std=std)
    session = Session({"before": LinearProbe.of(model, processor)}, {}, make_accelerator(False), passes=(64, 0))
    session = session.with_sets({"images": images_of(rows, names)})
    return figures(measure_backgrounds(session, OF_PHOTOGRAPHS)["before"])


def of_imagen(imagen: Path, samples: Path, root: Path) -> dict:
    """The photographs of every fourth class, without a model."""
    photographs = Photographs(imagen, samples, root)
    for part in photographs.parts.values():
        for wnid in photographs.common[::IMAGEN_STEP]:
            link_all(part[wnid], root / "photographs" / "train" / wnid)
    report = diagnose(dataset=str(root / "photographs"), output_dir=root / "diagnosis", html=True)
    return figures(report.diagnoses["before"]) | {"images": len(report.images.rows)}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--imagen", type=Path, help="ajschumacher/imagen, to measure only it")
    parser.add_argument("--samples", type=Path, help="EliSchwartz/imagenet-sample-images")
    parser.add_argument("--root", type=Path, help="folder for the photographs of --imagen and their diagnosis")
    parser.add_argument("--picture", type=Path, help="draw the results to this file, and measure nothing")
    arguments = parser.parse_args()
    if arguments.picture:
        arguments.picture.write_bytes(figure_bytes(picture(), "png"))
        return
    results, models = read_json(RESULTS) or {"sets": {}}, read_outcomes(OTHERS)[0]
    if arguments.imagen:
        results["imagen"] = of_imagen(arguments.imagen, arguments.samples, arguments.root)
        write_json(RESULTS, results | environment())
        return
    for seed, source, rate in product(SEEDS, MEASURED, RATES):
        of = Shortcut(source, "background" if rate else "none", rate or 1.0, seed, True, False)
        if (name := f"{source}/{rate:g}/{seed}") not in results["sets"]:
            model = {place: models[of.key][place] for place in ("home", "random")}
            results["sets"][name] = {"without": of_images(of), "model": model}
            print(name, results["sets"][name], flush=True)
            write_json(RESULTS, results | environment())
