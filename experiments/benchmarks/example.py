"""Collect the figures of the example in docs/diagnose.md and docs/improve.md from the folder that its commands write.

    python -m experiments example runs/own

Writes experiments/benchmarks/example.json.
"""

from pathlib import Path

from robust_vit_hf.utils.files import read_json, write_json

from ..scripts import script_parser


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    diagnosis, improved, elsewhere = (
        read_json(folder / name / "results.json") for name in ("diagnosis", "better", "evaluation")
    )
    outcome = read_json(folder / "better" / "verdict.json")
    found = {
        "diagnosis": diagnosis["diagnosis"]["before"]["sentence"],
        "improve": {
            "verdict": outcome.pop("verdict"),
            "outcome": {name: outcome[name] for name in ("share", "before", "after", "usual", "other", "change")},
            "report": improved["rows"][0],
        },
        "elsewhere": elsewhere["protocols"]["model"]["rows"][0],
        **{key: elsewhere[key] for key in ("versions", "hardware", "commit")},
    }
    write_json(Path(__file__).with_suffix(".json"), found)
