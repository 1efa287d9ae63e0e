"""Write the model card of a finetuned model again, with the results of `eval/evaluate_robustness.py` in it.

python -m robust_vit_hf.card runs/vit-base --evaluation runs/vit-base-robustness
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from .files import write_atomically
from .model_card import CARD_FILE, EVALUATION_FILE, FIGURES, write_card
from .models import load_model, weights_digest
from .report import RESULTS_FILE


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m robust_vit_hf.card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="finetuned model, with the run.json of its training")
    parser.add_argument("--evaluation", type=Path, help="output_dir of eval/evaluate_robustness.py for this model")
    arguments = parser.parse_args(argv)
    if arguments.evaluation is not None:
        if not (arguments.evaluation / RESULTS_FILE).is_file():
            raise FileNotFoundError(
                f"`{arguments.evaluation}` has no `{RESULTS_FILE}`: run eval/evaluate_robustness.py with --output_dir "
                f"{arguments.evaluation} first."
            )
        evaluation = json.loads((arguments.evaluation / RESULTS_FILE).read_text(encoding="utf-8"))
        if not evaluation.get("protocols") or evaluation["settings"]["compare"] is None:
            raise ValueError(
                f"`{arguments.evaluation}` holds no comparison of two models: run eval/evaluate_robustness.py with --compare."
            )
        known = {"after": weights_digest(load_model(str(arguments.folder)))}
        if (arguments.folder / RESULTS_FILE).is_file():
            known |= json.loads((arguments.folder / RESULTS_FILE).read_text(encoding="utf-8")).get("weights", {})
        for side, digest in known.items():
            if evaluation["weights"][side] != digest:
                option = {"before": "--model", "after": f"--compare {arguments.folder}"}[side]
                raise ValueError(
                    f"`{arguments.evaluation}` measured other weights than those {side} the finetuning of `{arguments.folder}`: "
                    f"run eval/evaluate_robustness.py again, see {option}."
                )
        for picture in FIGURES[EVALUATION_FILE]:
            (arguments.folder / picture).unlink(missing_ok=True)
        kept = {key: evaluation[key] for key in ("paper_model", "weights", "versions", "hardware", "protocols")}
        write_atomically(arguments.folder / EVALUATION_FILE, json.dumps(kept, indent=2) + "\n")
        for protocol in evaluation["protocols"]:
            plot = arguments.evaluation / "plots" / protocol / "accuracy.png"
            if plot.is_file():
                shutil.copy(plot, arguments.folder / f"accuracy_{protocol}.png")
    write_card(arguments.folder)
    print(arguments.folder / CARD_FILE)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
