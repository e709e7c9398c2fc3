"""Every error that facex raises on purpose, and the exit code each one becomes.

    FacexError
    ├── InputError            2   the user's input is wrong: an option, a file, a photograph
    │   ├── UsageError        2     an option or a configuration key
    │   ├── CheckpointError   2     a checkpoint that cannot be read or is not a known detector
    │   ├── PhotographError   2     a photograph or a folder of them
    │   └── ArtifactError     2     an existing artifact, manifest or ground truth
    ├── MissingExtraError     5   an optional package is needed and not installed
    └── BackendError          6   a converter, a runtime or the file system failed
        ├── DeviceError       6     a device cannot be reached, or fails, or its answer is no measurement
        ├── DownloadError     6     a file cannot be fetched, or is not the one that was expected
        └── UnsupportedOperatorError  6  the lowering has no function for an operator

Failed checks are not errors: they are findings with a verdict (`facex.types.Finding`), and become exit code 3
(parity) or 4 (budget) when the run is over. `SessionUnavailableError` stands outside the tree: it turns checks into
skipped ones and never reaches the user as an error.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

EXIT_OK = 0
EXIT_INPUT = 2
EXIT_PARITY = 3
EXIT_BUDGET = 4
EXIT_MISSING_EXTRA = 5
EXIT_BACKEND = 6
EXIT_INTERRUPTED = 130


class FacexError(Exception):
    """The root: what is wrong, where, and what to do, in one line of text.

    Args:
        what: one sentence that names the thing and its fault.
        hint: what the user can do about it.
    """

    exit_code = EXIT_BACKEND

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.stage: str | None = None

    def __str__(self) -> str:
        where = f"[{self.stage}] " if self.stage else ""
        return " ".join(f"{where}{self.what}{' — ' + self.hint if self.hint else ''}".split())


class InputError(FacexError):
    """What the user gave cannot be used."""

    exit_code = EXIT_INPUT


class UsageError(InputError):
    """An option or a configuration key is unknown, impossible or contradictory."""


class CheckpointError(InputError):
    """A checkpoint cannot be read, or is not a detector that facex knows."""


class PhotographError(InputError):
    """A photograph, or a folder of them, cannot be used."""


class ArtifactError(InputError):
    """An existing artifact, manifest or ground-truth file cannot be used."""


class MissingExtraError(FacexError):
    """An optional package is needed and is not installed."""

    exit_code = EXIT_MISSING_EXTRA

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'", hint=f"pip install 'facex[{extra}]'")


class BackendError(FacexError):
    """A converter, a runtime or the file system failed on input that facex believes to be good."""

    exit_code = EXIT_BACKEND


class DeviceError(BackendError):
    """A device cannot be reached, fails on the way, or answers with something that is no measurement."""


class DownloadError(BackendError):
    """A file cannot be fetched from the network, or what came is not the file that was expected."""


class UnsupportedOperatorError(BackendError):
    """The lowering meets an operator that it has no function for."""


class SessionUnavailableError(Exception):
    """An artifact cannot be run on this machine, for a reason that is nobody's fault; its checks are skipped."""


def first_line(error: BaseException) -> str:
    """The first line of a foreign exception's message that says anything, at most 300 characters of it."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), "no message")


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Name the stage in every error that leaves the block, and turn foreign exceptions into `BackendError`.

    Raises:
        FacexError: the error raised inside, with its `stage` set by the innermost block.
        SessionUnavailableError: as it is.
        BackendError: for any other exception, chained to it.
    """
    try:
        yield
    except FacexError as error:
        error.stage = error.stage or name
        raise
    except SessionUnavailableError:
        raise
    except OSError as error:
        failure = BackendError(
            f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}",
            hint="free some space and run again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "",
        )
        failure.stage = name
        raise failure from error
    except MemoryError as error:
        failure = BackendError("out of memory", hint="use a smaller --size, or fewer artifacts at once")
        failure.stage = name
        raise failure from error
    # A backend may raise anything at all; the boundary is where it becomes ours, with its cause kept.
    except Exception as error:
        failure = BackendError(
            f"{type(error).__name__}: {first_line(error)}", hint="run again with --debug to see the traceback"
        )
        failure.stage = name
        raise failure from error
