"""A local fake of the Hugging Face Hub: one repository, with the faults of networks and servers."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789" * 4
REPOSITORY = "someone/bark"


def checksum(data: bytes, is_large: bool) -> str:
    """The checksum that the Hub gives for a file: SHA-256 of files in git-lfs, else git's blob hash."""
    return hashlib.sha256(data).hexdigest() if is_large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """State of the server: its files, the faults it makes, and the requests it got.

    commit: commit of the repository that it reports.
    checksum: reported for every file instead of its true checksum.
    altered: names of files that are sent with one byte changed.
    cut: how many of the next answers with weights break off half way.
    takes_ranges: whether it supports range requests, with which a client resumes.
    is_portal: whether it answers every request with a captive portal's login page, like a hotel's network.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.commit = COMMIT
        self.checksum: str | None = None
        self.altered: set[str] = set()
        self.cut = 0
        self.takes_ranges = True
        self.is_portal = False
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()  # what came as Authorization

    def entry(self, name: str) -> dict:
        data = self.files[name]
        entry = {"type": "file", "path": name, "size": len(data), "oid": checksum(data, False)}
        lfs = {"oid": self.checksum or checksum(data, True), "size": len(data), "pointerSize": 9}
        return entry | ({"lfs": lfs} if name.endswith(LARGE) else {})


LARGE = (".safetensors", ".bin", ".pt")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(has_body=True)

    def do_HEAD(self):
        self._answer(has_body=False)

    def _answer(self, has_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.hub.is_portal:
            self._send(200, b"<html>Sign in to go on</html>", {"Content-Type": "text/html"}, has_body)
        elif re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/[^/]+)?", path):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._send_json({"id": REPOSITORY, "sha": self.hub.commit, "siblings": siblings}, has_body)
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._send_json([self.hub.entry(name) for name in self.hub.files], has_body)
        elif found := re.fullmatch(rf"/{REPOSITORY}/resolve/[^/]+/(.+)", path):
            self._send_file(found[1], has_body)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, has_body)

    def _send_json(self, value: object, has_body: bool) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, has_body)

    def _send_file(self, name: str, has_body: bool) -> None:
        if name not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit}, has_body)
            return
        data = self.hub.files[name]
        headers = {"X-Repo-Commit": self.hub.commit}
        headers["ETag"] = f'"{self.hub.checksum or checksum(data, name.endswith(LARGE))}"'
        if name in self.hub.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status, start = 200, 0
        if wanted and self.hub.takes_ranges and self.command == "GET":
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(status, data[start:], headers, has_body, may_break=name.endswith(LARGE))

    def _send(self, status: int, body: bytes, headers: dict[str, str], has_body: bool, may_break: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if not has_body:
            return
        if may_break and self.hub.cut:
            self.hub.cut -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            self.connection.shutdown(2)
        else:
            self.wfile.write(body)


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of a server for `hub`, while the block runs."""
    handler = type("OwnHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
