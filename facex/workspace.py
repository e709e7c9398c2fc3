"""The folder below `--out` where a run builds, and the promotion of what it built: all of it or nothing.

In `out/facex-work`, `.facex` says that the folder is facex's; `*.failed` is what did not pass in the last run that
finished; `build-<process>-…/` is what a run is building, and stays behind only when it is killed; `reconstruct-…` is
how far an interrupted run came, for the next one; `replaced-…/` is what the promotion under way replaces.

Whole folders that are replaced, such as bundles, are built in `.<name>-<process>-…/` beside them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from facex.errors import BackendError, UsageError, stage
from facex.types import FAILED_SUFFIX

FOLDER = "facex-work"
MARKER = ".facex"
STATE_PREFIX = "reconstruct-"
"""Files in which long work that was interrupted waits to be gone on with."""


def check_folder(out: Path) -> None:
    """Refuse an `out` that cannot be a folder.

    Raises:
        UsageError: it, or a folder that it would be in, is a file.
    """
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out {out}: {'' if path == out else f'{path} '}is a file", hint="name a folder")


def check(out: Path) -> None:
    """Refuse an `out` that cannot be a folder, and a work folder that somebody else made.

    Raises:
        UsageError: either.
    """
    check_folder(out)
    work = out / FOLDER
    if work.exists() and not (work / MARKER).exists():
        raise UsageError(f"{work}: exists and is not facex's", hint="choose another --out, or rename that folder")


@contextlib.contextmanager
def building(out: Path) -> Iterator[Path]:
    """A new folder to build in, removed at the end however that comes, with every folder that it needed and left empty.

    Raises:
        BackendError: the file system refuses it.
    """
    work = out / FOLDER
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    build: Path | None = None
    try:
        with stage("prepare"):
            work.mkdir(parents=True, exist_ok=True)
            (work / MARKER).touch()
            # a name of its own: two runs at once must not promote one another's files
            build = scratch(work, "build")
        yield build
    finally:
        if build is not None:
            shutil.rmtree(build, ignore_errors=True)
        _tidy(work)
        for folder in created:
            with contextlib.suppress(OSError):  # not empty: what is in it was promoted, or is not ours
                folder.rmdir()


def scratch(parent: Path, name: str) -> Path:
    """A new folder in `parent`, named after `name` and this process; what killed processes left of it is removed."""
    for folder in parent.glob(f"{glob.escape(name)}-*"):
        owner = re.fullmatch(r"(\d+)-[a-z0-9_]{8}", folder.name.removeprefix(f"{name}-"))
        if owner and not _runs(int(owner[1])):
            shutil.rmtree(folder)
    return Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=parent))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


def _tidy(work: Path) -> None:
    """Remove a work folder that holds nothing but its marker."""
    if work.is_dir() and {path.name for path in work.iterdir()} <= {MARKER}:
        (work / MARKER).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            work.rmdir()


def promote(moves: Sequence[tuple[Path, Path]], out: Path) -> None:
    """Move finished files and folders into place, all of them or none, and forget what failed in an earlier run.

    A file that replaces another does it in one step, where the file system knows hard links.

    Args:
        moves: from, to; all on one file system.
        out: the folder whose work folder holds what is replaced until everything is in place.

    Raises:
        OSError: one could not be moved; everything is as it was.
        BackendError: the same, and what had been replaced could not be put back; the message says where it is.
    """
    work = out / FOLDER
    aside = Path(tempfile.mkdtemp(prefix="replaced-", dir=work))
    kept = [aside / str(i) for i in range(len(moves))]
    try:
        for (source, destination), old in zip(moves, kept, strict=True):
            _set_aside(destination, old)
            os.replace(source, destination)
    except BaseException as error:
        _put_back(moves, kept, aside, error)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    for state in work.glob(f"{STATE_PREFIX}*"):
        state.unlink(missing_ok=True)
    promoted = {destination for _, destination in moves}
    for path in work.glob(f"*{FAILED_SUFFIX}"):
        if path not in promoted:
            remove(path)


def _set_aside(path: Path, kept: Path) -> None:
    if path.is_file() and not path.is_symlink():
        with contextlib.suppress(OSError):  # a file system without hard links
            os.link(path, kept)
            return
    if os.path.lexists(path):
        os.rename(path, kept)


def _put_back(moves: Sequence[tuple[Path, Path]], kept: Sequence[Path], aside: Path, error: BaseException) -> None:
    try:
        for (source, destination), old in reversed(list(zip(moves, kept, strict=True))):
            if os.path.lexists(destination) and not os.path.lexists(source):
                os.rename(destination, source)
            if os.path.lexists(old):
                os.replace(old, destination)
                old.unlink(missing_ok=True)  # still there after a rename onto a hard link of itself, which does nothing
        aside.rmdir()
    except OSError as failure:
        raise BackendError(
            f"{failure.strerror or failure} while undoing '{error}'; what was replaced is in {aside}",
            hint="move it back by hand",
        ) from failure


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder beside another one, removed at the end unless it was moved, with the parents that it needed."""
    created = [parent for parent in folder.absolute().parents if not parent.exists()]
    build: Path | None = None
    try:
        with stage("prepare"):
            folder.absolute().parent.mkdir(parents=True, exist_ok=True)
            build = scratch(folder.absolute().parent, f".{folder.name}")
            build.chmod(0o755)  # mkdtemp lets nobody else in
        yield build
    finally:
        if build is not None:
            shutil.rmtree(build, ignore_errors=True)
        for parent in created:
            with contextlib.suppress(OSError):  # not empty: the bundle is in it
                parent.rmdir()


def promote_folders(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move built folders into place, all of them or none.

    Raises:
        OSError: one could not be moved; everything is as it was.
        BackendError: the same, and what had been there could not be put back; the message says where it is.
    """
    done: list[tuple[Path, Path, Path | None]] = []
    try:
        for build, folder in moves:
            aside: Path | None = None
            if os.path.lexists(folder):
                aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-replaced-", dir=folder.absolute().parent))
                done.append((build, folder, aside))
                os.rename(folder, aside / folder.name)
            else:
                done.append((build, folder, None))
            os.rename(build, folder)
    except BaseException as error:
        _put_folders_back(done, error)
        raise
    for _, _, aside in done:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _put_folders_back(done: Sequence[tuple[Path, Path, Path | None]], error: BaseException) -> None:
    for build, folder, aside in reversed(done):
        try:
            if not build.exists() and folder.exists():
                os.rename(folder, build)
            if aside is not None:
                if (aside / folder.name).exists():
                    os.rename(aside / folder.name, folder)
                aside.rmdir()
        except OSError as failure:
            raise BackendError(
                f"{failure.strerror or failure} while undoing '{error}'; what was replaced is in {aside}",
                hint="move it back by hand",
            ) from failure
