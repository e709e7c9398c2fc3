"""Keep native libraries from writing over the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what the block writes to stdout and stderr; with FACEX_DEBUG set (`--debug`), pass it on to stderr after it.

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
        finally:
            logging.disable(disabled)
            _restore(saved)
            if os.environ.get("FACEX_DEBUG"):
                heard.seek(0)
                os.write(2, heard.read())
            for copy in saved.values():
                os.close(copy)


def _restore(saved: dict[int, int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for fd, copy in saved.items():
        os.dup2(copy, fd)
