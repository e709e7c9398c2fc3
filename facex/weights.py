"""Public checkpoints: a catalogue with checksums, licences and contracts, and their copies in the user's cache.

In `<cache>/weights/<name>/` are `<name>.pth`; `source.json`, which says where it came from and under which licence;
`<name>.pth.part` while it is incomplete; and `.lock`, which whoever fetches it holds.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from facex import cache, download
from facex.errors import BackendError, UsageError, stage
from facex.manifest import sha256_of, write_text
from facex.progress import Progress, Silent
from facex.types import as_plain

PART_SUFFIX = ".part"
RECORD = "source.json"
LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class Checkpoint(download.Source):
    """A checkpoint that anybody can fetch.

    Attributes:
        description: what it is, for people.
        repository: the page of those who trained it.
        licence: SPDX identifier of the licence that the repository states.
        licence_url: where it states it.
        contract: name of a contract option of the command line -> its value, for every one that the weights depend on.
    """

    name: str
    description: str
    repository: str
    licence: str
    licence_url: str
    contract: Mapping[str, str]

    @property
    def options(self) -> list[str]:
        """The contract as options of the command line."""
        return [word for key, value in self.contract.items() for word in (f"--{key.replace('_', '-')}", value)]


class State(enum.Enum):
    """What the cache holds of a checkpoint."""

    ABSENT = "absent"
    PARTIAL = "partial"
    DAMAGED = "damaged"
    VERIFIED = "verified"


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The place of a checkpoint in the cache, and what is there.

    Attributes:
        fetched: whether this call fetched it.
    """

    checkpoint: Checkpoint
    path: Path
    state: State
    fetched: bool = False

    @property
    def command(self) -> str:
        """The command that exports it as it was trained."""
        return shlex.join(["facex", "export", str(self.path), *self.checkpoint.options])

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        own = {"path": self.path.as_posix(), "state": self.state.value, "fetched": self.fetched}
        return {**as_plain(self.checkpoint), **own, "command": self.command}


def catalogue() -> tuple[Checkpoint, ...]:
    """Every checkpoint that facex knows an address, a checksum and a licence of.

    Raises:
        ValueError: an entry is not what it must be; a fault of facex.
    """
    data = json.loads(resources.files("facex").joinpath("weights.json").read_text(encoding="utf-8"))
    return tuple(parse(entry) for entry in data["checkpoints"])


def parse(entry: Mapping[str, Any]) -> Checkpoint:
    """An entry of the catalogue, checked: above all that it is fetched over https and has a checksum.

    Raises:
        ValueError: a value is missing, unknown or malformed.
    """
    known = {"name", "description", "url", "sha256", "size_bytes", "repository", "licence", "licence_url", "contract"}
    if set(entry) != known:
        raise ValueError(f"weights.json: keys differ from those of a checkpoint: {sorted(known ^ set(entry))}")
    rules = {
        "name": r"[a-z][a-z0-9_]*",
        "url": r"https://[\w.-]+/[\w./%-]+",
        "sha256": r"[0-9a-f]{64}",
        "size_bytes": r"[1-9]\d*",
        "repository": r"https://\S+",
        "licence": r"[\w.+-]+",
        "licence_url": r"https://\S+",
        "description": r"\S.*",
    }
    for key, rule in rules.items():
        kind = int if key == "size_bytes" else str
        if not isinstance(entry[key], kind) or not re.fullmatch(rule, str(entry[key])):
            raise ValueError(f"weights.json: {entry['name']}: {key} cannot be {entry[key]!r}")
    return Checkpoint(**entry)


def find(name: str) -> Checkpoint:
    """The checkpoint of that name.

    Raises:
        UsageError: there is none.
    """
    known = {checkpoint.name: checkpoint for checkpoint in catalogue()}
    if name not in known:
        raise UsageError(f"no checkpoint is called '{name}'", hint=f"there are {', '.join(known) or 'none'}")
    return known[name]


def look(checkpoint: Checkpoint) -> Copy:
    """What the cache holds of a checkpoint now, read and compared with its checksum.

    Raises:
        BackendError: the file is there and cannot be read.
    """
    path = cache.folder() / "weights" / checkpoint.name / f"{checkpoint.name}.pth"
    with stage("weights"):
        if path.is_file():
            state = State.VERIFIED if sha256_of(path) == checkpoint.sha256 else State.DAMAGED
        else:
            state = State.PARTIAL if _part(path).is_file() else State.ABSENT
    return Copy(checkpoint=checkpoint, path=path, state=state)


def pull(checkpoint: Checkpoint, progress: Progress | None = None) -> Copy:
    """Bring a checkpoint into the cache, verified; one that is there already costs no connection.

    An interrupted call leaves what came so far, and the next one goes on from there. Of two calls at once, the second
    waits and finds what the first has fetched.

    Raises:
        DownloadError: the address cannot be read, or gives another file.
        BackendError: the cache cannot be written.
    """
    progress = progress or Silent()
    found = look(checkpoint)
    if found.state is State.VERIFIED:
        return found
    with stage("weights"), _alone(found.path.parent, progress):
        found = look(checkpoint)  # again: whoever held the lock may have fetched it
        if found.state is State.VERIFIED:
            return found
        if found.state is State.DAMAGED:
            progress.warn(f"{found.path}: is damaged, its sha256 is not the expected one; fetching it again")
        _fetch(checkpoint, found.path, progress)
        return Copy(checkpoint=checkpoint, path=found.path, state=State.VERIFIED, fetched=True)


def _fetch(checkpoint: Checkpoint, path: Path, progress: Progress) -> None:
    part = _part(path)
    try:
        download.fetch(checkpoint, part, progress)
    except KeyboardInterrupt:
        if part.exists():
            progress.warn(f"{part}: keeps what came so far; facex weights pull {checkpoint.name} goes on from there")
        raise
    record = {"file": path.name, **as_plain(checkpoint)}
    write_text(path.with_name(RECORD), json.dumps(record, indent=2) + "\n")  # first: no weights without their licence
    os.replace(part, path)


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART_SUFFIX)


@contextlib.contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Make a folder and hold its lock, which the system releases however this process ends.

    Raises:
        BackendError: the file system refuses either.
    """
    import fcntl

    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((folder / LOCK).open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.start(f"waiting for another facex that fetches {folder.name}")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise BackendError(
                f"{folder}: cannot be made or locked: {error.strerror or error}",
                hint=f"set {cache.VARIABLE} to a folder on a local disk with room, which you may write to",
            ) from error
        yield
