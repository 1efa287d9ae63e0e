"""The whole way of the bundled benchmark, as its commands go: train, push, load by id, evaluate by id, tell in the card.

python -m pytest tests/test_round_trip.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from huggingface_hub import ModelCard

from robust_vit_hf.emoji_shift import SPLITS

from .hub import LoopbackHub


ROOT = Path(__file__).parents[1]
NAME = "user/robustvit-emoji-shift"
LOAD = f"""
import json, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from robust_vit_hf.emoji_shift import load_evaluation_sets

model = AutoModelForImageClassification.from_pretrained("{NAME}").eval()
processor = AutoImageProcessor.from_pretrained("{NAME}")
rows = load_evaluation_sets(20)["background_random"]
with torch.inference_mode():
    predicted = model(**processor(rows["image"][:], return_tensors="pt")).logits.argmax(dim=1).tolist()
print(json.dumps(sum(p == label for p, label in zip(predicted, rows["label"], strict=True)) / 20))
"""


def test_round_trip(tmp_path):
    with LoopbackHub() as hub:

        def run(*command) -> str:
            # Each process starts with an empty cache but for the bundled backbone, which it makes.
            home = tmp_path / f"home-{len(list(tmp_path.glob('home-*')))}"
            completed = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env=os.environ | hub.environment() | {"HF_HOME": str(home)},
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert completed.returncode == 0, completed.stderr[-3000:]
            return completed.stdout

        # Options that do not name a model or dataset leave the default recipe in force.
        trained, evaluated = tmp_path / "run", tmp_path / "evaluation"
        options = ["--images_per_set", 20, "--num_train_epochs", 1, "--output_dir", trained]
        run("trainer/train.py", *options, "--push_to_hub", "--hub_model_id", NAME)
        rows = json.loads((trained / "results.json").read_text())["rows"]
        assert [row["set"] for row in rows] == [*(s for s in SPLITS if s != "train"), "mean of the shifted sets"]
        assert rows[-1]["num_images"] == 6 * 20 and rows[-1]["top1_control"] is not None

        accuracy = json.loads(run("-c", LOAD).splitlines()[-1])
        (row,) = (row for row in rows if row["set"] == "background_random")
        assert accuracy == row["top1_after"]

        options = ["--images_per_set", 20, "--protocols", "paper", "--output_dir", evaluated]
        run("eval/evaluate_robustness.py", "--compare", NAME, *options)
        measured = json.loads((evaluated / "results.json").read_text())["protocols"]["paper"]
        for row, expected in zip(measured["rows"], rows, strict=True):
            assert row == {key: None if key.endswith("_control") else value for key, value in expected.items()}
        assert len(measured["class_groups"]) == 2 * 7

        run("-m", "robust_vit_hf.card", trained, "--evaluation", evaluated)
        run("-m", "robust_vit_hf.push", trained, NAME, "--commit_message", "Add the evaluation")
        assert hub.log("models", NAME)[0][1] == "Add the evaluation"
        card = ModelCard(hub.repos["models", NAME]["README.md"].decode())
        assert card.data.base_model == "facebook/dinov2-small" and card.data.license == "apache-2.0"
        assert len(card.data.eval_results) == 2 * 7 and "(accuracy_paper.png)" in card.content
        assert "accuracy_paper.png" in hub.repos["models", NAME]
