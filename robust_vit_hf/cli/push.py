"""Options of `robust-vit push`."""

from pathlib import Path

from .parser import Parser


DESCRIPTION = """Upload a finetuned model, an adapter, or images with masks. An interrupted upload can be repeated.

  robust-vit push runs/vit-b YOUR_NAME/robustvit-vit-b --private
  robust-vit push sets/emoji-tokencut YOUR_NAME/emoji-tokencut"""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit push", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, help="model, adapter, or output of `robust-vit masks` or `data prepare`")
    parser.add_argument("repo_id", help="name, or owner/name; created if it does not exist")
    parser.add_argument("--private", action="store_const", const=True, help="make a new repository private")
    parser.add_argument("--revision", help="branch; created if it does not exist")
    parser.add_argument("--commit_message", help="title of the commit")
    options = vars(parser.parse_args(argv))

    from ..hub.upload import publish_folder

    print(publish_folder(**options).commit_url)
