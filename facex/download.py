"""One file from the network: gone on with where it stopped, and held against its checksum.

The only module of facex that opens a connection.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from facex import __version__
from facex.errors import DownloadError
from facex.manifest import sha256_of
from facex.progress import Progress

TIMEOUT_S = 30.0
"""Of every wait for the server: for the connection, and for the next bytes."""

CHUNK_BYTES = 1 << 16
BYTES_PER_STEP = 1000
"""One step of the progress."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file on the network, and what it must be.

    Attributes:
        url: an address whose content never changes.
        sha256: of the whole file, 64 hexadecimal digits.
    """

    url: str
    sha256: str
    size_bytes: int


def fetch(source: Source, part: Path, progress: Progress) -> None:
    """Make `part`, which may already hold a beginning of the file, the whole and verified file.

    Whatever ends it early leaves in `part` what the next call goes on from; only what is known to be wrong is removed.
    Never more than one byte over the expected size is read. Two calls at once must not share a `part`.

    Raises:
        DownloadError: the address cannot be read, or gives another file.
        OSError: `part` cannot be read or written.
    """
    begun = _begun(source, part)
    host = urllib.parse.urlsplit(source.url).hostname
    progress.start(f"fetching {source.size_bytes / 1e6:.1f} MB from {host}, kB", source.size_bytes // BYTES_PER_STEP)
    if begun < source.size_bytes:
        _receive(source, part, begun, progress)
    found = sha256_of(part)
    if found != source.sha256:
        part.unlink()
        raise DownloadError(
            f"{source.url}: gives a file with sha256 {found} where {source.sha256} is expected; it was removed",
            hint="run it again, in case it was damaged on the way; if that gives the same sum, the file was changed",
        )


def _begun(source: Source, part: Path) -> int:
    """Bytes of an earlier call that can be gone on from; a `part` that cannot is removed."""
    if not part.exists():
        return 0
    size = part.stat().st_size
    if size < source.size_bytes or (size == source.size_bytes and sha256_of(part) == source.sha256):
        return size
    part.unlink()
    return 0


def _receive(source: Source, part: Path, begun: int, progress: Progress) -> None:
    """Append to `part` what is missing, or write it anew where the server cannot send a rest."""
    response, start = _open(source, begun)
    with response:
        declared: int | None = response.length  # of this response's body; unknown for a chunked one
        if declared is not None and start + declared != source.size_bytes:
            raise _refused(source, f"holds {start + declared} bytes, not {source.size_bytes}")
        if start:
            progress.say(f"going on after {start / 1e6:.1f} MB, where an earlier call stopped")
        elif begun:
            progress.warn("the server cannot send a rest: starting over")
        with part.open("ab" if start else "wb") as file:
            _advance(progress, 0, start)
            done = start
            for chunk in _chunks(response, source, done):
                file.write(chunk)
                _advance(progress, done, done + len(chunk))
                done += len(chunk)
            file.flush()
            os.fsync(file.fileno())  # before it is renamed: else a power cut could leave a whole name and half a file
    if done > source.size_bytes:
        part.unlink()
        raise _refused(source, f"holds more than {source.size_bytes} bytes")
    if done < source.size_bytes:
        raise _cut(source, done, "the connection was closed")


def _open(source: Source, offset: int) -> tuple[http.client.HTTPResponse, int]:
    """A response that sends the file from a byte on, and that byte: `offset`, or 0 where the server has no ranges."""
    headers = {"User-Agent": f"facex/{__version__}"} | ({"Range": f"bytes={offset}-"} if offset else {})
    request = urllib.request.Request(source.url, headers=headers)  # noqa: S310 - the catalogue holds https alone
    opener = urllib.request.build_opener(_SecureRedirects)  # with the proxies of the environment
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if offset and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(source, 0)
        raise _refused(source, f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _refused(source, f"cannot be reached: {_reason(error)}") from error
    start = _first_byte(response)
    if start in (0, offset):
        return response, start
    response.close()
    if offset:
        return _open(source, 0)
    raise _refused(source, "the server sends a part that nobody asked for")


def _first_byte(response: http.client.HTTPResponse) -> int:
    """Where in the file a response begins; -1 where it does not say."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    stated = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(stated[1]) if stated else -1


def _chunks(response: http.client.HTTPResponse, source: Source, done: int) -> Iterator[bytes]:
    """What comes, as it comes, and at most one byte more than the file should have."""
    while (wanted := source.size_bytes + 1 - done) > 0:
        try:
            chunk = response.read1(min(CHUNK_BYTES, wanted))
        except (OSError, http.client.HTTPException) as error:
            raise _cut(source, done, _reason(error)) from error
        if not chunk:
            return
        done += len(chunk)
        yield chunk


def _advance(progress: Progress, before: int, after: int) -> None:
    for _ in range(after // BYTES_PER_STEP - before // BYTES_PER_STEP):
        progress.advance()


def _refused(source: Source, fault: str) -> DownloadError:
    by_hand = f"fetch it by hand, check that its sha256 is {source.sha256}, and run facex export PATH"
    return DownloadError(f"{source.url}: {fault}", hint=f"try again later, or {by_hand}")


def _cut(source: Source, done: int, fault: str) -> DownloadError:
    return DownloadError(
        f"{source.url}: {fault} after {done} of {source.size_bytes} bytes", hint="run it again: it goes on from there"
    )


def _reason(error: BaseException) -> str:
    """What a network error says, without its number and its wrapping."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none from https to something less."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request to the new address."""
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise urllib.error.HTTPError(req.full_url, code, f"and a redirect to {newurl}, not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
