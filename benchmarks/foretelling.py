"""Does `diagnose` foretell top-1 on really random backgrounds? `mixed_rand` of emoji-shift `val`, by true masks and by
TokenCut's, beside top-1 of `background_random`, of which nothing is composed.

    python benchmarks/foretelling.py --compare runs/emoji-shift --output_dir runs/foretelling --bf16
"""

import argparse
from pathlib import Path

from robust_vit_hf import diagnose
from robust_vit_hf.data.emoji_shift.compose_images import load_split
from robust_vit_hf.evaluation.measurements.accuracy import Accuracy, measure_accuracy
from robust_vit_hf.evaluation.options import PairOptions
from robust_vit_hf.evaluation.session import open_session
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.results.markdown_latex import Table
from robust_vit_hf.results.number_formats import percent
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json
from robust_vit_hf.utils.stage import Stage


MODEL = "emoji-shift"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", required=True, help="a finetuning of the bundled model")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    pair, found = PairOptions(model=MODEL, compare=arguments.compare), {}
    with open_session(
        pair, "paper", Stage(arguments.output_dir / "random", {"command": "foretelling"}), bf16=arguments.bf16
    ) as session:
        rows = EvaluationSet.of(load_split("background_random", arguments.images).remove_columns("mask"))
        (random,) = measure_accuracy(session.with_sets({"background_random": rows}), Accuracy()).values()
    found["random backgrounds"] = {side: result.scores["top1"] for side, result in random.sides.items()}
    for name, masks in {"true masks": None, "masks by TokenCut": "tokencut"}.items():
        report = diagnose(
            MODEL, compare=arguments.compare, num_images=arguments.images, masks=masks, bf16=arguments.bf16,
            output_dir=arguments.output_dir / name.replace(" ", "-"),
        )  # fmt: skip
        found[name] = {side: one.measures["mixed_rand"].mean for side, one in report.diagnoses.items()}
    write_json(arguments.output_dir / "foretelling.json", {"images": arguments.images, "top1": found, **environment()})
    table = [[name, *(percent(value) for value in of_sides.values())] for name, of_sides in found.items()]
    print(Table("", ["top-1, %", "before", "after"], table).markdown())


if __name__ == "__main__":
    main()
