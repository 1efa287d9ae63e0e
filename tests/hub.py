"""A Hub on loopback for tests: repositories in memory, tokens, a record of what was asked, and faults to order."""

from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from threading import Event, RLock, Semaphore, Thread

from .hub_http import Handler
from .hub_repo import GITATTRIBUTES, Commit, Refusal, Repo, changed, content_oid, is_lfs


@dataclass(frozen=True)
class Token:
    user: str
    role: str = "write"  # or "read", or "expired"
    name: str = "test"


class LoopbackHub:
    """Serves `repos`, a dict of `("models" or "datasets", "owner/name")` to a dict of file names to bytes: what is in
    `main`.

    Commits of clients are applied to it, and what a test changes in it is a commit too. Use as a context manager; `url`
    is the endpoint.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: set[tuple[str, str]] = set()
        self.gated: set[str] = set()  # ids of repositories that want a token
        self.tokens = {
            "hf_test": Token("user"),
            "hf_read": Token("user", "read"),
            "hf_expired": Token("user", "expired"),
            "hf_other": Token("other"),
        }
        self.blobs: dict[str, bytes] = {}  # of LFS, by SHA-256

        # What was asked: method and path of each request, and the SHA-256 of each LFS upload that arrived.
        self.requests: list[tuple[str, str]] = []
        self.uploads: list[str] = []

        # Faults to order. The next so many commits are read and answered with 500, or are cut off halfway.
        self.fail_commits = 0
        self.drop_commits = 0
        # The next so many LFS uploads fail with this status: the client tries again at 500, and gives up at 403.
        self.fail_uploads = 0
        self.upload_failure = 500
        # Where there is a semaphore, each LFS upload waits for one of its permits once its content has arrived.
        self.stall_uploads: Semaphore | None = None
        self.uploading = Event()  # set when an LFS upload has begun

        self._histories: dict[tuple[str, str], Repo] = {}
        self._lock = RLock()

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def environment(self) -> dict[str, str]:
        """Variables with which a subprocess talks to this Hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def log(self, kind: str, name: str, revision: str = "main") -> list[tuple[str, str]]:
        """Sha and message of each commit, the newest first."""
        return [(commit.sha, commit.message) for commit in self.history(kind, name).at(revision).history()]

    def files(self, kind: str, name: str, revision: str) -> dict[str, bytes]:
        """Files of a branch, a tag or a sha."""
        return dict(self.history(kind, name).at(revision).files)

    def history(self, kind: str, name: str) -> Repo | None:
        """History of a repository, brought up to what tests have done to `repos`; None if there is no such one."""
        with self._lock:
            files = self.repos.get((kind, name))
            if files is None:
                self._histories.pop((kind, name), None)
                return None
            repo = self._histories.setdefault((kind, name), Repo())
            if "main" not in repo.branches or repo.branches["main"].files != files:
                repo.commit("main", dict(files), "Set by the test", "", "test")
                for path, content in files.items():
                    if is_lfs(path, content):
                        self.blobs[content_oid(path, content)] = content
            return repo

    def commit(self, kind: str, name: str, branch: str, author: str, lines: list[dict]) -> Commit:
        """Applies the lines of a commit request, all or none of them.

        Raises:
            Refusal: if the Hub would not take it.
        """
        header, operations = lines[0]["value"], lines[1:]
        with self._lock:
            repo = self.history(kind, name)
            if branch not in repo.branches:
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = repo.branches[branch]
            if not parent.sha.startswith(header.get("parentCommit", "")):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = changed(parent.files, operations, self.blobs)
            commit = repo.commit(branch, files, header["summary"], header.get("description", ""), author)
            if branch == "main":
                self.repos[kind, name] = dict(files)
            return commit

    def create(self, kind: str, name: str, private: bool) -> None:
        with self._lock:
            repo, files = Repo(), {".gitattributes": GITATTRIBUTES}
            repo.commit("main", files, "initial commit", "", author=name.split("/")[0])
            self._histories[kind, name], self.repos[kind, name] = repo, dict(files)
            self.show(kind, name, not private)

    def delete(self, kind: str, name: str) -> None:
        with self._lock:
            del self.repos[kind, name], self._histories[kind, name]
            self.show(kind, name, True)

    def show(self, kind: str, name: str, public: bool) -> None:
        (self.private.discard if public else self.private.add)((kind, name))

    def due(self, fault: str) -> bool:
        """Whether one of the ordered faults is due, which is then spent."""
        with self._lock:
            left = getattr(self, fault)
            setattr(self, fault, max(left - 1, 0))
            return left > 0
