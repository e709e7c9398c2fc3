"""What a pull refuses, and what it says without a network or room."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from facex import download, weights
from facex.errors import BackendError, DownloadError
from facex.weights import Checkpoint, pull


def test_wrong_bytes_are_refused_and_removed(
    checkpoint: Checkpoint, site: Any, store: Path, left: Callable[[], set[str]]
) -> None:
    wrong = site.data[:-1] + b"?"
    site.answer = lambda handler, _: site.send(handler, 200, wrong)
    with pytest.raises(DownloadError) as failure:
        pull(checkpoint)
    assert checkpoint.sha256 in str(failure.value)
    assert hashlib.sha256(wrong).hexdigest() in str(failure.value)
    assert left() == set()


def test_a_wrong_beginning_is_refused_and_the_next_pull_starts_over(
    checkpoint: Checkpoint, site: Any, store: Path, left: Callable[[], set[str]], begin: Callable[[bytes], Path]
) -> None:
    begin(b"x" * 1000)
    with pytest.raises(DownloadError, match=checkpoint.sha256):
        pull(checkpoint)
    assert left() == set()
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("size", [25, 300_124])
def test_a_file_of_another_size_is_not_even_read(
    checkpoint: Checkpoint, site: Any, begin: Callable[[bytes], Path], size: int
) -> None:
    part = begin(site.data[:1000])
    body = b"x" * size
    site.answer = lambda handler, _: site.send(handler, 200, body)
    with pytest.raises(DownloadError, match=f"holds {len(body)} bytes, not {len(site.data)}"):
        pull(checkpoint)
    assert part.read_bytes() == site.data[:1000]  # the page of a hotel's network must not cost what is there


def test_a_file_without_end_is_read_to_one_byte_too_many(
    checkpoint: Checkpoint, site: Any, left: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                handler.wfile.write(site.data)

    def counted(response: http.client.HTTPResponse, size: int) -> bytes:
        chunk = read(response, size)
        sizes.append(len(chunk))
        return chunk

    read, sizes = http.client.HTTPResponse.read1, list[int]()
    monkeypatch.setattr(http.client.HTTPResponse, "read1", counted)
    site.answer = answer
    with pytest.raises(DownloadError, match=f"holds more than {len(site.data)} bytes"):
        pull(checkpoint)
    assert left() == set()
    assert sum(sizes) == len(site.data) + 1


def test_one_byte_too_many_is_refused(checkpoint: Checkpoint, site: Any, store: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(site.data + b"x")

    site.answer = answer
    with pytest.raises(DownloadError, match="holds more than"):
        pull(checkpoint)


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_in_chunks_of_unknown_number(checkpoint: Checkpoint, site: Any, store: Path, whole: bool) -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for i in range(0, len(site.data), 100_000):
            piece = site.data[i : i + 100_000]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if not whole:
                break
        else:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    site.answer = answer
    if whole:
        assert pull(checkpoint).path.read_bytes() == site.data
        return
    with pytest.raises(DownloadError, match="run it again"):
        pull(checkpoint)
    assert (store / "mnet.pth.part").read_bytes() == site.data[:100_000]


# --- no network, no room


@pytest.mark.parametrize("code", [403, 404, 500, 503])
def test_a_server_that_says_no(
    checkpoint: Checkpoint, site: Any, store: Path, code: int, begin: Callable[[bytes], Path]
) -> None:
    part = begin(site.data[:1000])
    site.answer = lambda handler, _: site.send(handler, code, b"sorry")
    with pytest.raises(DownloadError) as failure:
        pull(checkpoint)
    message = str(failure.value)
    assert f"{site.url}: the server answers {code} " in message
    assert f"fetch it by hand, check that its sha256 is {checkpoint.sha256}, and run facex export PATH" in message
    assert part.read_bytes() == site.data[:1000]


def test_nobody_listens(offline: Checkpoint, store: Path) -> None:
    with pytest.raises(
        DownloadError, match=rf"{offline.url}: cannot be reached: Connection refused — .*{offline.sha256}"
    ):
        pull(offline)


def test_a_name_that_nobody_knows(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError, match="cannot be reached: Name or service not known"):
        pull(checkpoint)


@pytest.mark.parametrize("sent", [None, 100_000])
def test_a_server_that_falls_asleep(
    checkpoint: Checkpoint,
    site: Any,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    sent: int | None,
    left: Callable[[], set[str]],
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.3)
    awake = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
        if sent is not None:
            site.cut_after(sent)(handler, start)
        awake.wait(20)

    site.answer = answer
    try:
        with pytest.raises(DownloadError, match="timed out"):
            pull(checkpoint)
    finally:
        awake.set()
    assert left() == (set() if sent is None else {"mnet.pth.part"})


def test_a_server_that_speaks_something_else(checkpoint: Checkpoint, site: Any) -> None:
    site.answer = lambda handler, _: handler.wfile.write(b"220 mail.example.org ESMTP\r\n")
    with pytest.raises(DownloadError, match="cannot be reached: "):
        pull(checkpoint)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_said_to_be_full(checkpoint: Checkpoint, store: Path) -> None:
    store.mkdir(parents=True)
    (store / "mnet.pth.part").symlink_to("/dev/full")
    with pytest.raises(BackendError, match="No space left on device — free some space and run again") as failure:
        pull(checkpoint)
    assert not isinstance(failure.value, DownloadError)
    assert failure.value.stage == "weights"
    assert not (store / "mnet.pth").exists()


def test_what_a_full_disk_left_is_gone_on_with(
    checkpoint: Checkpoint, site: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    site.answer = site.cut_after(50_000)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(BackendError, match="free some space"):
            pull(checkpoint)
    site.answer = site.rest
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == [None, "bytes=50000-"]


def test_a_cache_that_cannot_be_made(
    checkpoint: Checkpoint, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendError, match="cannot be made or locked: Not a directory — set FACEX_CACHE"):
        pull(checkpoint)
    assert site.asked == []


def test_of_two_pulls_at_once_one_fetches_and_both_have_the_file(
    checkpoint: Checkpoint, site: Any, store: Path, left: Callable[[], set[str]], seen: Any
) -> None:
    halfway, go_on = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        site.send(handler, 200, site.data, count=100_000)
        halfway.set()
        go_on.wait(20)
        handler.wfile.write(site.data[100_000:])

    site.answer = answer
    found: dict[str, weights.Copy] = {}
    first = threading.Thread(target=lambda: found.update(first=pull(checkpoint)))
    first.start()
    assert halfway.wait(20)
    progress = seen(on_start=lambda task: go_on.set() if task.startswith("waiting") else None)
    found["second"] = pull(checkpoint, progress)
    first.join()
    assert [task for task, _ in progress.tasks] == ["waiting for another facex that fetches mnet"]
    assert (found["first"].fetched, found["second"].fetched) == (True, False)
    assert site.asked == [None]
    assert (store / "mnet.pth").read_bytes() == site.data
    assert left() == {"mnet.pth", "source.json"}
