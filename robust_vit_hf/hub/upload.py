"""Uploads to the Hub, with errors that say what to do."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..data.parquet_writer import PARTS_FOLDER, SETTINGS_FILE
from ..models.registry import MODELS
from ..utils.files import write_atomically
from .model_card import CARD_FILE, write_card
from .run_metadata import RUN_FILE


# Of the Trainer's own files: `training_args.bin` and `trainer_state.json` hold paths of the machine that trained.
NOT_UPLOADED = ["_*", ".*", "*.partial", "checkpoint-*", "training_args.bin", "trainer_state.json"]
NOT_UPLOADED += ["emissions.csv"]  # of CodeCarbon, which tells where the machine stands


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """Context in which a refusal of the Hub is raised as an `OSError` that says what is wrong and what to do.

    Raises:
        PermissionError: no token, one that is not valid or has expired, or one without rights.
        OSError: all else that the Hub refuses.
        ConnectionError: it cannot be reached.
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
                f"This token has no right to write to `{repo_id}` ({said}). Take a token with write rights, and a name of your "
                "own or of an organisation that you may write to: `--hub_model_id NAMESPACE/NAME`."
            ) from None
        raise OSError(
            f"The Hub refused `{repo_id}` ({status}: {said}). What it had stays as it was; try again."
        ) from None
    except (httpx2.LocalProtocolError, UnicodeEncodeError):  # their messages quote the header, token and all
        raise PermissionError(
            f"The token for `{repo_id}` has invalid characters, such as a space or a line break. Log in with "
            "`hf auth login`, or set `HF_TOKEN`."
        ) from None
    except httpx2.TransportError as error:
        raise ConnectionError(
            f"The Hub cannot be reached for `{repo_id}` ({type(error).__name__}: {error}). Check the network and "
            "`HF_ENDPOINT`, then push again: what was uploaded is not uploaded twice."
        ) from None


def create_repo(
    repo_id: str, *, repo_type: str = "model", private: bool | None = None, token: str | None = None
) -> str:
    """Create a repository if there is none, and return its id, with the owner.

    Args:
        repo_id, repo_type, private, token: as in [`push_folder`].

    Raises:
        OSError: as [`clear_errors`].
        ValueError: there is a public one, and a private one is asked for.
    """
    api = HfApi(token=token)
    with clear_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True).repo_id
        is_private = not private or api.repo_info(repo_id, repo_type=repo_type).private
    if not is_private:
        raise ValueError(
            f"`{repo_id}` exists and is public, so nothing was uploaded. Make it private on the Hub first, or take another name."
        )
    return repo_id


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
    """Create a repository if there is none, and upload a folder in one commit. Large files that the Hub already has, such as
    those of an upload that was cut off, are not uploaded again.

    Args:
        folder: what to upload, but for [`NOT_UPLOADED`].
        repo_id: `name` or `owner/name`.
        repo_type: `"model"` or `"dataset"`.
        private: whether a new repository is private. One that exists must be, if this is asked for.
        revision: branch, made if it does not exist; `main` by default.
        token: by default the one of `hf auth login` or `HF_TOKEN`.

    Raises:
        OSError: as [`clear_errors`].
        ValueError: an adapter whose base nobody else can load, or a public repository where a private one is asked for.
    """
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        is_id = base is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
        if base not in MODELS and not is_id:
            raise ValueError(
                f"The adapter's base is `{base}`, which nobody else has. Finetune a model from the Hub by its id, or merge the "
                "adapter (`--merge_lora`, `model.merge_and_unload()`)."
            )
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
            ignore_patterns=NOT_UPLOADED,
        )


def repo_type_of(folder: Path) -> str:
    """`"model"` or `"dataset"`, by what a folder holds.

    Raises:
        ValueError: it holds neither, a data set that is not finished, or a model without weights or card.
    """
    if (folder / PARTS_FOLDER).exists():
        raise ValueError(f"`{folder}` is an unfinished data set: run the command that writes it again first.")
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


def publish_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Push a model, an adapter or prepared images. The card of a model that has run metadata is written anew, with the name
    that the model will have.

    Args:
        repo_id, private, revision: as for [`push_folder`].
        commit_message: `Upload model` or `Upload dataset` by default.

    Raises:
        ValueError, OSError: as [`repo_type_of`] and [`push_folder`].
    """
    repo_type = repo_type_of(folder)
    run = folder / RUN_FILE
    if run.is_file():
        repo_id = create_repo(repo_id, private=private)
        described = json.loads(run.read_text(encoding="utf-8")) | {"hub_model_id": repo_id, "revision": revision}
        write_atomically(run, json.dumps(described | {"model_name": repo_id.split("/")[-1]}, indent=2) + "\n")
        write_card(folder)
    return push_folder(
        folder,
        repo_id,
        repo_type=repo_type,
        commit_message=commit_message or f"Upload {repo_type}",
        private=private,
        revision=revision,
    )
