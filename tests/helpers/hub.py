"""A Hub on loopback, as far as pushing and loading need it: repositories in memory, tokens, and faults to order.

It speaks the protocol that `huggingface_hub` 2 speaks, over real sockets. `test_hub.py` holds it against the real client.
"""

import base64
import hashlib
import json
import re
import socket
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import RLock, Semaphore, Thread
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".tar", ".gz")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
# User and role of each token.
TOKENS = {"hf_test": ("user", "write"), "hf_read": ("user", "read"), "hf_expired": ("user", "expired")}


class Refusal(Exception):
    """An error of the Hub: a status, a message, and the code that `huggingface_hub` makes a class of error of."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


class Hub:
    """Serves `repos`, a dict of `("models" or "datasets", "owner/name")` to a dict of file names to bytes: what is in `main`.
    Commits of clients are applied to it, and what a test changes in it is a commit too."""

    def __init__(self):
        self.reset()
        self._lock = RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def reset(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str, str], list[Commit]] = {}  # of a repository: commits, the newest last
        self.private: set[tuple[str, str]] = set()
        self.blobs: dict[str, bytes] = {}  # of LFS, by SHA-256
        self.begun: list[str] = []  # SHA-256 of each LFS upload whose content arrived
        self.uploads: list[str] = []  # and of each that was kept
        self.fail_commits = self.drop_commits = 0  # the next so many are answered with 500, or cut off halfway
        self.stall_uploads: Semaphore | None = None  # each LFS upload waits for one of its permits before it is kept

    def add(self, kind: str, name: str, folder: Path) -> None:
        """Put the files of a folder into a repository."""
        self.repos[kind, name] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def environment(self) -> dict[str, str]:
        """Variables with which a subprocess talks to this Hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}

    def log(self, kind: str, name: str, branch: str = "main") -> list[str]:
        """Messages of the commits, the newest first."""
        return [commit.message for commit in reversed(self.history(kind, name, branch))]

    def history(self, kind: str, name: str, branch: str = "main") -> list[Commit]:
        """Commits of a branch, the newest last; `main` is brought up to what tests have done to `repos`."""
        with self._lock:
            commits = self.branches.get((kind, name, branch), [])
            files = self.repos.get((kind, name))
            if branch == "main" and files is not None and (not commits or commits[-1].files != files):
                self.commit(kind, name, "main", dict(files), "Set by the test")
                self.blobs |= {hashlib.sha256(c).hexdigest(): c for p, c in files.items() if is_lfs(p, c)}
            return self.branches.get((kind, name, branch), [])

    def commit(self, kind: str, name: str, branch: str, files: dict[str, bytes], message: str) -> Commit:
        content = [(path, git_oid(files[path])) for path in sorted(files)]
        with self._lock:
            commits = self.branches.setdefault((kind, name, branch), [])
            sha = hashlib.sha1(repr((kind, name, branch, len(commits), message, content)).encode()).hexdigest()
            commits.append(Commit(sha, message, files))
            if branch == "main":
                self.repos[kind, name] = dict(files)
            return commits[-1]

    def at(self, kind: str, name: str, revision: str) -> Commit:
        """The commit of a branch or a sha."""
        if commits := self.history(kind, name, revision):
            return commits[-1]
        with self._lock:
            known = [commit for key, commits in self.branches.items() if key[:2] == (kind, name) for commit in commits]
        for commit in known:
            if commit.sha == revision:
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def due(self, fault: str) -> bool:
        """Whether one of the ordered faults is due, which is then spent."""
        with self._lock:
            left = getattr(self, fault)
            setattr(self, fault, max(left - 1, 0))
            return left > 0


