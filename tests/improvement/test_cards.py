"""Cards of finetuned models that `improve` chooses: what was done, with its sources, and no option without effect."""

import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from robust_vit_hf import RobustViTTrainer
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.hub.model_card import write_card
from robust_vit_hf.improvement.candidates import Candidate
from robust_vit_hf.improvement.trainings import TRAINING_FOLDER, VARIANTS, Training, Trainings
from robust_vit_hf.improvement.verdict import write_candidate

from ..helpers.sessions import session_of
from ..helpers.tiny import masked_dataset, tiny_config, tiny_vit


NEW_LAYER = {"last layer": "map, penalty 10", "interpolation weight of the new layer": "0.75"}
PAPER, HUB = "[Optimizing Relevance Maps", "https://huggingface.co/papers"
SWAPPED, WISE_FT = f"swapped as in [mixed-rand]({HUB}/2006.09994)", f"([WiSE-FT]({HUB}/2109.01903))."
RELEVANCE = {
    "relevance weight": "0.8",
    "background weight": "2",
    "foreground weight": "0.3",
    "mask edges": "fractional",
}
RELEVANCE |= {"mean over": "image", "relevance target": "label", "start layer": "0"}
SWAP = {"confidence target": "original", "probability of a background swap": "0.75"}


@pytest.mark.parametrize(
    "options, start, weight, told, untold, losses",
    [
        (
            VARIANTS["swap"],
            "layer",
            0.5,
            [
                "`mine` with another last layer, finetuned by `robust-vit-hf` with the backgrounds of images "
                f"{SWAPPED}, without the relevance loss of {PAPER}",
                f"before and after the finetuning, at an interpolation weight of 0.5 {WISE_FT}",
                "made the layer, before the finetuning, from features",
                f"[the map]({HUB}/1206.4683)",
                f"the layer before and the new one, at an interpolation weight of 0.75 {WISE_FT}",
            ],
            ["by the method of", "the relevance loss is", "as distance"],
            SWAP | {"method": "swap"},
        ),
        (
            VARIANTS["swap and relevance"],
            "original",
            1.0,
            [
                "`mine`, finetuned so that its relevance map leaves the background and covers the object",
                f"{SWAPPED}. The swap is not of the paper; the relevance loss is that of {PAPER}",
                "NeurIPS 2022), with cross-entropy between map and mask as distance.",
            ],
            ["last layer", "WiSE-FT"],
            SWAP | RELEVANCE | {"method": "robustvit", "relevance distance": "bce"},
        ),
        (
            {"method": "robustvit"},
            "original",
            0.25,
            [
                f"covers the object, by the method of {PAPER}",
                "NeurIPS 2022).",
                f"at an interpolation weight of 0.25 {WISE_FT}",
            ],
            ["swapped", "mixed-rand", "last layer", "as distance"],
            RELEVANCE
            | {"method": "robustvit", "relevance distance": "mse", "confidence target": "prediction"}
            | {"probability of a background swap": "0"},
        ),
    ],
    ids=["swap from the new layer", "swap and relevance", "the paper's"],
)
def test_the_card_says_what_was_done(options, start, weight, told, untold, losses, tmp_path, monkeypatch):
    training, model, folder = Training("a name", 1e-3, 2, options, start), tiny_vit(seed=1), tmp_path / "better"
    config = tiny_config(tmp_path / training.name / TRAINING_FOLDER, **options)
    RobustViTTrainer(model, config, masked_dataset(8)).create_model_card(finetuned_from="mine")  # not trained
    monkeypatch.setattr(Trainings, "trained", lambda *_: model)
    session = session_of({"before": tiny_vit()}, {"noise": EvaluationSet.of(masked_dataset(8))}, folder)
    starts = dict.fromkeys(["original", "layer"], session.sides["before"])
    trainings = Trainings(tmp_path, starts, None, None, SimpleNamespace(output_dir=folder), {}, NEW_LAYER)
    right = np.ones(8)
    chosen = Candidate(right, right, str(training), weight, 1e-3, build=partial(trainings.build, training, weight))
    write_candidate(chosen, Candidate(right, right), session, is_written=False, has_layer=True)
    write_card(folder)
    card = (tmp_path / "better" / "README.md").read_text()
    described = " ".join(card.partition("## Use")[0].split())
    for text in told:
        assert text in described
    for text in untold:
        assert text not in card
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.partition("| hyper-parameter |")[2], re.MULTILINE))
    shared = {"learning rate", "epochs", "batch", "optimiser", "precision", "seed", "checkpoint", "confidence weight"}
    shared |= {"temperature of the confidence", "temperature, fitted on the selection images"}
    rows_of_start = NEW_LAYER if start == "layer" else {}
    expected = losses | rows_of_start | {"interpolation weight of the finetuned weights": f"{weight:g}"}
    assert {name: value for name, value in rows.items() if name not in shared} == expected
    assert rows.keys() >= shared and rows["confidence weight"] == "0.2"
