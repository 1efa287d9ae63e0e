"""The HTTP protocol of the Hub, as huggingface_hub speaks it, over the repositories of a `LoopbackHub`."""

import base64
import hashlib
import json
import re
import socket
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from .hub_card import card_data, card_tags, check_card
from .hub_repo import Refusal, Repo, content_oid, entry, is_lfs, tree


if TYPE_CHECKING:
    from .hub import LoopbackHub, Token


class Handler(BaseHTTPRequestHandler):
    hub: "LoopbackHub"
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content, default=str).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value.encode("ascii", "replace").decode())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self):
        path = urlsplit(self.path).path
        self.query = parse_qs(urlsplit(self.path).query)
        self.hub.requests.append((self.command, unquote(path)))
        length = int(self.headers.get("Content-Length", 0))
        if path.startswith("/lfs/"):
            self.hub.uploading.set()
        if "/commit/" in path and self.hub.due("drop_commits"):
            self.rfile.read(length // 2)
            self.close_connection = True
            return None
        body = self.rfile.read(length)
        if len(body) < length:  # The client was killed.
            self.close_connection = True
            return None
        try:
            self.caller = self.authenticate()
            for method, pattern, route in self.routes:
                match = re.fullmatch(pattern, path)
                if match and method == self.command.replace("HEAD", "GET"):
                    groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                    return route(self, body, **groups)
            raise Refusal(404, f"Sorry, we can't find the page you are looking for: {self.command} {path}")
        except Refusal as refusal:
            codes = {"X_Error_Code": refusal.code} if refusal.code else {}
            message = str(refusal)
            self.answer({"error": message}, refusal.status, X_Error_Message=message, **codes, **refusal.headers)
        except ConnectionError:  # The client was killed.
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    # -- Rights --------------------------------------------------------------------------------------------------------

    def authenticate(self) -> "Token | None":
        if "Authorization" not in self.headers:
            return None
        token = self.hub.tokens.get(self.headers["Authorization"].removeprefix("Bearer "))
        if token is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if token.role == "expired":
            raise self.unauthorized(f'User Access Token "{token.name}" is expired')
        return token

    def unauthorized(self, message: str) -> Refusal:
        """Of a 401 with any other message than the one above the client makes that the repository is not found, going by
        its address; that it does under https alone, so that this Hub has to say it."""
        of_repo = re.match(r"/api/(models|datasets)/|.*/resolve/", self.path)
        return Refusal(401, message, "RepoNotFound" if of_repo else None)

    def readable(self, kind: str, name: str) -> Repo:
        repo = self.hub.history(kind, name)
        hidden = (kind, name) in self.hub.private and (self.caller is None or self.caller.user != name.split("/")[0])
        if repo is None or hidden:
            if self.caller is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if name in self.hub.gated and self.caller is None:
            message = (
                f"Access to {kind.removesuffix('s')} {name} is restricted. You must be authenticated to access it."
            )
            raise Refusal(401, message, "GatedRepo")
        return repo

    def writable(self, kind: str, name: str) -> Repo:
        repo = self.readable(kind, name)
        if self.caller is None:
            raise self.unauthorized("Invalid username or password.")
        if self.caller.role != "write":
            raise Refusal(403, "you must use a write token to upload to a repository")
        if self.caller.user != name.split("/")[0]:
            raise Refusal(403, "pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def may_read(self, body, kind, repo):
        self.readable(kind, repo)
        self.answer({})

    def may_write(self, body, kind, repo):
        self.writable(kind, repo)
        self.answer({})

    def whoami(self, body):
        if self.caller is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": self.caller.name, "role": self.caller.role}
        auth = {"type": "access_token", "accessToken": token}
        self.answer({"type": "user", "name": self.caller.user, "orgs": [], "auth": auth})

    # -- Repositories --------------------------------------------------------------------------------------------------

    def named(self, body: bytes) -> tuple[str, str, dict]:
        """Kind and name of the repository of a request to create or delete one, and the request."""
        request = json.loads(body)
        if self.caller is None:
            raise Refusal(401, "Invalid username or password.")
        owner = request.get("organization") or self.caller.user
        return f"{request.get('type') or 'model'}s", f"{owner}/{request['name']}", request

    def create(self, body):
        kind, repo, request = self.named(body)
        owner, what = repo.split("/")[0], kind.removesuffix("s")
        if self.caller.role != "write" or self.caller.user != owner:
            raise Refusal(403, f'You don\'t have the rights to create a {what} under the namespace "{owner}"')
        answer = {"url": f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo}", "name": repo, "id": repo}
        if self.hub.history(kind, repo) is not None:
            return self.answer(answer | {"error": f"You already created this {what} repo"}, 409)
        self.hub.create(kind, repo, request.get("visibility") == "private")
        self.answer(answer)

    def delete(self, body):
        kind, repo, _ = self.named(body)
        self.writable(kind, repo)
        self.hub.delete(kind, repo)
        self.answer({})

    def settings(self, body, kind, repo):
        self.writable(kind, repo)
        request = json.loads(body)
        if "visibility" in request:
            self.hub.show(kind, repo, request["visibility"] == "public")
        if "gated" in request:
            (self.hub.gated.add if request["gated"] else self.hub.gated.discard)(repo)
        self.answer({})

    def info(self, body, kind, repo, revision):
        commit = self.readable(kind, repo).at(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        if "blobs" in self.query:
            for sibling in siblings:
                described = entry(sibling["rfilename"], commit.files[sibling["rfilename"]])
                sibling |= {"size": described["size"], "blobId": described["oid"]}
                if lfs := described.get("lfs"):
                    sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        card = card_data(commit.files.get("README.md", b"").decode())
        answer = {
            "id": repo,
            "author": repo.split("/")[0],
            "sha": commit.sha,
            "lastModified": commit.date,
            "private": (kind, repo) in self.hub.private,
            "gated": "auto" if repo in self.hub.gated else False,
            "disabled": False,
            "tags": card_tags(card),
            "siblings": siblings,
        }
        if card:
            answer["cardData"] = card
        if kind == "models":
            answer |= {key: card[key] for key in ("pipeline_tag", "library_name", "model-index") if key in card}
        self.answer(answer)

    def refs(self, body, kind, repo):
        history = self.readable(kind, repo)
        named = {"branches": ("heads", history.branches), "tags": ("tags", history.tags)}
        refs = {
            key: [{"name": n, "ref": f"refs/{place}/{n}", "targetCommit": c.sha} for n, c in commits.items()]
            for key, (place, commits) in named.items()
        }
        self.answer(refs | {"converts": [], "pullRequests": []})

    def commits(self, body, kind, repo, revision):
        self.answer(
            [
                {
                    "id": commit.sha,
                    "title": commit.title,
                    "message": commit.description,
                    "authors": [{"user": commit.author}],
                    "date": commit.date,
                }
                for commit in self.readable(kind, repo).at(revision).history()
            ]
        )

    def create_branch(self, body, kind, repo, branch):
        history = self.writable(kind, repo)
        start = history.at(json.loads(body or b"{}").get("startingPoint", "main"))
        if branch in history.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        history.branches[branch] = start
        self.answer({})

    def delete_branch(self, body, kind, repo, branch):
        history = self.writable(kind, repo)
        if branch == "main" or branch not in history.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        del history.branches[branch]
        self.answer({})

    def create_tag(self, body, kind, repo, revision):
        history, tag = self.writable(kind, repo), json.loads(body)["tag"]
        commit = history.at(revision)
        if tag in history.tags:
            raise Refusal(409, f"Tag {tag} already exists")
        history.tags[tag] = commit
        self.answer({})

    # -- Files ---------------------------------------------------------------------------------------------------------

    def tree(self, body, kind, repo, revision, folder):
        inside = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["False"])[0].lower() in ("true", "1")
        found = [
            described
            for path, described in sorted(tree(self.readable(kind, repo).at(revision).files).items())
            if path.startswith(inside) and (recursive or "/" not in path.removeprefix(inside))
        ]
        if folder and not found:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        self.answer(found)

    def paths_info(self, body, kind, repo, revision):
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        entries = tree(self.readable(kind, repo).at(revision).files)
        self.answer([described for path, described in entries.items() if path in wanted])

    def resolve(self, body, kind, repo, revision, path):
        commit = self.readable(kind or "models", repo).at(revision)
        headers = {"X_Repo_Commit": commit.sha}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
        content = commit.files[path]
        headers["ETag"] = f'"{content_oid(path, content)}"'
        if is_lfs(path, content):
            headers |= {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": str(len(content))}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            where = f"bytes {start}-{end}/{len(content)}"
            return self.answer(content[start : end + 1], 206, Content_Range=where, **headers)
        self.answer(content, Accept_Ranges="bytes", **headers)

    # -- Uploads -------------------------------------------------------------------------------------------------------

    def validate_yaml(self, body):
        answer = check_card(json.loads(body)["content"])
        self.answer(answer, 400 if answer["errors"] else 200)

    def preupload(self, body, kind, repo, revision):
        present = self.writable(kind, repo).at(revision).files
        self.answer(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if is_lfs(file["path"], base64.b64decode(file["sample"])) else "regular",
                        "shouldIgnore": False,
                        "oid": content_oid(file["path"], present[file["path"]]) if file["path"] in present else None,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def lfs_batch(self, body, kind, repo):
        self.writable(kind or "models", repo)
        objects = json.loads(body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
                wanted["actions"] = {"upload": upload, "verify": {"href": f"{upload['href']}/verify"}}
        self.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def lfs_upload(self, body, oid):
        if (permits := self.hub.stall_uploads) is not None:
            permits.acquire()
        try:
            if not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionResetError  # The client was killed: what it sent is not kept.
        except BlockingIOError:  # It waits for the answer.
            pass
        if self.hub.due("fail_uploads"):
            raise Refusal(self.hub.upload_failure, "The upload failed as the test has ordered")
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
        self.writable(kind, repo)
        if self.hub.due("fail_commits"):
            raise Refusal(500, "Internal Error - We're working hard to fix this as soon as possible!")
        if "create_pr" in self.query:
            raise Refusal(400, "This Hub has no pull requests")
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            if line["key"] == "file" and line["value"]["path"] == "README.md":
                card = check_card(base64.b64decode(line["value"]["content"]).decode())
                if card["errors"]:
                    return self.answer(card, 400)
        commit = self.hub.commit(kind, repo, revision, self.caller.user, lines)
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo}/commit/{commit.sha}"
        self.answer({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    _repo = r"(?P<repo>[^/]+/[^/]+)"
    _api = rf"/api/(?P<kind>models|datasets)/{_repo}"
    _page = rf"/((?P<kind>datasets)/)?{_repo}"
    _at = r"(?P<revision>[^/]+)"
    routes = (
        ("GET", r"/api/whoami-v2", whoami),
        ("POST", r"/api/repos/create", create),
        ("DELETE", r"/api/repos/delete", delete),
        ("POST", r"/api/validate-yaml", validate_yaml),
        ("GET", rf"{_api}(/revision/{_at})?", info),
        ("GET", rf"{_api}/auth-check", may_read),
        ("GET", rf"{_api}/auth-check/write", may_write),
        ("PUT", rf"{_api}/settings", settings),
        ("GET", rf"{_api}/refs", refs),
        ("GET", rf"{_api}/commits/{_at}", commits),
        ("POST", rf"{_api}/branch/(?P<branch>[^/]+)", create_branch),
        ("DELETE", rf"{_api}/branch/(?P<branch>[^/]+)", delete_branch),
        ("POST", rf"{_api}/tag/{_at}", create_tag),
        ("GET", rf"{_api}/tree/{_at}(/(?P<folder>.+))?", tree),
        ("POST", rf"{_api}/paths-info/{_at}", paths_info),
        ("POST", rf"{_api}/preupload/{_at}", preupload),
        ("POST", rf"{_api}/commit/{_at}", commit),
        ("GET", rf"{_page}/resolve/{_at}/(?P<path>.+)", resolve),
        ("POST", rf"{_page}\.git/info/lfs/objects/batch", lfs_batch),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_upload),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", lfs_verify),
    )
