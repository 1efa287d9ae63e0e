"""Upload a finetuned model, an adapter, or images with masks that lie in a folder; again, where an upload was cut off.

python -m robust_vit_hf.push runs/vit-base YOUR_NAME/robustvit-vit-b --private
python -m robust_vit_hf.push sets/emoji-tokencut YOUR_NAME/emoji-tokencut
"""

import argparse
import json
import sys
from pathlib import Path

from .data.shards import PARTS_FOLDER, SETTINGS_FILE
from .files import write_atomically
from .hub import create_repo, push_folder
from .model_card import CARD_FILE, write_card
from .run_record import RUN_FILE


def repo_type_of(folder: Path) -> str:
    """`"model"` or `"dataset"`, by what a folder holds.

    Raises:
        ValueError: it holds neither, a data set that is not finished, or a model without weights or card.
    """
    if (folder / PARTS_FOLDER).exists():
        raise ValueError(f"`{folder}` is a data set that was cut off: run the command that made it again first.")
    if (folder / SETTINGS_FILE).is_file():
        return "dataset"
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        if not any(
            path.suffix in (".safetensors", ".bin") for path in folder.iterdir() if path.stem != "training_args"
        ):
            raise ValueError(f"`{folder}` holds no weights (`model.safetensors` or `adapter_model.safetensors`).")
        if not (folder / RUN_FILE).is_file() and not (folder / CARD_FILE).is_file():
            raise ValueError(
                f"`{folder}` has no model card, and no `{RUN_FILE}` to make one from: write a `{CARD_FILE}` that says what the "
                "model is."
            )
        return "model"
    raise ValueError(
        f"`{folder}` holds no model (`config.json`), no adapter (`adapter_config.json`), and no prepared images "
        f"(`{SETTINGS_FILE}`)."
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m robust_vit_hf.push",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("repo_id", help="name, or owner/name; made if it does not exist")
    parser.add_argument("--private", action="store_const", const=True, help="make a new repository private")
    parser.add_argument("--revision", help="branch; made if it does not exist")
    parser.add_argument("--commit_message", help="what the history shows")
    arguments = parser.parse_args(argv)
    repo_type = repo_type_of(arguments.folder)
    run = arguments.folder / RUN_FILE
    if run.is_file():  # the card tells how to load the model from where it will be
        repo_id = create_repo(arguments.repo_id, private=arguments.private)
        described = json.loads(run.read_text(encoding="utf-8")) | {"hub_model_id": repo_id}
        described |= {"model_name": repo_id.split("/")[-1], "revision": arguments.revision}
        write_atomically(run, json.dumps(described, indent=2) + "\n")
        write_card(arguments.folder)
    commit = push_folder(
        arguments.folder,
        arguments.repo_id,
        repo_type=repo_type,
        commit_message=arguments.commit_message or f"Upload {repo_type}",
        private=arguments.private,
        revision=arguments.revision,
    )
    print(commit.commit_url)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
