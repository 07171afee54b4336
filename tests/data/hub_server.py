"""A Hugging Face hub of its own, on this machine: what `datasets` asks of one, for a few data sets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 39 + "1"

Repositories = Mapping[str, Mapping[str, bytes]]


@contextmanager
def hub_of(repositories: Repositories, private: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the URL of a hub with these data sets: id -> path of a file -> its content.

    private: ids that answer as the hub does to who is not logged in.
    """

    class Handler(_Handler):
        files = repositories
        closed = private

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Repositories
    closed: frozenset[str]

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(
            r"/(api/)?datasets/([^/]+/[^/]+)(?:/(resolve|revision|tree|paths-info)/([^/]+)/?(.*))?",
            path,
        )
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if found is None or found[2] not in {*self.files, *self.closed}:
            self._send(404 if found is None else 401, headers={"X-Error-Code": "RepoNotFound"})
        elif found[2] in self.closed:
            self._send(403, headers={"X-Error-Code": "GatedRepo"})
        elif found[3] == "resolve":
            self._file(self.files[found[2]].get(found[5]))
        else:
            self._send_json(self._answer(found[2], found[3], found[5], posted))

    do_HEAD = do_POST = do_GET

    def _answer(self, name: str, kind: str | None, below: str, posted: bytes) -> Any:
        files = self.files[name]
        if kind == "tree":
            inside = {path: path.removeprefix(f"{below}/") for path in files}
            inside = {p: rest for p, rest in inside.items() if not below or rest != p}
            folders = {
                p.removesuffix(r) + r.split("/")[0]: r for p, r in inside.items() if "/" in r
            }
            return [
                *({"type": "directory", "path": path, "oid": COMMIT} for path in folders),
                *(self._entry(files, path) for path, rest in inside.items() if "/" not in rest),
            ]
        if kind == "paths-info":
            wanted = json.loads(posted)["paths"]
            return [self._entry(files, path) for path in wanted if path in files]
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}

    def _entry(self, files: Mapping[str, bytes], path: str) -> dict[str, Any]:
        return {
            "type": "file",
            "path": path,
            "size": len(files[path]),
            "oid": hashlib.sha1(files[path]).hexdigest(),
        }

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._send(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            self._send(200, content, headers)
            return
        start, stop = int(part[1]), min(int(part[2] or len(content)) + 1, len(content))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send(206, content[start:stop], headers)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
