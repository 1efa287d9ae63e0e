"""Upload models and datasets to the Hub."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HTTPError

from ..data.contact_sheets import CONTACT_SHEET
from ..data.write_dataset import RECORD_FILE, made_from
from ..models.interpolation import INTERPOLATION_FILE
from ..models.model_names import CONVERSION_FILE, MODELS
from ..utils.files import RESULTS_FILE, RUN_FILE, read_json, write_json
from ..utils.privacy import is_hub_id
from .model_card import CARD_FILE, EVALUATION_FILE, write_card
from .options import PushOptions


ADAPTER_FILE = "adapter_config.json"
# Only these files are uploaded. Others in the folder, of the Trainer and of other commands, contain local paths, the name of the
# machine, the user's images or their names.
MODEL_FILES = [CARD_FILE, RUN_FILE, RESULTS_FILE, EVALUATION_FILE, INTERPOLATION_FILE, CONVERSION_FILE]
MODEL_FILES += ["tables.md", "candidates.md", "verdict.json", "LICENSE*", "NOTICE*"]
MODEL_FILES += ["*config.json", "*model*.safetensors", "*model*.bin", "*.index.json", "*.py"]
DATASET_FILES = [CARD_FILE, RECORD_FILE, "*.parquet", f"{CONTACT_SHEET}*.png"]
httpx = import_module(HTTPError.__module__)  # the HTTP client of huggingface_hub: httpx, and since 2.0 httpx2


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Context manager that turns errors of the HTTP client into an `OSError`, since some of them quote the token."""
    try:
        yield
    except (httpx.LocalProtocolError, UnicodeEncodeError):
        raise PermissionError(
            f"The token for `{repo_id}` contains characters that no token has: `hf auth login`."
        ) from None
    except httpx.TransportError as error:
        raise ConnectionError(f"The Hub cannot be reached for `{repo_id}`: {error}. Push again later.") from None


def create_repo(
    repo_id: str, *, repo_type: str = "model", private: bool | None = None, token: str | None = None
) -> str:
    """Create a repository if it does not exist, and return its id, `owner/name`. Arguments as in [`push_folder`]."""
    api = HfApi(token=token)
    with hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True).repo_id
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(f"`{repo_id}` exists and is public, so nothing was uploaded. Choose another name.")
    return repo_id


def check_adapter_base(base: str | None) -> None:
    """Reject an adapter whose base is a local folder or unknown, since nobody else could load it."""
    if base not in MODELS and not is_hub_id(base or ""):
        raise ValueError(f"The base of the adapter is `{base}`, which is not on the Hub: merge it (`--merge_lora`).")


def model_files(folder: Path) -> list[str]:
    """Patterns of the files of a model to upload: [`MODEL_FILES`], and the pictures and files that the card links."""
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    shown = re.findall(r'(?:\]\(|src=")([^)"\s]*[^)"\s/\\])', text)
    files = [path.name for pattern in MODEL_FILES for path in folder.glob(pattern)]  # not those of folders in it
    return [glob.escape(name) for name in (*files, *shown)]


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    commit_message: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> CommitInfo:
    """Upload the files of a model or dataset in one commit. The repository is created if it does not exist."""
    repo_id = create_repo(repo_id, repo_type=repo_type, private=private, token=token)
    api = HfApi(token=token)
    with hub_errors(repo_id):
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type=repo_type,
            commit_message=commit_message,
            revision=revision,
            allow_patterns=model_files(folder) if repo_type == "model" else DATASET_FILES,
        )


def repo_type_of(folder: Path) -> str:
    """`"model"` or `"dataset"`, by the files of a folder. Other and incomplete folders raise a `ValueError`."""
    if made_from(folder):
        return "dataset"
    if adapter := read_json(folder / ADAPTER_FILE):
        check_adapter_base(adapter["base_model_name_or_path"])
    names = {path.name for path in folder.glob("*") if path.name != "training_args.bin"}
    is_model, has_card = names & {"config.json", ADAPTER_FILE}, names & {RUN_FILE, CARD_FILE}
    if not (is_model and has_card and any(name.endswith((".safetensors", ".bin")) for name in names)):
        raise ValueError(
            f"`{folder}` is not a folder that can be pushed: expected prepared images, or a model with weights and card."
        )
    return "model"


def push(options: PushOptions) -> str:
    """Upload a folder, and return the URL of the commit. The card of a model is rewritten for its name on the Hub."""
    folder, repo_id, private = options.folder, options.repo_id, options.private or None
    repo_type, run = repo_type_of(folder), read_json(folder / RUN_FILE)
    if run is not None:
        repo_id = create_repo(repo_id, private=private)
        names = {"hub_model_id": repo_id, "model_name": repo_id.split("/")[-1], "revision": options.revision}
        write_json(folder / RUN_FILE, run | names)
        write_card(folder)
    return push_folder(
        folder,
        repo_id,
        repo_type=repo_type,
        commit_message=options.commit_message or f"Upload {repo_type}",
        private=private,
        revision=options.revision,
    ).commit_url
