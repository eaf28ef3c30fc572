"""A small Hugging Face Hub on the loopback interface, for the real client to push to and load from.

It speaks what huggingface_hub 2 sends when it creates a repository, commits to it and downloads from it:

    push   create -> preupload (which files go inline, which as LFS) -> LFS batch -> PUT and verify -> commit
    load   HEAD resolve (commit, etag, size) -> GET resolve; LFS files are redirected to the storage

As on the real Hub the storage has another origin (here "localhost" in place of "127.0.0.1") and takes no token, while
writing to the Hub needs one. Everything is kept in memory. Xet isn't offered: `environment` switches it off.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

USER, TOKEN = "user", "hf_loopback"


@dataclass(frozen=True)
class Commit:
    """What one commit brought: contents by path; those in `lfs` came through the LFS storage, the others inline."""

    repo: str
    message: str
    files: dict[str, bytes]
    lfs: frozenset[str] = frozenset()
    oid: str = field(default_factory=lambda: secrets.token_hex(20))


@dataclass
class Hub:
    """What the server holds and has seen; tests read it and steer it by `refused`.

    Args:
        endpoint: Address, for HF_ENDPOINT.
        storage: Address of the LFS storage.
        commits: Commits to all repositories, oldest first; a repository begins with the Hub's own "initial commit".
        objects: Contents of the LFS storage by SHA-256.
        requests: Method and path of every request, in order.
        unknown: Those among them that the server has no route for.
        refused: Routes answered with 403, by the name of their method in `Handler`, e.g. "create" or "commit".
    """

    endpoint: str
    storage: str
    commits: list[Commit] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    def history(self, repo: str, revision: str = "main") -> list[Commit]:
        """Commits to a repository up to a revision, oldest first; empty where there is no such."""
        commits = [commit for commit in self.commits if commit.repo == repo]
        ends = {commit.oid: end for end, commit in enumerate(commits, start=1)} | {"main": len(commits)}
        return commits[: ends.get(revision, 0)]

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """A repository's contents by path."""
        return {path: content for commit in self.history(repo, revision) for path, content in commit.files.items()}

    def lfs_files(self, repo: str, revision: str = "main") -> set[str]:
        """Paths of a repository whose contents are in the LFS storage."""
        newest = {path: path in commit.lfs for commit in self.history(repo, revision) for path in commit.files}
        return {path for path, is_lfs in newest.items() if is_lfs}

    def environment(self, folder: Path) -> dict[str, str]:
        """Environment variables of a process that uses this Hub, with caches of its own below `folder`."""
        home = folder / "huggingface"
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


class HubError(Exception):
    """An answer other than success; `code` tells huggingface_hub which of its exceptions to raise."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, "X-Error-Code": code, **headers}


def etag(content: bytes, is_lfs: bool) -> str:
    """The hash by which the client knows a file: SHA-256 of an LFS file, git's blob hash of another."""
    if is_lfs:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REPO, OID = r"(?P<repo>[\w.-]+/[\w.-]+)", r"(?P<oid>[0-9a-f]{64})"
