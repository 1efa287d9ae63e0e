"""Options of `robust-vit card` and `push`."""

from dataclasses import dataclass
from pathlib import Path

from ..utils.options import Options, option


@dataclass(kw_only=True)
class CardOptions(Options):
    """Rewrite the card of a finetuned model, with the results of `robust-vit evaluate`.

    robust-vit card runs/vit-b --evaluation runs/vit-b-robustness
    """

    folder: Path = option(text="folder of a finetuned model, with its run.json", positional=True)
    evaluation: Path | None = option(None, "output_dir of `robust-vit evaluate --compare` with this model")


@dataclass(kw_only=True)
class PushOptions(Options):
    """Upload a finetuned model, an adapter, or images with masks. Repeat the command if it was interrupted.

    robust-vit push runs/vit-b YOUR_NAME/robustvit-vit-b --private
    robust-vit push sets/emoji-tokencut YOUR_NAME/emoji-tokencut
    """

    folder: Path = option(text="model, adapter, or output of `robust-vit masks` or `data prepare`", positional=True)
    repo_id: str = option(text="name or owner/name of the repository; created if it does not exist", positional=True)
    private: bool = option(False, "make a new repository private")
    revision: str | None = option(None, "branch; created if it does not exist")
    commit_message: str | None = option(None, "title of the commit")
