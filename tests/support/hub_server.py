"""The part of the Hugging Face Hub's HTTP interface that huggingface_hub uses to upload and download files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, WEAK = "hf_writes", "hf_reads"
COMMIT = "c0ffee" + 34 * "0"
_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/(?P<what>preupload|commit|revision)/(?P<revision>[^/?]+)")
_FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")


@dataclass
class Hub:
    """A running hub.

    Attributes:
        url: its address.
        repositories: content of each file, by repository and name.
        private: names of private repositories.
        requests: method and path of every request.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _error(self, status: int, code: str) -> None:
            self._send(status, json.dumps({"error": code}).encode(), X_Error_Code=code, X_Error_Message=code)

        def _json(self, value: Any) -> None:
            self._send(200, json.dumps(value).encode(), Content_Type="application/json")

        def do_POST(self) -> None:
            hub.requests.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            if token not in (TOKEN, WEAK):
                self._error(401, "Unauthorized")
            elif token == WEAK:
                self._error(403, "Forbidden")
            elif self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif self.path == "/api/validate-yaml":  # the metadata of a card
                self._json({"errors": [], "warnings": []})
            elif (match := _API.match(self.path)) and match["name"] in hub.repositories:
                self._write(match["name"], match["what"], body)
            else:
                self._error(404, "RepoNotFound")

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in hub.repositories:
                self._send(409, json.dumps({"error": "exists", "url": f"{hub.url}/{name}"}).encode())
                return
            hub.repositories[name] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(name)
            self._json({"url": f"{hub.url}/{name}", "name": name, "id": "1"})

        def _write(self, name: str, what: str, body: str) -> None:
            if what == "preupload":
                files = [each["path"] for each in json.loads(body)["files"]]
                self._json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]})
                return
            for line in map(json.loads, filter(None, body.splitlines())):
                if line["key"] == "file":
                    hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json({"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": ""})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            match = _FILE.match(self.path)
            if match is None or match["name"] not in hub.repositories:
                self._error(401 if match else 404, "RepoNotFound")
            elif match["revision"] not in ("main", COMMIT):
                self._error(404, "RevisionNotFound")
            elif match["file"] not in (files := hub.repositories[match["name"]]):
                self._error(404, "EntryNotFound")
            else:
                content = files[match["file"]]
                mark = f'"{hashlib.sha1(content).hexdigest()}"'
                self._send(200, content, ETag=mark, X_Repo_Commit=COMMIT, Content_Type="application/octet-stream")

    return Handler


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Start a hub on loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
