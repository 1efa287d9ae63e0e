"""Uploads to the Hub, with helpful errors."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from ..data.split_writer import made_from
from ..evaluation.before_after_examples import EXAMPLES_FILE
from ..models.loading import BASE_FILE
from ..models.model_names import CONVERSION_FILE, MODELS
from ..models.weight_mixture import INTERPOLATION_FILE
from ..utils.files import RESULTS_FILE, RUN_FILE, read_json, write_json
from ..utils.public_names import is_hub_id
from .model_card import CARD_FILE, EVALUATION_FILE, write_card
from .options import PushOptions
from .run_metadata import EMISSIONS_FILE


# The Trainer's `training_args.bin` and `trainer_state.json` contain local paths, `emissions.csv` the location, and the
# examples the user's images, as do the masks, candidates, diagnosis and page of `robust-vit improve`; its inputs are local paths.
NOT_UPLOADED = ["_*", ".*", "*.partial", "checkpoint-*", "training_args.bin", "trainer_state.json", EMISSIONS_FILE]
NOT_UPLOADED += [
    EXAMPLES_FILE,
    "masks/*",
    "candidates/*",
    "predictions/*",
    "diagnosis/*",
    "stage.json",
    "report.html",
]
ADAPTER_FILE = "adapter_config.json"
# Of a model, these files of its folder itself, TensorBoard's logs and what the card shows are uploaded, and nothing
# else: results of other commands in the same folder hold the user's images and the names of their files.
MODEL_FILES = [CARD_FILE, RUN_FILE, RESULTS_FILE, EVALUATION_FILE, INTERPOLATION_FILE, CONVERSION_FILE, BASE_FILE]
MODEL_FILES += ["tables.md", "candidates.md", "verdict.json", "LICENSE*", "NOTICE*"]
MODEL_FILES += ["*config.json", "*.safetensors", "*.bin", "*.index.json", "*.py"]
LOGS = "runs/*/events.out.tfevents.*"
httpx = import_module(HTTPError.__module__)  # the HTTP client of huggingface_hub: httpx, or httpx2 since 2.0


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """Context manager that turns Hub errors into an `OSError` that says what is wrong and what to do.

    Raises:
        PermissionError: the token is missing, invalid, expired, or lacks rights.
        ConnectionError: the Hub cannot be reached.
        OSError: any other error of the Hub.
    """
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or str(error).strip().partition("\n")[0]
        if status == 401:
            raise PermissionError(
                f"The Hub does not accept the token for `{repo_id}` ({said}): there is none, or it is wrong or has expired. "
                "Log in with `hf auth login`, or set `HF_TOKEN`."
            ) from None
        if status == 403:
            raise PermissionError(
                f"This token has no right to write to `{repo_id}` ({said}). Use a token with write rights, and a name of your "
                "own or of an organisation that you may write to: `--hub_model_id NAMESPACE/NAME`."
            ) from None
        raise OSError(
            f"The Hub refused `{repo_id}` ({status}: {said}). The repository is unchanged; try again."
        ) from None
    except (httpx.LocalProtocolError, UnicodeEncodeError):  # their messages quote the header with the token
        raise PermissionError(
            f"The token for `{repo_id}` has invalid characters, such as a space or a line break. Log in with "
            "`hf auth login`, or set `HF_TOKEN`."
        ) from None
    except httpx.TransportError as error:
        raise ConnectionError(
            f"The Hub cannot be reached for `{repo_id}` ({type(error).__name__}: {error}). Check the network and "
            "`HF_ENDPOINT`, then push again: what was uploaded is not uploaded twice."
        ) from None


def create_repo(
    repo_id: str, *, repo_type: str = "model", private: bool | None = None, token: str | None = None
) -> str:
    """Create a repository if it does not exist, and return its id with the owner. Arguments are those of
    [`push_folder`].

    Raises:
        OSError: as [`clear_errors`].
        ValueError: a private repository is requested, but it exists and is public.
    """
    api = HfApi(token=token)
    with clear_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True).repo_id
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(
                f"`{repo_id}` exists and is public, so nothing was uploaded. Make it private on the Hub, or take another name."
            )
    return repo_id


def check_adapter_base(base: str | None) -> None:
    """Refuse an adapter whose base others cannot load.

    Raises:
        ValueError: the base is a local folder, or unknown.
    """
    if base not in MODELS and not is_hub_id(base or ""):
        raise ValueError(
            f"The adapter's base is `{base}`, which nobody else has. Finetune a model from the Hub by its id, or merge the "
            "adapter (`--merge_lora`, `model.merge_and_unload()`)."
        )


def model_patterns(folder: Path) -> list[str]:
    """Patterns of the files of a model's folder that are uploaded, see [`MODEL_FILES`]."""
    card = folder / CARD_FILE
    shown = (
        re.findall(r'(?:\]\(|src=")([^)"\s]*[^)"\s/\\])', card.read_text(encoding="utf-8")) if card.is_file() else []
    )
    files = [path.name for path in folder.iterdir() if any(fnmatchcase(path.name, known) for known in MODEL_FILES)]
    return [*map(glob.escape, [*files, *shown]), LOGS]


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
    """Create a repository if it does not exist, and upload a folder except [`NOT_UPLOADED`] in one commit, of a model
    only [`MODEL_FILES`]. Large files already on the Hub, for example from an interrupted upload, are not uploaded
    again.

    Args:
        repo_id: `name` or `owner/name`.
        repo_type: `"model"` or `"dataset"`.
        private: whether a new repository is private; an existing one must then be private too.
        revision: branch, created if it does not exist; `main` by default.
        token: by default from `hf auth login` or `HF_TOKEN`.

    Raises:
        OSError: as [`clear_errors`].
        ValueError: the base of an adapter is a local folder, or as [`create_repo`].
    """
    adapter = read_json(folder / ADAPTER_FILE)
    if adapter is not None:
        check_adapter_base(adapter["base_model_name_or_path"])
    repo_id = create_repo(repo_id, repo_type=repo_type, private=private, token=token)
    api = HfApi(token=token)
    with clear_errors(repo_id):
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type=repo_type,
            commit_message=commit_message,
            revision=revision,
            allow_patterns=model_patterns(folder) if repo_type == "model" else None,
            ignore_patterns=NOT_UPLOADED,
        )


