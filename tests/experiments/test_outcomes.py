"""Outcomes of benchmarks in parquet (experiments/benchmarks/outcomes.py)."""

from experiments.benchmarks.outcomes import read_outcomes, write_outcomes


def test_runs_are_read_as_they_were_written(tmp_path):
    runs = {
        "vit-50/quick": {"outcome": "better", "places": {"home": {"before": "0110", "after": "1111"}}, "count": 3},
        "vit-50/labels": {"chosen": ["original"], "places": {"home": {"before": "0110"}}, "gain": {"mean": -0.25}},
    }
    write_outcomes(tmp_path / "of.parquet", runs, {"commit": "0" * 40, "versions": {"torch": "2"}})
    assert read_outcomes(tmp_path / "of.parquet") == (runs, {"commit": "0" * 40, "versions": {"torch": "2"}})
    assert read_outcomes(tmp_path / "none.parquet") == ({}, {})
