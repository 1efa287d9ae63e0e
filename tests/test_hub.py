"""The loopback Hub against the real client, which takes it for the Hub: what it keeps, refuses, and survives."""

import hashlib
import json
import socket
import time
from pathlib import Path
from threading import Semaphore

import pytest

from .hub import LoopbackHub
from .hub_client import run, start, write


WEIGHTS = bytes(range(256)) * 40
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-classification
base_model: google/vit-base-patch16-224
datasets: [user/masked]
tags: [robustness]
model-index: [{name: model, results: [{task: {type: t}, dataset: {type: d, name: D}, metrics: [{type: m, value: 0}]}]}]
---
"""


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        yield hub


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_upload_and_download(hub, tmp_path):
    files = {"README.md": CARD.encode(), "config.json": b"{}", "model.safetensors": WEIGHTS, "a/b c/é.txt": b"text"}
    write(tmp_path / "model", files)
    write(tmp_path / "large", {"notes.txt": b"text", "picture.raw": b"\0" + WEIGHTS})
    result = run(
        hub,
        tmp_path,
        """
result["created"] = api.create_repo("model").repo_id
result["again"] = api.create_repo("user/model", exist_ok=True).repo_id
result["taken"] = refused(api.create_repo, "user/model")
pushed = api.upload_folder(repo_id="user/model", folder_path=folder / "model", commit_message="Upload")
unchanged = api.upload_folder(repo_id="user/model", folder_path=folder / "model")
result["shas"] = [pushed.oid, unchanged.oid]
result["snapshot"] = snapshot_download("user/model")
info = api.model_info("user/model", files_metadata=True)
result["info"] = [info.id, info.sha, info.private, info.gated, info.pipeline_tag, info.library_name, info.tags]
result["card"] = info.card_data.to_dict()
result["siblings"] = {s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings}
result["tree"] = {f.path: getattr(f, "lfs", None) for f in api.list_repo_tree("user/model", recursive=True)}
result["top"] = sorted(f.path for f in api.list_repo_tree("user/model"))
result["inside"] = [f.path for f in api.list_repo_tree("user/model", "a/b c")]
for name in ("model.safetensors", "config.json"):
    url = huggingface_hub.hf_hub_url("user/model", name)
    found = huggingface_hub.get_hf_file_metadata(url)
    result[name] = [found.etag, found.commit_hash, found.size]
result["absent"] = refused(hf_hub_download, "user/model", "absent.json")
result["no_repo"] = refused(hf_hub_download, "user/none", "config.json")
api.upload_folder(repo_id="user/model", folder_path=folder / "large", path_in_repo="large")
api.delete_folder("large", "user/model")
api.delete_file("config.json", "user/model")
result["no_file"] = refused(api.delete_file, "config.json", "user/model")
result["left"] = api.list_repo_files("user/model")
""",
    )
    head = result["shas"][0]
    assert result["created"] == result["again"] == "user/model" and result["taken"][:2] == ["HfHubHTTPError", 409]
    assert result["shas"] == [head, head]  # what has not changed makes no commit
    snapshot = Path(result["snapshot"])
    assert snapshot.name == head
    present = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert {name: present[name] for name in files} == files and set(present) - set(files) == {".gitattributes"}

    tags = ["robustness", "transformers", "image-classification", "license:apache-2.0", "dataset:user/masked"]
    tags.append("base_model:google/vit-base-patch16-224")
    assert result["info"] == ["user/model", head, False, False, "image-classification", "transformers", tags]
    assert result["card"]["model-index"][0]["results"][0]["metrics"] == [{"type": "m", "value": 0}]
    size, blob, lfs = result["siblings"]["model.safetensors"]
    assert (size, lfs) == (len(WEIGHTS), sha256(WEIGHTS)) and len(blob) == 40
    assert result["siblings"]["config.json"] == [
        2,
        "9e26dfeeb6e641a33dae4961196235bdb965b21b",
        None,
    ]  # git hash-object
    assert result["tree"]["model.safetensors"]["sha256"] == sha256(WEIGHTS) and "a/b c" in result["tree"]
    assert result["top"] == [".gitattributes", "README.md", "a", "config.json", "model.safetensors"]
    assert result["inside"] == ["a/b c/é.txt"]
    assert result["model.safetensors"] == [sha256(WEIGHTS), head, len(WEIGHTS)]
    assert result["config.json"] == ["9e26dfeeb6e641a33dae4961196235bdb965b21b", head, 2]
    assert result["absent"][:2] == ["RemoteEntryNotFoundError", 404]
    assert result["no_repo"][:2] == ["RepositoryNotFoundError", 404]
    assert result["no_file"][:2] == ["RemoteEntryNotFoundError", 404]
    assert result["left"] == [".gitattributes", "README.md", "a/b c/é.txt", "model.safetensors"]
    assert set(hub.repos["models", "user/model"]) == set(result["left"])
    # Once each, and what is not text is in LFS whatever its name.
    assert sorted(hub.uploads) == sorted([sha256(WEIGHTS), sha256(b"\0" + WEIGHTS)])


def test_revisions(hub, tmp_path):
    hub.repos["models", "user/model"] = {"config.json": b"first"}
    ((first, message),) = hub.log("models", "user/model")
    assert message == "Set by the test"
    hub.repos["models", "user/model"]["config.json"] = b"second"
    second = hub.log("models", "user/model")[0][0]
    assert second != first and hub.log("models", "user/model")[1][0] == first
    result = run(
        hub,
        tmp_path,
        f"""
