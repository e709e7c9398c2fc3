"""Keep native libraries from writing over the terminal, and give their words back when something goes wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Collect what the block writes to stdout and stderr; on an exception, or with FACEX_DEBUG, pass it on to stderr.

    TensorFlow, coremltools and LiteRT log from C++ before any Python setting reaches them, and stdout is reserved for
    `--json`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stdout.flush()
    sys.stderr.flush()
    disabled = logging.root.manager.disable
    with tempfile.TemporaryFile() as heard:
        saved = {fd: os.dup(fd) for fd in (1, 2)}
        try:
            for fd in saved:
                os.dup2(heard.fileno(), fd)
            logging.disable(logging.WARNING)
            # where Python's streams are not those descriptors, as in a notebook, they are collected too
            python = os.fdopen(os.dup(heard.fileno()), "w", encoding="utf-8", errors="replace")
            with (
                python,
                contextlib.redirect_stdout(python),
                contextlib.redirect_stderr(python),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
        except Exception:
            _restore(saved)
            _pass_on(heard)
            raise
        else:
            _restore(saved)
            if os.environ.get("FACEX_DEBUG"):
                _pass_on(heard)
        finally:
            logging.disable(disabled)
            _restore(saved)
            for copy in saved.values():
                os.close(copy)


def _restore(saved: dict[int, int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for fd, copy in saved.items():
        os.dup2(copy, fd)


def _pass_on(heard: IO[bytes]) -> None:
    if os.environ.get("FACEX_DEBUG"):
        heard.seek(0)
        os.write(2, heard.read())
