"""The Hub on loopback against the real client: what it keeps, refuses and survives."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

from ..helpers.commands import files_below


NAME, WEIGHTS, PICTURE = "user/model", bytes(range(256)) * 40, b"\x89\0" * 300  # a picture is in LFS for its content
RESULT = "{task: {type: t}, dataset: {type: d, name: D}, metrics: [{type: m, value: 0}]}"
CARD = f"---\nlicense: mit\nbase_model: a/b\ntags: [x]\nmodel-index: [{{name: model, results: [{RESULT}]}}]\n---\n"
FILES = {"README.md": CARD.encode(), "a b/é.txt": b"text", "model.safetensors": WEIGHTS, "picture.png": PICTURE}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "model" / "a b").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


def put(content: bytes, revision: str | None = None, repo_id: str = NAME, token: str | None = None) -> str:
    file = {"path_or_fileobj": content, "path_in_repo": "config.json"}
    return HfApi(token=token).upload_file(**file, repo_id=repo_id, revision=revision).oid


def read(cache: Path, revision: str | None = None, name: str = NAME, **options) -> bytes:
    return Path(hf_hub_download(name, "config.json", revision=revision, cache_dir=cache, **options)).read_bytes()


def test_upload_and_download(hub, folder, tmp_path):
    """Large files go through LFS, once each; the same again makes no commit."""
    api = HfApi()
    assert api.create_repo("model").repo_id == api.create_repo(NAME, exist_ok=True).repo_id == NAME
    shas = {api.upload_folder(repo_id=NAME, folder_path=folder, commit_message="Upload").oid for _ in range(2)}
    assert shas == {api.model_info(NAME).sha} and hub.log("models", NAME) == ["Upload", "initial commit"]
    assert sorted(hub.uploads) == sorted(hashlib.sha256(content).hexdigest() for content in (WEIGHTS, PICTURE))
    found = files_below(Path(snapshot_download(NAME, cache_dir=tmp_path / "cache")))
    assert set(api.list_repo_files(NAME)) == found.keys() and found.pop(".gitattributes") and found == FILES


def test_rights(hub, tmp_path, monkeypatch):
    api = HfApi()
    api.create_repo(NAME, private=True)
    put(b"secret")
    hub.repos |= {("models", f"other/{name}"): {"config.json": b"{}"} for name in ("model", "gated")}
    hub.gated.add("other/gated")
    assert api.model_info(NAME, token="hf_read").private and read(tmp_path, name="other/model", token=False) == b"{}"
    for token, name, status in (("hf_read", NAME, 403), (None, "other/model", 403), ("hf_unknown", NAME, 401)):
        with pytest.raises(errors.HfHubHTTPError, match=str(status)):
            put(b"", repo_id=name, token=token)
        with pytest.raises(errors.HfHubHTTPError, match=str(status)):
            api.create_repo(f"{name}-2", token=token)
    for name, token, status in ((NAME, "hf_expired", 401), (NAME, False, 401), ("user/none", None, 404)):
        with pytest.raises(errors.RepositoryNotFoundError, match=str(status)):
            api.model_info(name, token=token)
    with pytest.raises(errors.GatedRepoError):
        read(tmp_path, name="other/gated", token=False)
    monkeypatch.setenv("HF_TOKEN", "hf_read")  # which the client reads at each call
    assert read(tmp_path) == b"secret" and api.whoami()["auth"]["accessToken"]["role"] == "read"
    assert len(hub.repos) == 3 and hub.log("models", "other/model") == ["Set by the test"]