def is_lfs(path: str, sample: bytes) -> bool:
    """Whether the Hub keeps a file in LFS: for its suffix, or because its first bytes are no text."""
    return bool(sample) and (path.endswith(LFS_SUFFIXES) or b"\0" in sample[:512])


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def described(path: str, content: bytes) -> dict:
    """A file as the Hub describes it."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if is_lfs(path, content):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def content_oid(path: str, content: bytes) -> str:
    entry = described(path, content)
    return entry.get("lfs", entry)["oid"]


def card_errors(card: str) -> list[str]:
    """What the Hub refuses in the metadata of a card."""
    block = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    data = yaml.safe_load(block[1]) if block else {}
    errors = []
    for key in ("tags", "metrics"):
        if not isinstance(data.get(key, []), list) or not all(isinstance(item, str) for item in data.get(key, [])):
            errors.append(f'"{key}" must be an array of strings')
    for key in ("base_model", "datasets"):
        values = data.get(key, [])
        for value in [values] if isinstance(values, str) else values:
            if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", value, re.ASCII):
                errors.append(f'"{key}" with value "{value}" is not valid')
    if data.get("license", "mit") not in ("apache-2.0", "mit", "cc-by-4.0", "ofl-1.1", "unknown", "other"):
        errors.append('"license" must be one of the known ones')
    for model in data.get("model-index", []):
        for result in model["results"]:
            for key, fields in (("task", ["type"]), ("dataset", ["type", "name"])):
                errors += [f'"{key}.{name}" is required' for name in fields if not result.get(key, {}).get(name)]
            errors += ['"metrics.value" is required' for metric in result["metrics"] if metric.get("value") is None]
    return errors


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value.encode("ascii", "replace").decode())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self):
        path, length = urlsplit(self.path).path, int(self.headers.get("Content-Length", 0))
        self.query = parse_qs(urlsplit(self.path).query)
        if "/commit/" in path and self.hub.due("drop_commits"):
            self.rfile.read(length // 2)
            self.close_connection = True
            return None
        body = self.rfile.read(length)
        if len(body) < length:  # the client was killed
            self.close_connection = True
            return None
        try:
            self.user, self.role = self.authenticate()
            for method, pattern, route in self.routes:
                match = re.fullmatch(pattern, path)
                if match and method == self.command.replace("HEAD", "GET"):
                    return route(
                        self, body, **{name: value and unquote(value) for name, value in match.groupdict().items()}
                    )
            raise Refusal(404, f"No such page: {self.command} {path}")
        except Refusal as refusal:
            code = {"X_Error_Code": refusal.code} if refusal.code else {}
            self.answer({"error": str(refusal)}, refusal.status, X_Error_Message=str(refusal), **code)
        except ConnectionError:  # the client was killed
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def authenticate(self) -> tuple[str | None, str | None]:
        if "Authorization" not in self.headers:
            return None, None
        user, role = TOKENS.get(self.headers["Authorization"].removeprefix("Bearer "), (None, None))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if role == "expired":  # under https the client itself makes this code of the address
            of_repo = re.match(r"/api/(models|datasets)/|.*/resolve/", self.path)
            raise Refusal(401, "User Access Token is expired", "RepoNotFound" if of_repo else None)
        return user, role

    def readable(self, kind: str, name: str) -> tuple[str, str]:
        key = (kind or "models", name)
        if key not in self.hub.repos or (key in self.hub.private and self.user != name.split("/")[0]):
            raise Refusal(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        return key

    def writable(self, kind: str, name: str) -> tuple[str, str]:
        key = self.readable(kind, name)
        if self.user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if self.role != "write" or self.user != name.split("/")[0]:
            raise Refusal(403, "you must use a token with write rights for this repository")
        return key

    def whoami(self, body):
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        self.answer({"type": "user", "name": self.user, "orgs": [], "auth": {"accessToken": {"role": self.role}}})

    def create(self, body):
        request = json.loads(body)
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        kind, owner = f"{request.get('type') or 'model'}s", request.get("organization") or self.user
        name = f"{owner}/{request['name']}"
        if self.role != "write" or self.user != owner:
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        answer = {"url": f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}", "name": name, "id": name}
        if (kind, name) in self.hub.repos:
            return self.answer(answer | {"error": "You already created this repo"}, 409)
        self.hub.commit(kind, name, "main", {".gitattributes": GITATTRIBUTES}, "initial commit")
        if request.get("visibility") == "private" or request.get("private"):  # huggingface_hub before 1.16
            self.hub.private.add((kind, name))
        self.answer(answer)

    def info(self, body, kind, repo, revision):
        key = self.readable(kind, repo)
        commit = self.hub.at(*key, revision or "main")
        self.answer(
            {
                "id": repo,
                "author": repo.split("/")[0],
                "sha": commit.sha,
                "private": key in self.hub.private,
                "gated": False,
                "disabled": False,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            }
        )

    def create_branch(self, body, kind, repo, branch):
        key = self.writable(kind, repo)
        if self.hub.history(*key, branch):
            raise Refusal(409, f"Reference already exists: {branch}")
        self.hub.branches[(*key, branch)] = list(self.hub.history(*key))
        self.answer({})

    def tree(self, body, kind, repo, revision, folder):
        files = self.hub.at(*self.readable(kind, repo), revision).files
        inside = f"{folder}/" if folder else ""
        found = [described(path, content) for path, content in sorted(files.items()) if path.startswith(inside)]
        if folder and not found:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        folders = {str(parent) for entry in found for parent in PurePosixPath(entry["path"]).parents} - {"."}
        for path in sorted(folders):
            if path.startswith(inside):
                found.append({"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())})
        if self.query.get("recursive") != ["true"]:
            found = [entry for entry in found if "/" not in entry["path"][len(inside) :]]
        self.answer(found)

    def paths_info(self, body, kind, repo, revision):
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        files = self.hub.at(*self.readable(kind, repo), revision).files
        self.answer([described(path, files[path]) for path in wanted if path in files])

    def resolve(self, body, kind, repo, revision, path):
        commit = self.hub.at(*self.readable(kind, repo), revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        content, headers = commit.files[path], {"X_Repo_Commit": commit.sha, "Accept_Ranges": "bytes"}
        headers["ETag"] = f'"{content_oid(path, content)}"'
        if is_lfs(path, content):
            headers |= {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": str(len(content))}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(content)}"
            return self.answer(content[start : end + 1], 206, **headers)
        self.answer(content, **headers)

    def validate_yaml(self, body):
        errors = card_errors(json.loads(body)["content"])
        self.answer({"errors": [{"message": message} for message in errors], "warnings": []}, 400 if errors else 200)

    def preupload(self, body, kind, repo, revision):
        present = self.hub.at(*self.writable(kind, repo), revision).files
        answers = []
        for file in json.loads(body)["files"]:
            path, known = file["path"], present.get(file["path"])
            mode = "lfs" if is_lfs(path, base64.b64decode(file["sample"])) else "regular"
            oid = None if known is None else content_oid(path, known)
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": answers})

    def lfs_batch(self, body, kind, repo):
        self.writable(kind, repo)
        objects = json.loads(body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
                wanted["actions"] = {"upload": upload, "verify": {"href": f"{upload['href']}/verify"}}
        self.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def lfs_upload(self, body, oid):
        self.hub.begun.append(oid)
        if (permits := self.hub.stall_uploads) is not None:
            permits.acquire()
        try:
            if not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionResetError  # the client was killed: what it sent is not kept
        except BlockingIOError:  # it waits for the answer
            pass
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "The content does not have this SHA-256")
        self.hub.blobs[oid] = body
        self.hub.uploads.append(oid)
        self.answer()

    def lfs_verify(self, body, oid):
        if len(self.hub.blobs.get(oid, b"")) != json.loads(body)["size"]:
            raise Refusal(404, "There is no such upload of this size")
        self.answer({})

    def commit(self, body, kind, repo, revision):
        key = self.writable(kind, repo)
        if self.hub.due("fail_commits"):
            raise Refusal(500, "Internal Error")
        header, *operations = (json.loads(line) for line in body.splitlines())
        files = dict(self.hub.at(*key, revision).files)
        for operation in operations:
            action, value = operation["key"], operation["value"]
            if action == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif action == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refusal(400, f"An LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif files.pop(value["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        commit = self.hub.commit(*key, revision, files, header["value"]["summary"])
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo}/commit/{commit.sha}"
        self.answer({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    def commits(self, body, kind, repo, revision):
        history = self.hub.history(*self.readable(kind, repo), revision)
        facts = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "message": ""}
        self.answer([facts | {"id": one.sha, "title": one.message} for one in reversed(history)])

    _api = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    _page = r"/((?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)"
    _at = r"(?P<revision>[^/]+)"
    routes = (
        ("GET", r"/api/whoami-v2", whoami),
        ("POST", r"/api/repos/create", create),
        ("POST", r"/api/validate-yaml", validate_yaml),
        ("GET", rf"{_api}(/revision/{_at})?", info),
        ("POST", rf"{_api}/branch/(?P<branch>[^/]+)", create_branch),
        ("GET", rf"{_api}/commits/{_at}", commits),
        ("GET", rf"{_api}/tree/{_at}(/(?P<folder>.+))?", tree),
        ("POST", rf"{_api}/paths-info/{_at}", paths_info),
        ("POST", rf"{_api}/preupload/{_at}", preupload),
        ("POST", rf"{_api}/commit/{_at}", commit),
        ("GET", rf"{_page}/resolve/{_at}/(?P<path>.+)", resolve),
        ("POST", rf"{_page}\.git/info/lfs/objects/batch", lfs_batch),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_upload),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", lfs_verify),
    )