first, second = "{first}", "{second}"
def read(revision):
    return Path(hf_hub_download("user/model", "config.json", revision=revision)).read_text()
def put(content, message, revision=None, **options):
    return api.upload_file(path_or_fileobj=content, path_in_repo="config.json", repo_id="user/model",
                           commit_message=message, revision=revision, **options).oid
result["seeded"] = [read("main"), read(first), api.model_info("user/model", revision=first).sha]
api.create_branch("user/model", branch="new/one", revision=first)
result["taken"] = refused(api.create_branch, "user/model", branch="new/one")
api.create_branch("user/model", branch="new/one", exist_ok=True)
result["branched"] = read("new/one")
third = put(b"third", "Third", "new/one", commit_description="Why")
fourth = put(b"fourth", "Fourth", parent_commit=second[:8])
fifth = put(b"second", "Set by the test")  # as the second was, and yet another commit
result["shas"] = [third, fourth, fifth]
result["stale"] = refused(put, b"lost", "Lost", parent_commit=second)
result["read"] = [read(revision) for revision in ("main", "new/one", first, second, third, fourth, fifth)]
result["trees"] = [f.size for f in api.list_repo_tree("user/model", revision=third)]
result["log"] = [[c.commit_id, c.title, c.message, c.authors] for c in api.list_repo_commits("user/model")]
result["branch log"] = [c.commit_id for c in api.list_repo_commits("user/model", revision="new/one")]
api.create_tag("user/model", tag="v1", revision="new/one")
refs = api.list_repo_refs("user/model")
result["refs"] = [[ref.ref, ref.target_commit] for ref in refs.branches + refs.tags]
result["tag"] = read("v1")
result["snapshot"] = sorted(p.name for p in Path(snapshot_download("user/model", revision="v1")).iterdir())
api.delete_branch("user/model", branch="new/one")
result["unknown"] = [refused(read, "new/one"), refused(put, b"", "No", "new/one"),
                     refused(api.model_info, "user/model", revision="0" * 40),
                     refused(api.list_repo_commits, "user/model", revision="none"),
                     refused(api.create_branch, "user/model", branch="other", revision="none")]
""",
    )
    third, fourth, fifth = result["shas"]
    assert result["seeded"] == ["second", "first", first] and result["branched"] == "first"
    assert result["taken"][:2] == ["HfHubHTTPError", 409]
    assert result["stale"][:2] == ["HfHubHTTPError", 412] and "A commit has happened since" in result["stale"][2]
    assert len({first, second, third, fourth, fifth}) == 5
    assert result["read"] == ["second", "third", "first", "second", "third", "fourth", "second"] and result[
        "trees"
    ] == [5]
    assert result["log"] == [
        [fifth, "Set by the test", "", ["user"]],
        [fourth, "Fourth", "", ["user"]],
        [second, "Set by the test", "", ["test"]],
        [first, "Set by the test", "", ["test"]],
    ]
    assert hub.log("models", "user/model") == [(sha, title) for sha, title, _, _ in result["log"]]
    assert result["branch log"] == [third, first] and hub.log("models", "user/model", third)[0] == (
        third,
        "Third\n\nWhy",
    )
    assert result["refs"] == [["refs/heads/main", fifth], ["refs/heads/new/one", third], ["refs/tags/v1", third]]
    assert result["tag"] == "third" and result["snapshot"] == ["config.json"]
    assert [kind for kind, _, _ in result["unknown"]] == ["RevisionNotFoundError"] * 5
    assert hub.files("models", "user/model", first) == {"config.json": b"first"}


def test_rights(hub, tmp_path):
    hub.repos["models", "other/model"] = {"config.json": b"{}"}
    result = run(
        hub,
        tmp_path,
        """
api.create_repo("user/secret", private=True)
def put(token, repo_id="user/secret", name="config.json"):
    api.upload_file(path_or_fileobj=b"content", path_in_repo=name, repo_id=repo_id, token=token)
def see(token):
    return api.model_info("user/secret", token=token).private
