"""Options of `robust-vit card`."""

from pathlib import Path

from .parser import Parser


DESCRIPTION = """Rewrite the model card of a finetuned model, with the results of `robust-vit evaluate`.

  robust-vit card runs/vit-b --evaluation runs/vit-b-robustness"""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit card", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, help="finetuned model, with the run.json of its training")
    parser.add_argument("--evaluation", type=Path, help="output_dir of `robust-vit evaluate` for this model")
    arguments = parser.parse_args(argv)

    from ..hub.model_card import CARD_FILE, add_evaluation, write_card

    if arguments.evaluation is not None:
        add_evaluation(arguments.folder, arguments.evaluation)
    write_card(arguments.folder)
    print(arguments.folder / CARD_FILE)
