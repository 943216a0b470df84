"""A Hugging Face hub on this machine: as much of its interface as `huggingface_hub` uses to list and download files."""
from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class FakeHub:
    """repositories: name -> file -> content. requests: what was asked, as "METHOD path range". broken: files whose first download breaks off."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories, self.requests, self.broken, self.gated = repositories, list[str](), set[str](), set[str]()
        self._closed = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        if self._closed:                                    # a connection that was kept open
            request.close_connection = True
            request.connection.shutdown(2)
            return
        path, wanted = request.path.partition("?")[0], request.headers.get("Range", "")
        self.requests.append(f"{request.command} {path} {wanted}".strip())
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if api else parts[:2])
        files = self.repositories.get(repository)
        if files is None or repository in self.gated:
            code = "GatedRepo" if files is not None else "RepoNotFound"
            self._send(request, 403 if files is not None else 401, b"", {"X-Error-Code": code, "X-Error-Message": "no"}, body)
        elif api:
            described = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name, "size": len(content)} for name, content in files.items()]}
            self._send(request, 200, json.dumps(described).encode(), {"Content-Type": "application/json"}, body)
        else:
            self._file(request, files.get("/".join(parts[4:])), wanted, body)

    def _file(self, request: BaseHTTPRequestHandler, content: bytes | None, wanted: str, body: bool) -> None:
        if content is None:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        name = request.path.rpartition("/")[2]
        cut = body and name in self.broken
        self.broken.discard(name if cut else "")
        self._send(request, 206 if wanted else 200, content[start:], headers, body, cut)

    def _send(self, request: BaseHTTPRequestHandler, code: int, content: bytes, headers: dict[str, str], body: bool, cut: bool = False) -> None:
        request.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(content[:len(content) // 2] if cut else content)
        if cut:
            request.close_connection = True
            request.wfile.flush()
            request.connection.shutdown(2)