put(None)
result["seen"] = [see("hf_test"), see("hf_read"), Path(hf_hub_download("user/secret", "config.json")).read_text()]
result["whoami"] = [[who["name"], who["auth"]["accessToken"]["role"]] for who in map(api.whoami, ("hf_test", "hf_read"))]
result["hidden"] = [refused(see, "hf_other"), refused(put, "hf_other"), refused(see, False), refused(put, False),
                    refused(hf_hub_download, "user/secret", "absent.json", token=False)]
result["missing"] = [refused(api.model_info, "user/none", token=token) for token in ("hf_test", False)]
result["forbidden"] = [refused(put, "hf_read"), refused(put, None, "other/model"),
                       refused(put, None, "other/model", "weights.bin"),
                       refused(api.create_repo, "user/new", token="hf_read"), refused(api.create_repo, "other/new"),
                       refused(api.auth_check, "user/secret", token="hf_read", write=True),
                       refused(api.delete_repo, "other/model"),
                       refused(api.update_repo_settings, "other/model", private=True)]
result["anonymous"] = [refused(put, False, "other/model"), refused(api.create_repo, "user/new", token=False)]
result["expired"] = [refused(see, "hf_expired"), refused(put, "hf_expired"), refused(api.whoami, "hf_expired"),
                     refused(api.create_repo, "user/new", token="hf_expired")]
result["unknown"] = [refused(see, "hf_unknown"), refused(api.model_info, "other/model", token="hf_unknown")]
api.auth_check("user/secret", write=True)
api.update_repo_settings("user/secret", private=False)
result["shown"] = see(False)
api.update_repo_settings("user/secret", private=True, gated="auto")
result["gated"] = api.model_info("user/secret").gated
api.delete_repo("user/secret")
result["deleted"] = refused(see, None)
api.delete_repo("user/secret", missing_ok=True)
api.create_repo("user/secret", repo_type="dataset")
result["dataset"] = api.dataset_info("user/secret").private
""",
    )
    assert result["seen"] == [True, True, "content"]
    assert result["whoami"] == [["user", "write"], ["user", "read"]]
    assert [error[:2] for error in result["hidden"] + result["missing"]] == [
        ["RepositoryNotFoundError", status] for status in (404, 404, 401, 401, 401, 404, 401)
    ]
    messages = [
        "403 Forbidden: you must use a write token to upload to a repository.",
        "403 Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request.",
        "403 Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request.",
        'You don\'t have the rights to create a model under the namespace "user"',
        'You don\'t have the rights to create a model under the namespace "other"',
    ]
    assert [error[:2] for error in result["forbidden"]] == [["HfHubHTTPError", 403]] * 8
    assert all(message in error[2] for message, error in zip(messages, result["forbidden"], strict=False))
    assert [error[:2] for error in result["anonymous"]] == [["RepositoryNotFoundError", 401], ["HfHubHTTPError", 401]]
    names = ["RepositoryNotFoundError", "RepositoryNotFoundError", "HfHubHTTPError", "HfHubHTTPError"]
    assert [error[:2] for error in result["expired"]] == [[name, 401] for name in names]
    assert 'User Access Token "test" is expired' in result["expired"][1][2]
    assert result["expired"][2][2].startswith("Invalid user token.")
    for error in result["unknown"]:
        assert error[:2] == ["HfHubHTTPError", 401] and "Invalid credentials in Authorization header" in error[2]
    assert result["shown"] is False and result["gated"] == "auto" and result["dataset"] is False
    assert result["deleted"][:2] == ["RepositoryNotFoundError", 404]
    assert hub.repos["models", "other/model"] == {"config.json": b"{}"} and not hub.blobs
    assert set(hub.repos) == {("models", "other/model"), ("datasets", "user/secret")}


def test_faults(hub, tmp_path):
    old = {"config.json": b"old", "gone.txt": b"old"}
    hub.repos["models", "user/model"] = dict(old)
    before = hub.log("models", "user/model")
    hub.fail_commits = hub.drop_commits = hub.fail_uploads = 1
    hub.upload_failure = 403
    push = """
from huggingface_hub import CommitOperationDelete
def push():
    operations = [CommitOperationAdd("config.json", b"new" * 100000), CommitOperationDelete("gone.txt"),
                  CommitOperationAdd("weights.bin", b"weights")]
    return api.create_commit("user/model", operations, commit_message="Upload").oid
"""
    refused = run(hub, tmp_path, push + 'result["errors"] = [refused(push) for _ in range(3)]')["errors"]
    assert refused[0][0] == "RuntimeError" and "Error while uploading 'weights.bin'" in refused[0][2]  # the upload
    assert refused[1][0] in ("RemoteProtocolError", "ReadError", "WriteError")  # the connection
    assert refused[2][:2] == ["HfHubHTTPError", 500]  # the commit
    assert hub.repos["models", "user/model"] == old and hub.log("models", "user/model") == before
    # An operation that cannot be done takes back those before it; a fault at 500 is one that the client gets over.
    hub.fail_uploads, hub.upload_failure = 1, 500
    result = run(
        hub,
        tmp_path,
        push
        + """
