"""Pulling a checkpoint, and going on where an earlier pull stopped."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from facex import download, weights
from facex.errors import DownloadError
from facex.weights import Checkpoint, State, pull


def test_a_pull_brings_the_file_with_its_record(
    checkpoint: Checkpoint, site: Any, store: Path, left: Callable[[], set[str]]
) -> None:
    assert weights.look(checkpoint).state is State.ABSENT
    found = pull(checkpoint)
    assert found == weights.Copy(checkpoint=checkpoint, path=store / "mnet.pth", state=State.VERIFIED, fetched=True)
    assert found.path.read_bytes() == site.data
    assert left() == {"mnet.pth", "source.json"}
    record = json.loads((store / "source.json").read_text())
    assert record["file"] == "mnet.pth"
    assert (record["url"], record["sha256"], record["size_bytes"]) == (site.url, checkpoint.sha256, len(site.data))
    assert (record["licence"], record["licence_url"]) == ("MIT", "https://example.org/LICENSE")
    assert site.asked == [None]
    assert site.headers["User-Agent"].startswith("facex/")
    assert weights.look(checkpoint).state is State.VERIFIED


def test_progress_counts_kilobytes(checkpoint: Checkpoint, store: Path, seen: Any) -> None:
    progress = seen()
    pull(checkpoint, progress)
    assert progress.tasks == [("fetching 0.3 MB from 127.0.0.1, kB", 300)]
    assert progress.steps == 300
    assert (progress.warned, progress.said) == ([], [])


def test_what_is_there_already_costs_no_connection(
    offline: Checkpoint, store: Path, site: Any, left: Callable[[], set[str]]
) -> None:
    store.mkdir(parents=True)
    (store / "mnet.pth").write_bytes(site.data)
    found = pull(offline)
    assert (found.state, found.fetched) == (State.VERIFIED, False)
    assert left() == {"mnet.pth"}
    assert not (store / ".lock").exists()  # so a cache that cannot be written will do


def test_what_is_damaged_is_fetched_again(checkpoint: Checkpoint, site: Any, store: Path, seen: Any) -> None:
    store.mkdir(parents=True)
    (store / "mnet.pth").write_bytes(site.data[:-1] + b"?")
    assert weights.look(checkpoint).state is State.DAMAGED
    progress = seen()
    assert pull(checkpoint, progress).fetched
    assert len(progress.warned) == 1
    assert str(store / "mnet.pth") in progress.warned[0]
    assert "is damaged" in progress.warned[0]
    assert (store / "mnet.pth").read_bytes() == site.data


def test_a_redirect_is_followed_with_the_range(
    checkpoint: Checkpoint, site: Any, store: Path, begin: Callable[[bytes], Path]
) -> None:
    def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
        if handler.path == "/mnet.pth":
            site.send(handler, 302, b"", Location="/elsewhere")
        else:
            site.rest(handler, start)

    site.answer = answer
    begin(site.data[:1000])
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.paths == ["/mnet.pth", "/elsewhere"]
    assert site.asked == ["bytes=1000-"] * 2


@pytest.mark.parametrize("target", ["http://example.org/a.pth", "ftp://example.org/a.pth"])
def test_a_redirect_away_from_https_is_refused(target: str) -> None:
    request = urllib.request.Request("https://example.org/a.pth")
    redirects = download._SecureRedirects()
    with pytest.raises(urllib.error.HTTPError, match=re.escape(target)) as refused:
        redirects.redirect_request(request, None, 302, "Found", {}, target)
    refused.value.close()
    followed = redirects.redirect_request(request, None, 302, "Found", {}, "https://example.org/b.pth")
    assert followed.full_url == "https://example.org/b.pth"


def test_the_proxy_of_the_environment_is_used(
    checkpoint: Checkpoint, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/mnet.pth"))
    pull(dataclasses.replace(checkpoint, url="http://nowhere.invalid/mnet.pth"))
    assert site.paths == ["http://nowhere.invalid/mnet.pth"]


# --- going on where an earlier pull stopped


def test_a_connection_that_drops_is_gone_on_with(
    checkpoint: Checkpoint, site: Any, store: Path, seen: Any, left: Callable[[], set[str]]
) -> None:
    site.answer = site.cut_after(123_456)
    with pytest.raises(DownloadError, match=rf"after 123456 of {len(site.data)} bytes — run it again") as failure:
        pull(checkpoint)
    assert failure.value.exit_code == 6
    assert site.url in str(failure.value)
    assert left() == {"mnet.pth.part"}
    assert weights.look(checkpoint).state is State.PARTIAL
    site.answer = site.rest
    progress = seen()
    assert pull(checkpoint, progress).path.read_bytes() == site.data
    assert site.asked == [None, "bytes=123456-"]
    assert progress.steps == 300
    assert progress.said == ["going on after 0.1 MB, where an earlier call stopped"]
    assert left() == {"mnet.pth", "source.json"}


def test_an_interrupted_pull_is_gone_on_with(checkpoint: Checkpoint, site: Any, store: Path, seen: Any) -> None:
    progress = seen(stop_after=200)
    with pytest.raises(KeyboardInterrupt):
        pull(checkpoint, progress)
    kept = (store / "mnet.pth.part").read_bytes()
    assert len(kept) >= 200_000
    assert site.data.startswith(kept)
    (warning,) = progress.warned
    assert "mnet.pth.part" in warning
    assert "facex weights pull mnet goes on" in warning
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == [None, f"bytes={len(kept)}-"]


@pytest.mark.parametrize("unit", [1, 1000, 300_122])
def test_a_part_of_any_length_is_gone_on_with(
    checkpoint: Checkpoint, site: Any, store: Path, unit: int, begin: Callable[[bytes], Path]
) -> None:
    begin(site.data[:unit])
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == [f"bytes={unit}-"]


def test_an_empty_part_is_no_reason_to_ask_for_a_rest(
    checkpoint: Checkpoint, site: Any, store: Path, begin: Callable[[bytes], Path]
) -> None:
    begin(b"")
    pull(checkpoint)
    assert site.asked == [None]


def test_a_server_without_ranges_starts_over(
    checkpoint: Checkpoint, site: Any, store: Path, seen: Any, begin: Callable[[bytes], Path]
) -> None:
    begin(b"x" * 1000)
    site.answer = site.whole
    progress = seen()
    assert pull(checkpoint, progress).path.read_bytes() == site.data
    assert site.asked == ["bytes=1000-"]
    assert progress.warned == ["the server cannot send a rest: starting over"]
    assert progress.steps == 300


def test_a_refused_range_starts_over(
    checkpoint: Checkpoint, site: Any, store: Path, begin: Callable[[bytes], Path]
) -> None:
    def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
        site.send(handler, 416, b"") if start else site.rest(handler, start)

    site.answer = answer
    begin(b"x" * 1000)
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("stated", ["bytes 0-", "bytes 500-", "bytes */9", ""])
def test_another_part_than_the_one_asked_for_is_not_appended(
    checkpoint: Checkpoint, site: Any, store: Path, stated: str, begin: Callable[[bytes], Path]
) -> None:
    def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
        site.send(handler, 206, site.data if stated == "bytes 0-" else site.data[500:], stated) if start else site.rest(
            handler, 0
        )

    site.answer = answer
    begin(site.data[:1000])
    assert pull(checkpoint).path.read_bytes() == site.data


def test_a_part_that_nobody_asked_for_is_refused(checkpoint: Checkpoint, site: Any, store: Path) -> None:
    site.answer = lambda handler, _: site.send(handler, 206, site.data[500:], "bytes 500-")
    with pytest.raises(DownloadError, match="a part that nobody asked for"):
        pull(checkpoint)


def test_a_part_that_is_too_long_starts_over(
    checkpoint: Checkpoint, site: Any, store: Path, begin: Callable[[bytes], Path]
) -> None:
    begin(site.data + b"x")
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == [None]


def test_a_part_that_is_whole_needs_no_connection(
    offline: Checkpoint, store: Path, site: Any, left: Callable[[], set[str]], begin: Callable[[bytes], Path]
) -> None:
    begin(site.data)
    found = pull(offline)
    assert found.path.read_bytes() == site.data
    assert left() == {"mnet.pth", "source.json"}


def test_a_part_of_full_length_that_is_wrong_starts_over(
    checkpoint: Checkpoint, site: Any, store: Path, begin: Callable[[bytes], Path]
) -> None:
    begin(b"x" * len(site.data))
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == [None]