# What is asked for, and the method of `Handler` that answers; it takes the named groups.
ROUTES = {
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate_card",
    rf"POST /api/models/{REPO}/preupload/main": "preupload",
    rf"POST /{REPO}\.git/info/lfs/objects/batch": "lfs_batch",
    rf"PUT /storage/{OID}": "store",
    rf"POST /{REPO}/verify": "verify",
    rf"POST /api/models/{REPO}/commit/main": "commit",
    rf"GET /api/models/{REPO}(?:/revision/main)?": "model",
    rf"GET /api/models/{REPO}/tree/(?P<revision>[^/]+)": "tree",
    rf"(?:HEAD|GET) /{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": "resolve",
    rf"GET /storage/{OID}": "fetch",
    r"GET /api/agent-harnesses": "harnesses",
}


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests: `respond` finds the route, the methods below it are the routes."""

    protocol_version = "HTTP/1.1"
    hub: Hub  # set on a subclass by `serve`

    def respond(self) -> None:
        """Reads a request, runs its route and answers; what is refused or unknown is an answer too."""
        request = f"{self.command} {unquote(urlsplit(self.path).path)}"
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(request)
        try:
            for pattern, route in ROUTES.items():
                if match := re.fullmatch(pattern, request):
                    self.check_rights(route)
                    getattr(self, route)(**match.groupdict())
                    return
            self.hub.unknown.append(request)
            raise HubError(404, f"no route for {request}", "EntryNotFound")
        except HubError as error:
            self.answer({"error": str(error)}, error.status, **error.headers)

    do_GET = do_HEAD = do_POST = do_PUT = respond  # noqa: N815 (the names http.server calls)

    def check_rights(self, route: str) -> None:
        token = self.headers.get("Authorization")
        if route in ("store", "fetch") and token:
            raise HubError(400, "the storage must not see the token")
        if self.command == "POST" and token != f"Bearer {TOKEN}":
            raise HubError(401, "Invalid username or password.")
        if route in self.hub.refused:
            raise HubError(403, f"{USER} has no right to do this: {route}")

    def answer(self, body: bytes | dict | list = b"", status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        """Keeps the tests' output clean."""

    def existing(self, repo: str, revision: str = "main") -> str:
        """The hash of a repository's revision."""
        if not self.hub.history(repo):
            raise HubError(404, "Repository not found", "RepoNotFound")
        if not (commits := self.hub.history(repo, revision)):
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commits[-1].oid

    # Routes of a push, in the order in which they are asked for.

    def create(self) -> None:
        request = json.loads(self.body)
        repo = f"{request.get('organization') or USER}/{request['name']}"
        is_new = not self.hub.history(repo)
        if is_new:
            self.hub.commits.append(Commit(repo, "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"}))
        self.answer({"url": f"{self.hub.endpoint}/{repo}", "name": repo}, 200 if is_new else 409)

    def validate_card(self) -> None:
        """Refuses, as the Hub does, a base model that is a path and not the name of one."""
        metadata = json.loads(self.body)["content"].split("\n---", 1)[0]
        errors = [
            {"message": f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.'}
            for base in re.findall(r"^base_model: (.+)$", metadata, re.MULTILINE)
            if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", base)
        ]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo: str) -> None:
        """Chooses LFS for what git would call binary: a zero byte at the beginning."""
        self.existing(repo)
        held, lfs = self.hub.files(repo), self.hub.lfs_files(repo)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if b"\0" in base64.b64decode(file["sample"]) else "regular",
                "shouldIgnore": False,
                "oid": etag(held[file["path"]], file["path"] in lfs) if file["path"] in held else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer({"files": files})

    def lfs_batch(self, repo: str) -> None:
        """Says where to put each object; those that are there already need no action."""
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.objects:
                wanted["actions"] = {
                    "upload": {"href": f"{self.hub.storage}/storage/{wanted['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/{repo}/verify"},
                }
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content has another hash")
        self.hub.objects[oid] = self.body
        self.answer()

    def verify(self, repo: str) -> None:
        request = json.loads(self.body)
        if len(self.hub.objects.get(request["oid"], b"")) != request["size"]:
            raise HubError(404, f"{request['oid']} was not uploaded to {repo}")
        self.answer({})

    def commit(self, repo: str) -> None:
        self.existing(repo)
        message, files, lfs = "", {}, set()
        for line in map(json.loads, self.body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile" and value["oid"] in self.hub.objects:
                files[value["path"]] = self.hub.objects[value["oid"]]
                lfs.add(value["path"])
            else:
                raise HubError(400, f"cannot commit {key} {value.get('path')}")
        commit = Commit(repo, message, files, frozenset(lfs))
        self.hub.commits.append(commit)
        url = f"{self.hub.endpoint}/{repo}/commit/{commit.oid}"
        self.answer({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    # Routes of a load.

    def resolve(self, repo: str, revision: str, path: str) -> None:
        headers = {"X-Repo-Commit": self.existing(repo, revision)}
        content = self.hub.files(repo, revision).get(path)
        if content is None:
            raise HubError(404, "Entry not found", "EntryNotFound", **headers)
        if path in self.hub.lfs_files(repo, revision):
            oid = etag(content, is_lfs=True)
            headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            self.answer(b"", 302, Location=f"{self.hub.storage}/storage/{oid}", **headers)
        else:
            self.answer(content, ETag=f'"{etag(content, is_lfs=False)}"', **headers)

    def fetch(self, oid: str) -> None:
        if oid not in self.hub.objects:
            raise HubError(404, f"{oid} was never uploaded")
        self.answer(self.hub.objects[oid], ETag=f'"{oid}"')

    def model(self, repo: str) -> None:
        siblings = [{"rfilename": path} for path in self.hub.files(repo)]
        self.answer({"id": repo, "sha": self.existing(repo), "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        files = self.hub.files(repo, revision)
        self.answer([{"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in files])

    def harnesses(self) -> None:
        """The list by which the client finds out whether an agent runs it; here a list of none."""
        self.answer({"standardEnvVars": [], "harnesses": {}})


@contextmanager
def serve() -> Iterator[Hub]:
    """Runs a Hub on a free port of 127.0.0.1 for the length of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", f"http://localhost:{server.server_port}")
    server.RequestHandlerClass = type("HubHandler", (Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(name="hub")
def hub_fixture() -> Iterator[Hub]:
    """A Hub of the test's own."""
    with serve() as server:
        yield server
