"""A server of one checkpoint that can do everything a server can do wrong, and a cache of its own for every test."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from facex import weights
from facex.weights import Checkpoint

Answer = Callable[[BaseHTTPRequestHandler, int], None]
"""Of a server: to a request for the file from a byte on."""


class Site:
    """A server of one file; tests replace `answer` by something worse.

    Attributes:
        data: the file.
        asked: the `Range` of every request.
        paths: the path of every request.
        headers: those of the last request.
    """

    def __init__(self) -> None:
        self.data = random.Random(0).randbytes(300_123)
        self.asked: list[str | None] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        self.answer: Answer = self.rest
        self.url = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        stated = handler.headers["Range"]
        self.asked.append(stated)
        self.paths.append(handler.path)
        self.headers = dict(handler.headers)
        with contextlib.suppress(ConnectionError):
            self.answer(handler, int(stated.removeprefix("bytes=").removesuffix("-")) if stated else 0)

    def rest(self, handler: BaseHTTPRequestHandler, start: int) -> None:
        """What a good server does."""
        self.send(handler, 206 if start else 200, self.data[start:], f"bytes {start}-")

    def whole(self, handler: BaseHTTPRequestHandler, start: int) -> None:
        """What a server without ranges does."""
        self.send(handler, 200, self.data)

    def cut_after(self, count: int) -> Answer:
        """A server that goes away in the middle."""

        def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
            self.send(handler, 206 if start else 200, self.data[start:], f"bytes {start}-", count=count - start)

        return answer

    @staticmethod
    def send(
        handler: BaseHTTPRequestHandler,
        code: int,
        body: bytes,
        part: str = "",
        count: int | None = None,
        **headers: str,
    ) -> None:
        """A response with its length, and the first bytes of its body."""
        handler.send_response(code)
        stated = {"Content-Length": str(len(body))} | ({"Content-Range": part} if code == 206 and part else {})
        for name, value in {**stated, **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[:count])


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.handle(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/mnet.pth"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the checkpoint in a cache of its own; no proxy stands between us and the loopback."""
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "weights" / "mnet"


@pytest.fixture
def checkpoint(site: Site, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A checkpoint on the server, and alone in the catalogue. Not made by `parse`, which takes https alone."""
    made = Checkpoint(
        name="mnet",
        description="a test",
        url=site.url,
        sha256=hashlib.sha256(site.data).hexdigest(),
        size_bytes=len(site.data),
        repository="https://example.org/repository",
        licence="MIT",
        licence_url="https://example.org/LICENSE",
        contract={"activation": "relu", "anchors": "10,20;32,64;128,256", "channel_order": "rgb"},
    )
    monkeypatch.setattr(weights, "catalogue", lambda: (made,))
    return made


@pytest.fixture
def offline(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """The checkpoint at an address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = dataclasses.replace(checkpoint, url=f"http://127.0.0.1:{port}/mnet.pth")
    monkeypatch.setattr(weights, "catalogue", lambda: (made,))
    return made


@pytest.fixture
def left(store: Path) -> Callable[[], set[str]]:
    """`left()` names the files of the checkpoint's folder, but for the lock."""
    return lambda: {path.name for path in store.iterdir()} - {".lock"}


@pytest.fixture
def begin(store: Path) -> Callable[[bytes], Path]:
    """`begin(content)` makes what an earlier pull could have left, and gives its path."""

    def write(content: bytes) -> Path:
        store.mkdir(parents=True)
        part = store / "mnet.pth.part"
        part.write_bytes(content)
        return part

    return write


class Seen:
    """A progress that remembers, and that can interrupt, or call something when a stage starts."""

    def __init__(self, stop_after: int | None = None, on_start: Callable[[str], object] | None = None) -> None:
        self.tasks: list[tuple[str, int | None]] = []
        self.steps = 0
        self.warned: list[str] = []
        self.said: list[str] = []
        self._stop_after = stop_after
        self._on_start = on_start

    def start(self, task: str, total: int | None = None) -> None:
        self.tasks.append((task, total))
        self.steps = 0
        if self._on_start is not None:
            self._on_start(task)

    def advance(self) -> None:
        self.steps += 1
        if self.steps == self._stop_after:
            raise KeyboardInterrupt

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def seen() -> type[Seen]:
    """`seen(stop_after=None, on_start=None)` gives a progress that remembers."""
    return Seen
