"""Model cards: all that was measured, and nothing else."""

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification

from robust_vit_hf import RobustViTTrainer, __version__
from robust_vit_hf.hub.model_card import make_card, write_card
from robust_vit_hf.models.loading import weights_digest
from robust_vit_hf.results.run_results import SetResult, SideResult
from robust_vit_hf.results.tables import summarize
from robust_vit_hf.training.methods import METHODS

from ..helpers.commands import call, succeed
from ..helpers.tiny import ROOT, masked_dataset, tiny_config, tiny_vit


OTHER_METHODS = {
    "cft": "elisha2026concept",
    "energy": "rao2023studying",
    "gradmask": "simpson2019gradmask",
    "rrr": "ross2017right",
}
LAYER, SWAP = "interpolation weight of the new layer", {"background swap": "0.75"}
RELEASED = sorted(path.parent for path in (ROOT / "model_cards").glob("*/run.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Output of a trainer that was asked for its card."""
    folder = tmp_path_factory.mktemp("cards") / "robustvit-tiny"
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    config = tiny_config(folder, eval_strategy="epoch", load_best_model_at_end=True, save_strategy="epoch", **parts)
    trainer = RobustViTTrainer(tiny_vit(), config, masked_dataset(8), masked_dataset(4, seed=1))
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(license="mit", dataset="user/masked", masks="drawn by hand")
    return folder


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "run")


def results(shifted: bool = False) -> dict:
    """`results.json` of one set of 4 images; before 3 are right, after 2."""
    ranks = {"before": [0, 0, 0, 5], "after": [0, 0, 5, 5]}
    scores = {
        "before": {"top1": 0.75, "ece": 0.1, "mean_iou": 0.6},
        "after": {"top1": 0.5, "ece": 0.3, "mean_iou": 0.2},
    }
    sides = {side: SideResult(np.array(ranks[side]), scores[side] | {"nll": 2}, num_ranked=1) for side in ranks}
    measured = SetResult("validation", sides, np.arange(4), shifted, source="user/masked")
    return summarize({"validation": measured}, [0, 1])


def test_what_the_trainer_tells(folder):
    run = json.loads((folder / "run.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit" and card.data.datasets == ["user/masked"] and card.data.base_model is None
    assert run["steps"] == 2 and run["seconds"] > 0
    assert run["data"] == {
        "dataset": "user/masked",
        "dataset_on_hub": True,
        "dataset_tags": None,
        "dataset_args": None,
        "masks": "drawn by hand",
        "train_images": 8,
        "validation_images": 4,
        "training_classes": [0, 1, 2, 3],
        "class_names": ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"],
    }
    assert "classes LABEL_0, LABEL_1, LABEL_2, LABEL_3 from `user/masked`, validated on 4 others." in card.content
    assert "| learning rate | 0.001, × 0.85 every 2 epochs |" in card.content
    assert "| batch | 8 images, on 1 process |" in card.content  # in two parts
    assert "doi" not in card.content and "arxiv.org/abs/2206.01161" in card.content
    assert str(folder.parent) not in str(card) and "kWh" not in str(card)


def test_nothing_measured(folder):
    """Without results there are no figures but those of the validation in training."""
    run = json.loads((folder / "run.json").read_text())
    card = make_card(run)
    assert card.data.eval_results is None and "On the 4 validation images, in training: top-1" in card.content
    assert "Only the validation images were measured; see above." in card.content
    card = make_card(run | {"validation": None})
    assert "Nothing was measured." in card.content and "This was not measured." in card.content
    assert not re.search(r"\d+\.\d %|top-1 \d", card.content)


def test_results(folder):
    run, measured = json.loads((folder / "run.json").read_text()), results()
    card = make_card(run, measured, figures=("before_after.png",))
    assert {(r.metric_name, r.metric_value, r.dataset_config) for r in card.data.eval_results} == {
        ("top-1", 0.5, "paper"),
        ("top-1 before finetuning", 0.75, "paper"),
    }
    (row,) = measured["rows"]
    assert "| validation | 4 | 75.0 | 50.0 | -25.0 [" in card.content and "0 / 1 |" in card.content
    assert row["change_low"] < 0 and "(before_after.png)" in card.content
    worse = card.content.split("## What got worse")[1].split("## Intended use")[0]
    assert "- Top-1, per cent: `validation` 75.0 → 50.0 (-25.0 [" in worse
    assert "- Expected calibration error, per cent: `validation` 10.0 → 30.0." in worse
    assert "- Mean IoU of relevance map and mask, per cent: `validation` 60.0 → 20.0." in worse
    assert "- Negative log-likelihood" not in worse and "- Top-5" not in worse
    assert "Classified correctly before and not now: 1 of 4 test images." in worse
    assert "Top-1 of the classes not shown in training, mean of the sets: 50.0 before, 0.0 after (-50.0)." in worse
    assert "classes shown in training" not in worse
    without_map = measured | {"rows": [row | {"mean_iou_before": None}]}  # the original has no relevance map
    assert "Mean IoU" not in make_card(run, without_map).content.split("## What got worse")[1]
    with_mean = make_card(run, results(shifted=True)).content  # a row of no further images
    assert "shifted sets was 75.0 % before and is 50.0 % now" in with_mean
    assert "not now: 1 of 4 test images." in with_mean
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    tagged = run | {"data": run["data"] | {"dataset_tags": ["x/y"], "dataset_args": ["all"]}}
    elsewhere = measured | {"sources": {"validation": "other/images"}}
    for given, arguments in ((measured, {"args": ["all"]}), (elsewhere, None)):  # of the images that were trained on
        data = make_card(tagged, given).data
        assert data.datasets == ["x/y"] and {str(r.dataset_args) for r in data.eval_results} == {str(arguments)}
    row["top1_after"] = 1 / 3
    assert make_card(run, measured).data.eval_results[0].metric_value == 0.3333


@pytest.mark.parametrize(
    "training, cited",
    [
        ({"last layer": "map", LAYER: "1"}, ["chen2012marginalized"]),
        ({"last layer": "layer fitted to the label", LAYER: "0.5"}, ["kirichenko2023last", "wortsman2022robust"]),
        ({"method": "robustvit", "relevance weight": "0.8"} | SWAP, ["chefer2022optimizing", "xiao2021noise"]),
        ({"relevance weight": "0", "interpolation weight of the finetuned weights": "0.5"}, ["wortsman2022robust"]),
        ({"method": "swap"} | SWAP, ["xiao2021noise"]),
        ({"method": "finetune"}, []),
        *(
            ({"method": method}, [OTHER_METHODS[method]])
            for method in sorted({*METHODS} - {"robustvit", "swap", "finetune"})
        ),
    ],
)
def test_cards_cite_what_the_model_was_made_by(folder, training, cited):
    card = make_card(json.loads((folder / "run.json").read_text()) | {"training": training})
    assert re.findall(r"@inproceedings{(\w+),\n  title = {.+},\n  author = {.+ and .+},", card.content) == cited
    assert ("## Citation" in card.content) is bool(cited)
    assert (cited == []) is ("arxiv.org" not in str(card)) and "arxiv:" not in str(card.data)


def evaluation_of(weights: str) -> dict:
    part = results() | {"class_changes": {}, "curves": {}}
    return {
        "settings": {"compare": "runs/robustvit-tiny"},
        "weights": {"before": "0", "after": weights},
        "versions": {},
        "hardware": "",
        "protocols": {"paper": part, "native": copy.deepcopy(part)},
    }


def test_evaluation_under_two_protocols(copied, tmp_path):
    evaluated = tmp_path / "evaluation"
    (copied / "accuracy_paper.png").write_bytes(b"of an earlier evaluation")
    (evaluated / "plots" / "native").mkdir(parents=True)
    (evaluated / "plots" / "native" / "accuracy.png").write_bytes(b"png")
    digest = weights_digest(AutoModelForImageClassification.from_pretrained(copied))
    (evaluated / "results.json").write_text(json.dumps(evaluation_of(digest)))
    assert succeed("card", copied, "--evaluation", evaluated) == f"{copied / 'README.md'}\n"
    card = ModelCard.load(copied / "README.md")
    assert {(r.dataset_config, r.metric_name, r.metric_value) for r in card.data.eval_results} == {
        (protocol, name, value)
        for protocol in ("paper", "native")
        for name, value in (("top-1", 0.5), ("top-1 before finetuning", 0.75))
    }
    assert "Protocol `native`: images are resized to 248 pixels (bicubic)" in card.content
    restricted = "On ImageNet-A, ImageNet-R and ObjectNet, logits are restricted"
    assert restricted not in card.content
    assert "Top-1, per cent under protocol `native`: `validation` 75.0 → 50.0" in card.content
    assert "(accuracy_native.png)" in card.content and "accuracy_paper.png" not in card.content
    evaluation = json.loads((copied / "evaluation.json").read_text())
    for part in evaluation["protocols"].values():
        part["rows"][0]["set"], part["sources"] = "imagenet-a", {"imagenet-a": "barkermrl/imagenet-a"}
    (copied / "evaluation.json").write_text(json.dumps(evaluation))
    write_card(copied)
    assert (copied / "README.md").read_text().count(restricted) == 1


def test_results_of_earlier_weights_are_not_taken_for_those_of_the_folder(copied, tmp_path):
    """A `results.json` whose weights were replaced. Otherwise it tells the weights before the finetuning."""
    evaluated = tmp_path / "evaluation"
    evaluated.mkdir()
    digest = weights_digest(AutoModelForImageClassification.from_pretrained(copied))
    other = "0123456789abcdef"
    for recorded, measured, problem in (
        ({"before": "0", "after": other}, other, "no results of the weights after the finetuning"),
        ({"before": "1", "after": digest}, digest, "no results of the weights before the finetuning"),
        ({"before": "1", "after": other}, digest, None),
    ):
        (copied / "results.json").write_text(json.dumps(results() | {"weights": recorded}))
        (evaluated / "results.json").write_text(json.dumps(evaluation_of(measured)))
        completed = call("card", copied, "--evaluation", evaluated)
        assert problem in completed.error if problem else completed.status == 0
        assert (copied / "evaluation.json").is_file() is (problem is None)
    assert "Protocol `native`" in (copied / "README.md").read_text()


def test_results_of_other_weights_are_left_out(copied):
    """A second training in the same folder, or a resumed one, is not told by the figures of the first."""
    weights = json.loads((copied / "run.json").read_text())["weights"]
    (copied / "before_after.png").write_bytes(b"png")
    for digest, told in ((weights, True), ("0123456789abcdef", False)):
        (copied / "results.json").write_text(json.dumps(results() | {"weights": {"before": "0", "after": digest}}))
        write_card(copied)
        text = (copied / "README.md").read_text()
        assert ("| validation | 4 | 75.0" in text) is told and ("(before_after.png)" in text) is told


def test_validation_is_that_of_the_kept_checkpoint(tmp_path):
    """By the metric that chooses it, and of the validation images, whatever was evaluated later."""
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3, "learning_rate": 0.01}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = RobustViTTrainer(
        tiny_vit(), tiny_config(tmp_path, **settings), masked_dataset(8), masked_dataset(4, seed=1)
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_loss"])
    assert best != min(evaluations, key=lambda entry: entry["eval_loss"])
    trainer.evaluate([trainer.eval_dataset[0]] * 4)
    trainer.create_model_card()
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["validation"]["images"] == 4 and f"loss {best['eval_loss']:.4f}" in run["validation"]["text"]
    assert run["training"]["checkpoint"] == "highest loss in validation"

    steps = RobustViTTrainer(
        tiny_vit(),
        tiny_config(tmp_path / "steps", max_steps=1, lr_scheduler_type="cosine", warmup_steps=5),
        masked_dataset(16),
    )
    steps.train()
    steps.create_model_card()
    training = json.loads((tmp_path / "steps" / "run.json").read_text())["training"]
    assert training["epochs"] == "0.5" and training["learning rate"] == "0.001, cosine"
    assert training["warm-up"] == "5 steps"


@pytest.mark.parametrize("base, registered", [("emoji-shift", "emoji-shift"), ("./emoji-shift", None)])
def test_a_folder_with_the_name_of_a_registered_model_is_another(tmp_path, base, registered):
    RobustViTTrainer(tiny_vit(), tiny_config(tmp_path)).create_model_card(finetuned_from=base)
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["finetuned_from"], run["registered"]) == ("emoji-shift", registered)
    assert ("is the bundled model" in make_card(run, results()).content) is (registered is not None)


def test_signature(tmp_path):
    """What one card was told holds for the next."""
    trainer = RobustViTTrainer(tiny_vit(), tiny_config(tmp_path))
    trainer.create_model_card("en", license="mit", tags=["vision"], model_name="a name", finetuned_from="x/y")
    trainer.create_model_card(license="apache-2.0")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.language, card.data.license, card.data.base_model) == ("en", "apache-2.0", "x/y")
    assert card.data.tags[-1] == "vision" and "# a name\n" in card.content


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.name)
def test_released_cards(released, tmp_path):
    """The cards in `model_cards/` are what the generator makes of the files beside them, which agree to the digit and are of this version."""
    results, evaluation, run = (
        json.loads((released / f"{name}.json").read_text()) for name in ("results", "evaluation", "run")
    )
    assert run["versions"]["robust-vit-hf"] == __version__
    # `evaluate` has no control.
    rows = [{key: None if key.endswith("_control") else row[key] for key in row} for row in results["rows"]]
    assert rows == evaluation["protocols"]["paper"]["rows"]
    assert results["weights"] == evaluation["weights"] and run["weights"] == results["weights"]["after"]
    shutil.copytree(released, tmp_path / "card")
    (tmp_path / "card" / "README.md").unlink()
    write_card(tmp_path / "card")
    assert (released / "README.md").read_text(encoding="utf-8") == (tmp_path / "card" / "README.md").read_text(
        encoding="utf-8"
    )
