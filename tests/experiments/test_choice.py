"""The choice among settings on validation images, and runs that are joined for it."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.sweeps.choose_settings import choose_settings
from experiments.sweeps.results_parquet import ResultsFile, join, read_results
from robust_vit_hf.results.run_results import SetResult, SideResult

from ..helpers.experiment import result_rows, write_rows


ROWS = result_rows()


@pytest.mark.parametrize(
    "before, after, bound, verdicts",
    [
        (0.75, {1e-6: 0.625, 1e-5: 0.5}, 0.25, {1e-6: "", 1e-5: "chosen"}),
        (0.75, {1e-6: 0.625, 1e-5: 0.5}, 0.2, {1e-6: "chosen", 1e-5: ""}),
        # As counts of images say: of 50 images one less is right, which as a difference of floats is more than 0.02.
        (0.98, {1e-6: 0.98, 1e-5: 0.96}, 0.02, {1e-6: "", 1e-5: "chosen"}),
        (0.8, {1e-6: 0.4, 1e-5: 0.6}, 0.02, {1e-6: "", 1e-5: "beyond the bound"}),  # the one with the least fall
    ],
)
def test_the_highest_rate_whose_fall_is_at_most_the_bound_is_chosen(before, after, bound, verdicts, tmp_path):
    rows = [row | {"validation_before": before, "validation_after": after[row["learning_rate"]]} for row in ROWS]
    chosen, table = choose_settings(read_results(write_rows(tmp_path / "r.parquet", rows, bound=bound)))
    assert {float(row[2]): row[-1] for row in table.rows if row[:2] == ["ViT-B", "robustvit"]} == verdicts
    assert [verdicts[run.learning_rate] for run in chosen if run.method == "robustvit"] == 4 * [max(verdicts.values())]


def validation(before: int, after: int, labelled: int = 100) -> SetResult:
    """Of 100 validation images, the first so many are right."""
    images = np.arange(100)
    sides = {
        "before": SideResult(np.where(images < before, 0, 5)),
        "after": SideResult(np.where(images < after, 0, 5)),
    }
    return SetResult("validation", sides, np.where(images < labelled, 0, -1))


def measured(run, gained, lost):
    """A run that corrects some of the validation images on other backgrounds and loses some as they are."""
    composed = {"mixed_rand": validation(20, 20 + gained), "original": validation(90, 90 - lost)}
    return replace(run, composed=composed)


def test_settings_are_compared_on_the_seeds_that_all_have(results):
    """The lower rate corrects more images of the first seed, and none of the second, which the higher one lacks."""
    runs = [run for run in results.runs if run.method == "robustvit" and run.model == "ViT-B"]
    low = [measured(run, 50 if run.seed == "0" else 0, 0) for run in runs if run.learning_rate == 1e-6]
    high = [measured(run, 30, 0) for run in runs if run.learning_rate == 1e-5 and run.seed == "0"]
    assert len(low) == 2 and len(high) == 1
    chosen, table = choose_settings(replace(results, runs=[*low, *high], choose_by="mixed_rand"))
    assert chosen == low and [row[6] for row in table.rows] == ["70.0", "50.0"]


def changed(results: ResultsFile, suffix: str = "", **changes) -> ResultsFile:
    """The same runs, with other names and values."""
    return replace(results, runs=[replace(run, name=f"{run.name}{suffix}", **changes) for run in results.runs])


def test_two_runs_of_a_setting_and_seed_are_rejected(results):
    """As of files of two machines, whose numbers have different formats."""
    again, longer = changed(results, ", again", settings='{"bf16": true}'), changed(results, ", longer", epochs=60.0)
    models = [changed(results, f", of {digest}", original=digest) for digest in ("0123", "4567")]
    for files, difference in (
        ([results, again], "bf16"),
        ([results, longer], "num_train_epochs"),
        (models, "the original model"),
    ):
        with pytest.raises(ValueError, match=f"-1e-06-0.*-0, .*same setting and seed, and differ in {difference}"):
            choose_settings(join(files))


def test_files_are_joined_and_the_run_on_most_sets_is_taken(results):
    search = changed(results, ", search", sets={})
    search.runs[0] = replace(search.runs[0], settings='{"benchmark_sets": false}')
    for files in ([search, results], [results, search]):
        assert [run.name for run in join(files).runs] == [run.name for run in results.runs]
    longer = changed(results, ", longer", epochs=60.0)
    other = replace(results, runs=[replace(results.runs[0], name="other", settings='{"background_swap": 0.5}')])
    assert len(join([results, longer, other]).runs) == 2 * len(results.runs) + 1
    with pytest.raises(ValueError, match="were to be chosen by different criteria"):
        join([results, replace(results, validation_bound=0.5)])
    with pytest.raises(
        ValueError, match=rf"Two runs are named `{results.runs[0].name}`, and differ in their original"
    ):
        join([changed(results, original=digest) for digest in ("0123", "4567")])
