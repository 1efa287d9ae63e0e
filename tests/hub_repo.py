"""A repository on the loopback Hub: folders in memory with a history of commits, branches and tags."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath


LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".pt", ".onnx", ".npz", ".zip", ".tar", ".gz")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class Refusal(Exception):
    """What the Hub answers where it does not do what it is asked for: a status, a message, and the code that
    `huggingface_hub` makes a class of error of."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


# -- Files ------------------------------------------------------------------------------------------------------------


def is_lfs(path: str, sample: bytes) -> bool:
    """Whether the Hub keeps a file in LFS: for its suffix, or because its first bytes are no text. No empty one is."""
    return bool(sample) and (path.endswith(LFS_SUFFIXES) or b"\0" in sample[:512])


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict:
    """A file as the Hub describes it: with the id of its blob in git, which is that of a pointer where it is in LFS."""
    if not is_lfs(path, content):
        return {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    oid = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
    lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
    return {"type": "file", "path": path, "size": len(content), "oid": git_oid(pointer), "lfs": lfs}


def content_oid(path: str, content: bytes) -> str:
    """What tells whether a file has changed: SHA-256 in LFS, the id of the blob elsewhere."""
    described = entry(path, content)
    return described.get("lfs", described)["oid"]


def tree(files: dict[str, bytes]) -> dict[str, dict]:
    """Files and folders by path, as the Hub describes them."""
    entries = {path: entry(path, content) for path, content in files.items()}
    for path in files:
        for parent in list(PurePosixPath(path).parents)[:-1]:
            folder = str(parent)
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid}
    return entries


def changed(files: dict[str, bytes], operations: list[dict], blobs: dict[str, bytes]) -> dict[str, bytes]:
    """The files after the operations of a commit.

    Args:
        operations: the lines of the request, each with `key` and `value`.
        blobs: LFS uploads by SHA-256.

    Raises:
        Refusal: for an upload that never arrived, or a deletion of what is not there.
    """
    files = dict(files)
    for operation in operations:
        path = operation["value"]["path"]
        match operation["key"]:
            case "file":
                files[path] = base64.b64decode(operation["value"]["content"])
            case "lfsFile":
                if operation["value"]["oid"] not in blobs:
                    message = "Your push was rejected because an LFS pointer pointed to a file that does not exist."
                    raise Refusal(400, f"{message} Offending file: - {path}")
                files[path] = blobs[operation["value"]["oid"]]
            case "deletedFile" | "deletedFolder" as key:
                inside = path.rstrip("/") + "/"
                doomed = [
                    name for name in files if (name == path if key == "deletedFile" else name.startswith(inside))
                ]
                if not doomed:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
                for name in doomed:
                    del files[name]
            case other:
                raise Refusal(400, f"Unknown operation {other}")
    return files


# -- History ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    description: str
    author: str
    date: str
    files: dict[str, bytes]
    parent: "Commit | None"

    @property
    def message(self) -> str:
        return f"{self.title}\n\n{self.description}" if self.description else self.title

    def history(self) -> Iterator["Commit"]:
        """This commit and those before it, the newest first."""
        commit = self
        while commit is not None:
            yield commit
            commit = commit.parent


class Repo:
    def __init__(self):
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, Commit] = {}
        self.tags: dict[str, Commit] = {}

    def commit(self, branch: str, files: dict[str, bytes], title: str, description: str, author: str) -> Commit:
        parent = self.branches.get(branch)
        # The number of commits makes each sha one of its own, also where a file is set back to what it was.
        content = [(path, git_oid(files[path])) for path in sorted(files)]
        sha = hashlib.sha1(repr((len(self.commits), title, description, content)).encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        commit = Commit(sha, title, description, author, date, files, parent)
        self.commits[sha] = self.branches[branch] = commit
        return commit

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a sha means.

        Raises:
            Refusal: if there is none.
        """
        for known in (self.branches, self.tags, self.commits):
            if revision in known:
                return known[revision]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