def repo_type_of(folder: Path) -> str:
    """`"model"` or `"dataset"`, depending on a folder's files.

    Raises:
        ValueError: the folder holds neither, an incomplete dataset, a model without weights or card, or an adapter whose base
            others cannot load.
    """
    if made_from(folder).get("command") in ("data prepare", "masks"):
        return "dataset"
    if adapter := read_json(folder / ADAPTER_FILE):
        check_adapter_base(adapter["base_model_name_or_path"])
    if (folder / "config.json").is_file() or adapter:
        suffixes = {path.suffix for path in folder.iterdir() if path.stem != "training_args"}
        if not suffixes & {".safetensors", ".bin"}:
            raise ValueError(f"`{folder}` holds no weights (`model.safetensors` or `adapter_model.safetensors`).")
        if not (folder / RUN_FILE).is_file() and not (folder / CARD_FILE).is_file():
            raise ValueError(
                f"`{folder}` has no model card, and no `{RUN_FILE}` to make one from: describe the model in a `{CARD_FILE}`."
            )
        return "model"
    raise ValueError(
        f"`{folder}` holds no model (`config.json`), no adapter (`adapter_config.json`), and no prepared images."
    )


def push(options: PushOptions) -> str:
    """Upload a folder, see [`publish_folder`], and return the commit's URL."""
    return publish_folder(**vars(options)).commit_url


def publish_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Push a model, an adapter or prepared images, see [`push_folder`]. Cards of models with run metadata are
    rewritten for the name on the Hub.

    Args:
        commit_message: `Upload model` or `Upload dataset` by default.

    Raises:
        ValueError, OSError: as [`repo_type_of`] and [`push_folder`].
    """
    repo_type, run = repo_type_of(folder), read_json(folder / RUN_FILE)
    if run is not None:
        repo_id = create_repo(repo_id, private=private)
        names = {"hub_model_id": repo_id, "model_name": repo_id.split("/")[-1], "revision": revision}
        write_json(folder / RUN_FILE, run | names)
        write_card(folder)
    message = commit_message or f"Upload {repo_type}"
    return push_folder(
        folder, repo_id, repo_type=repo_type, commit_message=message, private=private, revision=revision
    )
