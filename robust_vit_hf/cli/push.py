"""Options of `robust-vit push`."""

from pathlib import Path

from .parser import Parser


DESCRIPTION = """Upload a finetuned model, an adapter, or images with masks; also again, after an upload that was cut off.

  robust-vit push runs/vit-b YOUR_NAME/robustvit-vit-b --private
  robust-vit push sets/emoji-tokencut YOUR_NAME/emoji-tokencut"""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit push", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, help="model, adapter, or what `robust-vit masks` or `data prepare` wrote")
    parser.add_argument("repo_id", help="name, or owner/name; created if it does not exist")
    parser.add_argument("--private", action="store_const", const=True, help="make a new repository private")
    parser.add_argument("--revision", help="branch; created if it does not exist")
    parser.add_argument("--commit_message", help="title of the commit")
    arguments = parser.parse_args(argv)

    from ..hub.upload import publish_folder

    commit = publish_folder(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        commit_message=arguments.commit_message,
    )
    print(commit.commit_url)
