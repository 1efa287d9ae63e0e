"""A Hub on loopback for tests: the HTTP protocol of huggingface_hub over folders of files in memory."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit


class LoopbackHub:
    """Serves `repos`, a dict of `("models" or "datasets", "owner/name")` to a dict of file names to bytes.

    Commits of clients are applied to it. Use as a context manager; `url` is the endpoint.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}  # of LFS, by SHA-256
        self.gated: set[str] = set()  # repositories that want a token

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def environment(self) -> dict[str, str]:
        """Variables with which a subprocess talks to this Hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        for pattern, method in self.routes:
            if match := re.fullmatch(pattern, path):
                return method(self, body, **match.groupdict())
        return self.answer({"error": f"no route for {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def files(self, kind, repo) -> dict[str, bytes] | None:
        files = self.hub.repos.get((kind, repo))
        if files is None:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif repo in self.hub.gated and "Authorization" not in self.headers:
            message = f"Access to dataset {repo} is restricted. You must be authenticated to access it."
            self.answer({"error": message}, 401, X_Error_Code="GatedRepo", X_Error_Message=message)
            return None
        return files

    @staticmethod
    def sha(files) -> str:
        digest = hashlib.sha1()
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        return digest.hexdigest()

    @staticmethod
    def entry(name, content) -> dict:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def whoami(self, body):
        self.answer({"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self, body):
        request = json.loads(body)
        kind = f"{request.get('type') or 'model'}s"
        repo = f"{request.get('organization') or 'user'}/{request['name']}"
        exists = (kind, repo) in self.hub.repos
        self.hub.repos.setdefault((kind, repo), {".gitattributes": b"*.safetensors filter=lfs"})
        prefix = "datasets/" if kind == "datasets" else ""
        self.answer({"url": f"{self.hub.url}/{prefix}{repo}", "id": repo}, 409 if exists else 200)

    def validate_yaml(self, body):
        self.answer({"errors": [], "warnings": []})

    def info(self, body, kind, repo):
        if (files := self.files(kind, repo)) is not None:
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": repo, "sha": self.sha(files), "siblings": siblings, "private": False, "tags": []})

    def entries(self, files) -> dict[str, dict]:
        """Files and folders by path, as the Hub describes them."""
        entries = {name: self.entry(name, content) for name, content in files.items()}
        for name in files:
            for parent in list(PurePosixPath(name).parents)[:-1]:
                folder = str(parent)
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": self.sha({folder: b""})}
        return entries

    def tree(self, body, kind, repo, folder=""):
        if (files := self.files(kind, repo)) is not None:
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["False"])[0].lower() in ("true", "1")
            inside = [
                entry
                for name, entry in sorted(self.entries(files).items())
                if (name.startswith(f"{folder}/") if folder else True)
                and (recursive or "/" not in name.removeprefix(f"{folder}/"))
            ]
            if folder and not inside:
                return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            self.answer(inside)

    def paths_info(self, body, kind, repo):
        if (files := self.files(kind, repo)) is not None:
            text = body.decode()
            wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
            self.answer([entry for name, entry in self.entries(files).items() if name in wanted])

    def resolve(self, body, repo, name, kind=None):
        if (files := self.files("datasets" if kind else "models", repo)) is not None:
            commit = {"X_Repo_Commit": self.sha(files)}
            if name not in files:
                return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", **commit)
            content = files[name]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
                where = f"bytes {start}-{end}/{len(content)}"
                return self.answer(content[start : end + 1], 206, ETag=etag, Content_Range=where, **commit)
            self.answer(content, ETag=etag, Accept_Ranges="bytes", **commit)

    def preupload(self, body, kind, repo):
        files = json.loads(body)["files"]
        modes = {True: "lfs", False: "regular"}
        self.answer(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": modes[file["path"].endswith((".safetensors", ".png", ".parquet", ".bin"))],
                        "shouldIgnore": False,
                    }
                    for file in files
                ]
            }
        )

    def lfs_batch(self, body, repo, kind=None):
        objects = [
            entry | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}}
            for entry in json.loads(body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def lfs_upload(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer({"error": "wrong digest"}, 400)
        self.hub.blobs[oid] = body
        self.answer()

    def commit(self, body, kind, repo):
        if (files := self.files(kind, repo)) is not None:
            for line in body.splitlines():
                operation = json.loads(line)
                value = operation["value"]
                if operation["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                elif operation["key"] == "deletedFile":
                    del files[value["path"]]
            oid = self.sha(files)
            url = f"{self.hub.url}/{repo}/commit/{oid}"
            self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    _repo = r"(?P<repo>[^/]+/[^/]+)"
    _api = rf"/api/(?P<kind>models|datasets)/{_repo}"
    routes = (
        (r"/api/whoami-v2", whoami),
        (r"/api/repos/create", create),
        (r"/api/validate-yaml", validate_yaml),
        (rf"{_api}(/revision/[^/]+)?", info),
        (rf"{_api}/tree/[^/]+(/(?P<folder>.+))?", tree),
        (rf"{_api}/paths-info/[^/]+", paths_info),
        (rf"{_api}/preupload/[^/]+", preupload),
        (rf"{_api}/commit/[^/]+", commit),
        (rf"/((?P<kind>datasets)/)?{_repo}/resolve/[^/]+/(?P<name>.+)", resolve),
        (rf"/((?P<kind>datasets)/)?{_repo}\.git/info/lfs/objects/batch", lfs_batch),
        (r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_upload),
    )
