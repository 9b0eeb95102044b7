"""A small Hugging Face hub on this machine, as the client library calls it, and with faults.

A repository is a folder ``owner/name`` under ``root``; one beside it called ``name@tag`` is its
revision ``tag``. Weights are kept as LFS files: they are listed and served with their SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_the_tests"
LFS = (".safetensors", ".bin", ".pt")


class HubServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        root: the folder of the repositories.
        requests: what was asked so far, for example ``("GET", "/me/net/resolve/main/a.bin")``.
        ranges: the ``Range`` headers among them.
        private: the repositories that were made private.
        faults: an answer, (status, X-Error-Code), for every path that holds a piece of text.
        cut_after: break the next download of weights off after so many bytes, once.
        wrong_bytes: serve damaged weights of the right length.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.private: set[str] = set()
        self.faults: dict[str, tuple[int, str]] = {}
        self.cut_after: int | None = None
        self.wrong_bytes = False
        self.uploads: dict[str, bytes] = {}
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, **files: bytes) -> Path:
        """Make a repository; in the names of its files ``__`` stands for the dot."""
        folder = self.root / repo
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_bytes(content)
        return folder

    def downloads(self, file: str) -> int:
        """Count the requests for the content of a file."""
        return sum(how == "GET" and path.endswith(f"/{file}") for how, path in self.requests)

    def stop(self) -> None:
        """Go down: connections are refused from now on."""
        self.shutdown()
        self.server_close()


@contextmanager
def serving(root: Path) -> Iterator[HubServer]:
    """Run a hub over the repositories in a folder."""
    server = HubServer(root)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.stop()


def environment(endpoint: str, home: Path, offline: bool = False) -> dict[str, str]:
    """Return the variables under which a new process uses a hub, with a cache of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "HUB"))}
    return kept | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "NO_PROXY": "127.0.0.1",
    }


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str, home: Path) -> None:
    """Let the library in this process use a hub, as the variables let it at its import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_HUB_OFFLINE=1 does at the library's import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


class _Refused(Exception):
    """An answer with an error status and the hub's code for it."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, path))
        try:
            for piece, fault in self.server.faults.items():
                if piece in path:
                    raise _Refused(*fault)
            token = self.headers.get("Authorization")
            if path.startswith("/api/repos/") and token != f"Bearer {TOKEN}":
                raise _Refused(401, "")
            match path.strip("/").split("/"):
                case ["api", "models", owner, name, *rest]:
                    self._model(f"{owner}/{name}", rest, body)
                case [owner, name, "resolve", revision, *file]:
                    self._resolve(f"{owner}/{name}", revision, "/".join(file))
                case ["api", "repos", "create"]:
                    self._create(json.loads(body))
                case ["api", "validate-yaml"]:
                    self._json({"errors": [], "warnings": []})
                case [_, _, "info", "lfs", "objects", "batch"]:
                    self._batch(json.loads(body))
                case ["uploads", digest] if self.command == "PUT":
                    self.server.uploads[digest] = body
                    self._json({})
                case _:
                    raise _Refused(404, "")
        except _Refused as refusal:
            status, code = refusal.args
            self._send(status, b"{}", {"X-Error-Code": code})

    def _model(self, repo: str, rest: list[str], body: bytes) -> None:
        match rest:
            case [] | ["revision", _]:
                folder = self._folder(repo, rest[1] if rest else "main")
                self._json({"id": repo, "sha": _commit(folder), "siblings": _listing(folder)})
            case ["tree", revision]:
                files = _listing(self._folder(repo, revision))
                self._json(
                    [
                        {"type": "file", "path": file["rfilename"], "size": file["size"]}
                        | {"oid": file["blobId"]}
                        | (
                            {"lfs": file["lfs"] | {"oid": file["lfs"]["sha256"]}}
                            if "lfs" in file
                            else {}
                        )
                        for file in files
                    ]
                )
            case ["preupload", _]:
                self._folder(repo, "main")
                files = json.loads(body)["files"]
                self._json(
                    {
                        "files": [
                            {"path": file["path"], "shouldIgnore": False}
                            | {"uploadMode": "lfs" if file["path"].endswith(LFS) else "regular"}
                            for file in files
                        ]
                    }
                )
            case ["commit", _]:
                self._record(repo, [json.loads(line) for line in body.splitlines()])
            case _:
                raise _Refused(404, "")

    def _folder(self, repo: str, revision: str) -> Path:
        """Find a revision by its name or its commit."""
        main = self.server.root / repo
        if not main.is_dir():
            raise _Refused(404, "RepoNotFound")
        for folder in main.parent.glob(f"{main.name}*"):
            tag = folder.name.partition("@")[2] or "main"
            if folder.name.partition("@")[0] == main.name and revision in (tag, _commit(folder)):
                return folder
        raise _Refused(404, "RevisionNotFound")

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        folder = self._folder(repo, revision)
        path = folder / file
        if not path.is_file():
            raise _Refused(404, "EntryNotFound")
        content = path.read_bytes()
        headers = {
            "X-Repo-Commit": _commit(folder),
            "ETag": f'"{_blob(content)}"',
            "Accept-Ranges": "bytes",
        }
        cut = None
        if path.name.endswith(LFS):
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(content))
            if self.server.wrong_bytes:
                content = bytes(len(content))
            if self.command == "GET":
                cut, self.server.cut_after = self.server.cut_after, None
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, content, headers, cut)
            return
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:], headers, cut)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        folder = self.server.root / repo
        there = folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        if asked.get("visibility") == "private" and not there:
            self.server.private.add(repo)
        self._json({"url": f"{self.server.endpoint}/{repo}"}, 409 if there else 200)

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            item
            | {"actions": {"upload": {"href": f"{self.server.endpoint}/uploads/{item['oid']}"}}}
            for item in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _record(self, repo: str, lines: list[dict[str, Any]]) -> None:
        folder = self._folder(repo, "main")
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                content = self.server.uploads[value["oid"]]
                if hashlib.sha256(content).hexdigest() != value["oid"]:
                    raise _Refused(422, "")
                (folder / value["path"]).write_bytes(content)
        commit = _commit(folder)
        self._json(
            {"commitUrl": f"{self.server.endpoint}/{repo}/commit/{commit}", "commitOid": commit}
        )

    def _json(self, answer: object, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])


def _listing(folder: Path) -> list[dict[str, Any]]:
    """Describe the files of a repository as the hub does."""
    files = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        file = {"rfilename": path.name, "size": len(content), "blobId": _blob(content)}
        if path.name.endswith(LFS):
            digest = hashlib.sha256(content).hexdigest()
            file["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        files.append(file)
    return files


def _commit(folder: Path) -> str:
    """Name the state of a repository: equal files, equal name."""
    return hashlib.sha1(json.dumps([folder.name, _listing(folder)]).encode()).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
