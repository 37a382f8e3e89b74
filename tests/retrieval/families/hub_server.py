"""A small hub on this machine: the endpoints that the real client asks for when a model is downloaded."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pt")  # in large-file storage, so with a SHA-256


def commit_of(text: str) -> str:
    """Forty hex digits, the same ones for the same text."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """One repository at one revision."""

    files: dict[str, bytes]
    licence: str | None = "mit"
    gated: bool = False
    private: bool = False


@dataclass
class FakeHub:
    """Repositories by name and revision, what was asked, and what goes wrong."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    conversions: dict[str, int] = field(default_factory=dict)  # repository: number of a pull request
    cut_after: dict[str, int] = field(default_factory=dict)  # file name: bytes, once
    dead_after: dict[str, int] = field(default_factory=dict)  # file name: bytes, every time
    altered: dict[str, bytes] = field(default_factory=dict)  # file name: what comes instead
    elsewhere: str = ""  # another host that large files are redirected to
    token: str = ""  # what a gated or private repository wants
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # path, Range, Authorization
    url: str = ""

    def add(self, name: str, files: dict[str, bytes], *, revision: str = "main", **more: Any) -> Repo:
        self.repos[name, revision] = Repo(files, **more)
        return self.repos[name, revision]

    def ranges(self, file: str) -> list[str]:
        """The Range headers with which a file was asked for."""
        return [wanted for path, wanted, _token in self.asked if path.endswith(f"/{file}")]

    def files_asked(self) -> set[str]:
        return {
            path.rsplit("/resolve/", 1)[1].split("/", 1)[1] for path, *_ in self.asked if "/resolve/" in path
        }

    def find(self, name: str, revision: str) -> tuple[Repo, str] | None:
        for (known, label), repo in self.repos.items():
            commit = commit_of(f"{known}@{label}")
            if known == name and revision in (label, commit):
                return repo, commit
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_args: object) -> None: ...

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "")
        self.hub.asked.append((path, self.headers.get("Range", ""), token))
        if found := re.fullmatch(r"/api/models/(.+?)/revision/(.+)", path):
            self.info(*found.groups())
        elif found := re.fullmatch(r"/api/models/(.+?)/discussions", path):
            self.discussions(found[1])
        elif found := re.fullmatch(r"/(.+?)/resolve/([0-9a-f]{40})/(.+)", path):
            self.resolve(*found.groups())
        else:
            self.say(404, {"error": "no such page"})

    def say(self, status: int, body: Any, **headers: str) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def refused(self, repo: Repo) -> bool:
        token = self.headers.get("Authorization", "")
        if not (repo.gated or repo.private) or token == f"Bearer {self.hub.token}":
            return False
        code = "GatedRepo" if repo.gated else "RepoNotFound"
        self.say(401, {"error": "Access is restricted"}, X_Error_Code=code)
        return True

    def info(self, name: str, revision: str) -> None:
        known = any(one == name for one, _label in self.hub.repos)
        found = self.hub.find(name, revision)
        if not found:
            code = "RevisionNotFound" if known else "RepoNotFound"
            self.say(404 if known else 401, {"error": "not found"}, X_Error_Code=code)
            return
        repo, commit = found
        if self.refused(repo):
            return
        card = {"license": repo.licence} if repo.licence else {}
        body = {"id": name, "sha": commit, "cardData": card, "siblings": _siblings(repo)}
        self.say(200, body)

    def discussions(self, name: str) -> None:
        number = self.hub.conversions.get(name)
        one = {
            "title": "Adding `safetensors` variant of this model",
            "num": number,
            "author": {"name": "SFconvertbot"},
            "createdAt": "2024-01-01T00:00:00.000Z",
            "status": "open",
            "repo": {"name": name, "type": "model"},
            "isPullRequest": True,
        }
        found = [one] if number else []
        self.say(200, {"discussions": found, "count": len(found), "start": 0})

    def resolve(self, name: str, commit: str, file: str) -> None:
        found = self.hub.find(name, commit)
        if not found or file not in found[0].files:
            self.say(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
            return
        if self.hub.elsewhere and file.endswith(LARGE) and self.hub.elsewhere not in self.headers["Host"]:
            self.send_response(302)
            self.send_header("Location", f"http://{self.hub.elsewhere}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not self.hub.elsewhere and self.refused(found[0]):
            return
        self.send_file(file, self.hub.altered.get(file, found[0].files[file]))

    def send_file(self, file: str, content: bytes) -> None:
        start = 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut = self.hub.cut_after.pop(file, None)
        dead = self.hub.dead_after.get(file)
        end = cut if cut is not None else max(dead - start, 0) if dead is not None else len(body)
        self.wfile.write(body[:end])
        if end < len(body):
            self.wfile.flush()
            self.close_connection = True


def _siblings(repo: Repo) -> list[dict[str, Any]]:
    found = []
    for name, content in repo.files.items():
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        one: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git}
        if name.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            one["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        found.append(one)
    return found


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub that answers until the block ends; its `url` is what HF_ENDPOINT takes."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
