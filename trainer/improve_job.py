# /// script
# requires-python = ">=3.11"
# dependencies = ["robust-vit-hf[train]"]
# ///
"""Improve a model of the Hub on images of the Hub, and push the result, on a machine with nothing but uv:

uv run trainer/improve_job.py MODEL DATASET PUSH_TO [--private] [options of `robust-vit improve`]
"""

import argparse
import json
import sys
from pathlib import Path

from robust_vit_hf.cli.main import main
from robust_vit_hf.cli.parser import parse
from robust_vit_hf.hub.upload import create_repo
from robust_vit_hf.improvement.options import ImproveOptions


def run(arguments: list[str]) -> int:
    """Run the job, and return its exit status. A model whose outcome is `better` is pushed to `main`, one whose outcome is `open` to a branch
    of this name, and any other is not pushed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Hub id of an image classifier")
    parser.add_argument("dataset", help="Hub id of labelled images")
    parser.add_argument("push_to", help="Hub id of the result; created if it does not exist")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("improved"),
        help="folder of the results; give it again to resume an interrupted job",
    )
    given, options = parser.parse_known_args(arguments)
    if any(word.startswith("-") for word in arguments[:3]):  # the value of an option would be read as an id
        parser.error("give the three ids first, and options after them")
    command = ["--model", given.model, "--dataset", given.dataset, "--output_dir", str(given.output_dir), *options]
    parse(ImproveOptions, "robust-vit improve", command)
    repo_id = create_repo(
        given.push_to, private=given.private
    )  # fail now, not after hours, if the token may not write
    if status := main(["improve", *command]):
        return status
    outcome = json.loads((given.output_dir / "verdict.json").read_text())["outcome"]
    if outcome not in ("better", "open"):
        print(f"Nothing is pushed to {repo_id}: keep your model.")
        return 0
    push = ["push", str(given.output_dir), repo_id, "--commit_message", f"Improve {given.model}"]
    if outcome == "open":
        print(
            f"{repo_id}: the model is pushed to the branch `open`, since the images do not show whether it is better. `main` stays unchanged."
        )
        push += ["--revision", "open"]
    return main(push)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
