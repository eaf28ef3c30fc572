"""A small Hugging Face Hub on the loopback interface, for the real client to push to and load from.

It keeps repositories in memory, takes files inline in commits (the upload mode "regular", which the Hub chooses for
small files), and records every request that it doesn't know.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Commit:
    """What one commit brought: its message, and contents by path."""

    message: str
    files: dict[str, bytes]


@dataclass
class Hub:
    """The server's address and content.

    Args:
        endpoint: Its address, for HF_ENDPOINT.
        repositories: Commits by repository, oldest first.
        unknown: Requests that were answered with 404 though they ask for no file.
        refuses: Whether the next requests to create a repository are refused with 403.
    """

    endpoint: str
    repositories: dict[str, list[Commit]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    refuses: bool = False

    def files(self, repo: str) -> dict[str, bytes]:
        """The newest content of a repository by path."""
        return {path: content for commit in self.repositories[repo] for path, content in commit.files.items()}

    def sha(self, repo: str) -> str:
        """A repository's newest commit hash."""
        return hashlib.sha1(f"{repo} {len(self.repositories[repo])}".encode()).hexdigest()

    def environment(self, home: Path) -> dict[str, str]:
        """Environment variables of a process that uses this Hub, with a cache of its own."""
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": "hf_loopback", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of huggingface_hub that pushing and loading need."""

    protocol_version = "HTTP/1.1"
    hub: Hub  # set on a subclass by `serve`

    def log_message(self, *arguments) -> None:
        """Keeps the test's output clean."""

    def answer(self, status: int, body: bytes | dict | list = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def not_found(self, code: str) -> None:
        self.answer(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.body()
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/preupload/main", path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/commit/main", path):
            self.commit(match["repo"], body)
        else:
            self.hub.unknown.append(f"POST {path}")
            self.not_found("EntryNotFound")

    def create(self, request: dict) -> None:
        repo = f"{request.get('organization') or 'user'}/{request['name']}"
        if self.hub.refuses:
            self.answer(403, {"error": "You don't have the rights to create a model"})
            return
        is_new = repo not in self.hub.repositories
        self.hub.repositories.setdefault(repo, [Commit("initial commit", {".gitattributes": b""})])
        self.answer(200 if is_new else 409, {"url": f"{self.hub.endpoint}/{repo}", "name": repo, "id": repo})

    def commit(self, repo: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        message = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        self.hub.repositories[repo].append(Commit(message, files))
        sha = self.hub.sha(repo)
        url = f"{self.hub.endpoint}/{repo}/commit/{sha}"
        self.answer(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self.answer(200, {"name": "user", "type": "user", "auth": {}, "orgs": []})
        elif path == "/api/agent-harnesses":  # a list that the client may ask for to name its caller
            self.answer(200, {"standardEnvVars": [], "harnesses": {}})
        elif match := re.fullmatch(rf"/{REPOSITORY}/resolve/[^/]+/(?P<file>.+)", path):
            self.resolve(match["repo"], match["file"])
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/[^/]+)?", path):
            self.model(match["repo"])
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/[^/]+(?P<folder>/.*)?", path):
            self.tree(match["repo"], (match["folder"] or "").strip("/"))
        else:
            self.hub.unknown.append(f"{self.command} {path}")
            self.not_found("EntryNotFound")

    def model(self, repo: str) -> None:
        if repo not in self.hub.repositories:
            self.not_found("RepoNotFound")
            return
        siblings = [{"rfilename": name} for name in self.hub.files(repo)]
        self.answer(200, {"id": repo, "sha": self.hub.sha(repo), "siblings": siblings, "tags": [], "private": False})

    def tree(self, repo: str, folder: str) -> None:
        if repo not in self.hub.repositories:
            self.not_found("RepoNotFound")
            return
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.hub.files(repo).items()
            if name.startswith(folder)
        ]
        self.answer(200, entries)

    def resolve(self, repo: str, name: str) -> None:
        if repo not in self.hub.repositories:
            self.not_found("RepoNotFound")
            return
        content = self.hub.files(repo).get(name)
        if content is None:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=self.hub.sha(repo))
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(200, content, ETag=etag, X_Repo_Commit=self.hub.sha(repo))


@contextmanager
def serve() -> Iterator[Hub]:
    """Runs a Hub on a free port of 127.0.0.1 for the length of the block."""
    hub = Hub(endpoint="")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
