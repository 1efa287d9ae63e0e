"""The worst group of images in the report of a sweep."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.sweeps.results import Results, worst_group_table
from experiments.sweeps.results_parquet import read_results

from ..helpers.commands import succeed
from ..helpers.experiment import result, run_of
from ..helpers.tiny import masked_dataset, save_pretrained, tiny_vit


def test_groups_in_the_report_of_a_sweep(tmp_path):
    """A test split with groups, measured before and after; the groups and their weights come through the file of results."""
    for split, groups in {"train": "xxxy", "validation": "xyxy", "test": "xyxyxy"}.items():
        masked_dataset(len(groups)).add_column("group", list(groups)).to_parquet(
            tmp_path / "data" / f"{split}-00000.parquet"
        )
    model = save_pretrained(tiny_vit(), tmp_path / "model", "paper")
    options = {"dataset": str(tmp_path / "data"), "test_split": "test", "model": str(model), "num_train_epochs": 1}
    options |= {"learning_rate": 1e-3, "report_to": "none", "eval_strategy": "no", "save_strategy": "no"}
    options |= {"load_best_model_at_end": False, "logging_strategy": "no"}
    grid = {
        "options": options,
        "variants": {"robustvit": {}, "finetune": {"method": "finetune"}},
        "seeds": {0: {"seed": 0}},
    }
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    succeed("experiments", "sweep", tmp_path / "grid.yaml", "--output_dir", tmp_path / "runs", "--cluster", "debug")
    # Results of the original model are shared with runs on other training images.
    for path in (tmp_path / "runs").glob("*/predictions/test/before/stage.json"):
        recorded = json.loads(path.read_text())
        recorded["result"]["group_weights"] = {"x": 0.5, "y": 0.5}
        path.write_text(json.dumps(recorded))
    printed = succeed("experiments", "report", tmp_path / "runs", "--output_dir", tmp_path / "report")
    (run,) = (run for run in read_results(tmp_path / "report" / "results.parquet").runs if run.method == "finetune")
    assert [*run.sets] == ["test"] and run.sets["test"].groups.tolist() == list("xyxyxy")
    assert run.sets["test"].group_weights == {"x": 0.75, "y": 0.25}
    top1 = [100 * run.sets["test"].accuracy("after", chosen=run.sets["test"].groups == name) for name in "xy"]
    (line,) = (line for line in printed.splitlines() if line.startswith("| model, finetune, `test` | 1 |"))
    cells = line.rstrip(" |").split(" | ")
    assert float(cells[3]) == pytest.approx(min(top1), abs=0.06) and cells[-1] == "as in training"
    assert float(cells[6]) == pytest.approx(0.75 * top1[0] + 0.25 * top1[1], abs=0.06) and top1[0] != top1[1]
    card = (next((tmp_path / "runs").glob("*finetune*")) / "run" / "README.md").read_text()
    assert "Groups of `test`, top-1 in per cent" in card and "| worst group |" in card
    assert "| average, weighted by the training groups | 6 |" in card


def test_runs_with_other_groups_in_training():
    """Each is weighted by its own; where one does not know them, all groups count the same in all."""
    groups = np.repeat(np.array(["a", "b"], dtype=object), 100)
    runs = []
    for seed, weights in enumerate([{"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0}]):
        of_run = result("test", groups=groups, weights=weights, before=0.5, after=0.75)
        runs.append(replace(run_of(of_run, model="m"), name=str(seed), seed=str(seed)))
    (row,) = worst_group_table(Results(runs)).rows
    assert row[:4] == ["m, robustvit, `test`", "2", "0.0", "50.0"]
    assert [*row[5:7], row[-1]] == ["62.5", "81.2", "as in training"]  # (75 + 50) / 2 and (87.5 + 75) / 2
    runs[1] = replace(runs[1], sets={"test": result("test", groups=groups, before=0.5, after=0.75)})
    (row,) = worst_group_table(Results(runs)).rows
    assert [*row[5:7], row[-1]] == ["50.0", "75.0", "equal"]


def test_groups_of_the_training_without_images_are_counted():
    groups, weights = np.repeat(np.array(["a", "b"], dtype=object), 100), dict.fromkeys("edcba", 1.0)
    birds = result("test", groups=groups, weights=weights, before=0.5, after=1.0)
    (row,) = worst_group_table(Results([run_of(birds)])).rows
    assert row[-1] == "as in training, without 3 groups that have no images"
