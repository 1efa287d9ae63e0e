"""The bundled benchmark from end to end: train, push, load by id, evaluate by id, add the results to the card, push again."""

import json

import pytest
from huggingface_hub import ModelCard

from robust_vit_hf.data.emoji_shift import SHIFTED

from ..helpers.commands import launch, succeed


NAME = "user/robustvit-emoji-shift"
LOAD = f"""
import json, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from robust_vit_hf.data.emoji_shift import load_evaluation_sets

model = AutoModelForImageClassification.from_pretrained("{NAME}").eval()
processor = AutoImageProcessor.from_pretrained("{NAME}")
rows = load_evaluation_sets(4)["background_random"]
with torch.inference_mode():
    predicted = model(**processor(rows["image"][:], return_tensors="pt")).logits.argmax(dim=1).tolist()
print(json.dumps(sum(p == label for p, label in zip(predicted, rows["label"], strict=True)) / 4))
"""


@pytest.mark.slow
def test_round_trip(hub, tmp_path):
    # Without a model or dataset, the default recipe is in force.
    trained, evaluated = tmp_path / "run", tmp_path / "evaluation"
    options = ["--images_per_set", 4, "--samples_per_class", 1, "--max_steps", 2, "--output_dir", trained]
    options += ["--eval_strategy", "no", "--no_load_best_model_at_end", "--push_to_hub", "--hub_model_id", NAME]
    assert "recipe_files/emoji-shift.yaml" in succeed("train", *options)
    rows = json.loads((trained / "results.json").read_text())["rows"]
    assert [row["set"] for row in rows] == ["val", *SHIFTED, "mean of the shifted sets"]
    assert rows[-1]["num_images"] == 6 * 4 and rows[-1]["top1_control"] is not None

    caches = {name: str(tmp_path / name) for name in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")}
    loaded = launch("-c", LOAD, **caches)
    assert loaded.status == 0, loaded.err[-3000:]
    (row,) = (row for row in rows if row["set"] == "background_random")
    assert json.loads(loaded.out.splitlines()[-1]) == row["top1_after"]

    options = ["--images_per_set", 4, "--protocols", "paper", "--output_dir", evaluated]
    succeed("evaluate", "--compare", NAME, *options)
    measured = json.loads((evaluated / "results.json").read_text())["protocols"]["paper"]
    for row, expected in zip(measured["rows"], rows, strict=True):
        assert row == {key: None if key.endswith("_control") else value for key, value in expected.items()}
    assert len(measured["class_groups"]) == 2 * 7

    succeed("card", trained, "--evaluation", evaluated)
    succeed("push", trained, NAME, "--commit_message", "Add the evaluation")
    assert hub.log("models", NAME) == ["Add the evaluation", "End of training", "initial commit"]
    card = ModelCard(hub.repos["models", NAME]["README.md"].decode())
    assert card.data.base_model == "facebook/dinov2-small" and card.data.license == "apache-2.0"
    assert len(card.data.eval_results) == 2 * 7 and "(accuracy_paper.png)" in card.content
    assert "accuracy_paper.png" in hub.repos["models", NAME]
