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
from robust_vit_hf.improvement.finetune import Finetuning
from robust_vit_hf.improvement.verdict import write_candidate

from ..helpers.sessions import session_of
from ..helpers.tiny import masked_dataset, tiny_config, tiny_vit


HUB = "https://huggingface.co/papers"
WISE_FT = f"([WiSE-FT]({HUB}/2109.01903))."
SWAP = {"confidence target": "original", "background swap": "0.75"}


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_the_card_says_what_was_done(weight, tmp_path, monkeypatch):
    folder, model = tmp_path / "better", tiny_vit(seed=1)
    config = tiny_config(tmp_path / "trained", method="swap")
    RobustViTTrainer(model, config, masked_dataset(8)).create_model_card(finetuned_from="mine")  # not trained
    model.save_pretrained(tmp_path / "trained")
    monkeypatch.setattr(Finetuning, "trained", lambda *_: tmp_path / "trained")
    session = session_of({"before": tiny_vit()}, {"noise": EvaluationSet.of(masked_dataset(8))}, folder)
    options = SimpleNamespace(output_dir=folder, learning_rate=None, max_steps=2)
    finetuning = Finetuning(None, session.sides["before"], None, None, options, {})
    right = np.ones(8)
    chosen = Candidate(right, right, right, right, str(finetuning), weight, build=partial(finetuning.build, weight))
    write_candidate(chosen, Candidate(right, right, right, right), session, folder)
    write_card(folder)
    card = (folder / "README.md").read_text()
    described = " ".join(card.partition("## Use")[0].split())
    assert f"`mine`, finetuned on images with swapped backgrounds, as in [mixed-rand]({HUB}/2006.09994)." in described
    between = f"between those before and after the finetuning, at the interpolation weight 0.5 {WISE_FT}"
    assert (between in described) is (weight == 0.5) and ("WiSE-FT" in card) is (weight == 0.5)
    assert not any(text in card for text in ("last layer", "[Optimizing Relevance Maps", "relevance loss"))
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.partition("| hyper-parameter |")[2], re.MULTILINE))
    shared = {"learning rate", "epochs", "batch", "optimiser", "precision", "seed", "checkpoint", "confidence weight"}
    shared |= {"confidence temperature", "temperature, fitted on the validation images"}
    expected = SWAP | {"method": "swap", "interpolation weight of the finetuned weights": f"{weight:g}"}
    assert {name: value for name, value in rows.items() if name not in shared} == expected and rows.keys() >= shared
