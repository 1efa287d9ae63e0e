"""The Hub on loopback against the real client: what it keeps."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download

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


def test_upload_and_download(hub, folder, tmp_path):
    """Large files go through LFS, once each; the same again makes no commit."""
    api = HfApi()
    assert api.create_repo("model").repo_id == api.create_repo(NAME, exist_ok=True).repo_id == NAME
    shas = {api.upload_folder(repo_id=NAME, folder_path=folder, commit_message="Upload").oid for _ in range(2)}
    assert shas == {api.model_info(NAME).sha} and hub.log("models", NAME) == ["Upload", "initial commit"]
    assert sorted(hub.uploads) == sorted(hashlib.sha256(content).hexdigest() for content in (WEIGHTS, PICTURE))
    found = files_below(Path(snapshot_download(NAME, cache_dir=tmp_path / "cache")))
    assert set(api.list_repo_files(NAME)) == found.keys() and found.pop(".gitattributes") and found == FILES