operations = [CommitOperationDelete("config.json"), CommitOperationDelete("absent.txt")]
result["error"] = refused(api.create_commit, "user/model", operations, commit_message="Delete")
result["between"] = api.list_repo_files("user/model")
api.upload_file(path_or_fileobj=b"other", path_in_repo="other.bin", repo_id="user/model")
result["sha"] = push()
""",
    )
    assert result["error"][:2] == ["RemoteEntryNotFoundError", 404] and result["between"] == [
        "config.json",
        "gone.txt",
    ]
    assert result["sha"] == hub.log("models", "user/model")[0][0]
    new = {"config.json": b"new" * 100000, "weights.bin": b"weights", "other.bin": b"other"}
    assert hub.repos["models", "user/model"] == new
    assert hub.uploads == [sha256(b"weights"), sha256(b"other")]


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_client_killed_during_an_upload(hub, tmp_path):
    """One of two uploads has arrived when the client is killed: the second run uploads the other alone."""
    files = {"config.json": b"{}", "a.safetensors": b"a" * 3_000_000, "b.safetensors": b"b" * 3_000_000}
    write(tmp_path / "model", files)
    hub.repos["models", "user/model"] = {"config.json": b"old"}
    before = hub.log("models", "user/model")
    push = 'api.upload_folder(repo_id="user/model", folder_path=folder / "model", commit_message="Upload")'
    hub.stall_uploads = Semaphore(1)
    process = start(hub, tmp_path, push, "home")
    try:
        assert hub.uploading.wait(60)
        wait_for(lambda: len(hub.uploads) == 1 and [method for method, _ in hub.requests].count("PUT") == 2)
    finally:
        process.kill()
        process.communicate()
    hub.stall_uploads.release()  # the client of the other is gone, and the server must not keep what it sent
    hub.stall_uploads = None
    assert hub.repos["models", "user/model"] == {"config.json": b"old"} and hub.log("models", "user/model") == before
    hub.requests.clear()
    run(hub, tmp_path, push)
    assert [method for method, _ in hub.requests].count("PUT") == 1
    assert sorted(hub.uploads) == sorted(sha256(files[name]) for name in ("a.safetensors", "b.safetensors"))
    assert hub.repos["models", "user/model"] == files
    assert [message for _, message in hub.log("models", "user/model")] == ["Upload", "Set by the test"]


def test_client_killed_during_a_commit(hub):
    """Whole lines have arrived when it is cut off, which are none of a commit for it."""
    hub.repos["models", "user/model"] = {"config.json": b"old"}
    lines = [
        {"key": "header", "value": {"summary": "Delete"}},
        {"key": "deletedFile", "value": {"path": "config.json"}},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    request = "POST /api/models/user/model/commit/main HTTP/1.1\r\nAuthorization: Bearer hf_test\r\nContent-Length: "
    for more, status in ((1, b""), (0, b"HTTP/1.1 200 OK")):
        with socket.create_connection(("127.0.0.1", hub.server.server_port), timeout=60) as connection:
            connection.sendall(f"{request}{len(body) + more}\r\n\r\n{body}".encode())
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(len(status) or 1) == status
        assert hub.repos["models", "user/model"] == ({"config.json": b"old"} if more else {})


def test_datasets(hub, tmp_path):
    """Pushed twice, by a fresh process loaded by id at both revisions, and all of it seen in the record of requests."""
    prelude = "import json, sys, datasets; result = {}\n"
    push = """
for revision, count in ((None, 3), ("small", 1)):
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"][:count]})
    result[str(revision)] = rows.push_to_hub("user/rows", private=True, revision=revision).oid
"""
    load = """
for revision in ("main", "small"):
    result[revision] = datasets.load_dataset("user/rows", split="train", revision=revision)["text"][:]
"""
    shas = run(hub, tmp_path, push, "pushing", prelude)
    assert hub.log("datasets", "user/rows")[0] == (shas["None"], "Upload dataset")
    assert hub.log("datasets", "user/rows", "small")[0][0] == shas["small"] != shas["None"]
    assert hub.private == {("datasets", "user/rows")}
    hub.requests.clear()
    assert run(hub, tmp_path, load, "loading", prelude) == {"main": ["a", "b", "c"], "small": ["a"]}
    assert {method for method, _ in hub.requests} <= {"GET", "HEAD", "POST"}
    shards = [path for method, path in hub.requests if method == "GET" and path.endswith(".parquet")]
    assert len(shards) == 2 and all("/datasets/user/rows/resolve/" in path for path in shards)
    assert [method for method, path in hub.requests if "/commit/" in path or "/preupload/" in path] == []
