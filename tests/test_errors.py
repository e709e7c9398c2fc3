"""The tree of errors, their exit codes, and what a stage makes of foreign exceptions."""

from __future__ import annotations

import errno
import re

import pytest

from facex import errors
from facex.errors import (
    ArtifactError,
    BackendError,
    CheckpointError,
    DeviceError,
    DownloadError,
    FacexError,
    InputError,
    MissingExtraError,
    PhotographError,
    SessionUnavailableError,
    UnsupportedOperatorError,
    UsageError,
    stage,
)

PARENTS = {
    InputError: (FacexError, 2),
    UsageError: (InputError, 2),
    CheckpointError: (InputError, 2),
    PhotographError: (InputError, 2),
    ArtifactError: (InputError, 2),
    MissingExtraError: (FacexError, 5),
    BackendError: (FacexError, 6),
    DeviceError: (BackendError, 6),
    DownloadError: (BackendError, 6),
    UnsupportedOperatorError: (BackendError, 6),
}


def every_subclass(root: type[Exception]) -> set[type[Exception]]:
    return {root}.union(*(every_subclass(child) for child in root.__subclasses__()))


@pytest.mark.parametrize("error", PARENTS, ids=lambda e: e.__name__)
def test_parents_and_exit_codes(error: type[FacexError]) -> None:
    parent, code = PARENTS[error]
    assert error.__base__ is parent
    assert error.exit_code == code


def test_the_tree_is_whole_and_drawn_in_the_docstring() -> None:
    assert every_subclass(FacexError) == {FacexError, *PARENTS}
    drawn = dict(re.findall(r"── (\w+) +(\d)", errors.__doc__ or ""))
    assert drawn == {error.__name__: str(code) for error, (_, code) in PARENTS.items()}


def test_exit_codes_are_the_published_interface() -> None:
    assert (errors.EXIT_OK, errors.EXIT_INPUT, errors.EXIT_PARITY) == (0, 2, 3)
    assert (errors.EXIT_BUDGET, errors.EXIT_MISSING_EXTRA, errors.EXIT_BACKEND) == (4, 5, 6)
    assert errors.EXIT_INTERRUPTED == 130


def test_a_missing_session_is_no_facex_error() -> None:
    assert SessionUnavailableError.__base__ is Exception


# --- the message


@pytest.mark.parametrize(
    ("what", "hint", "text"),
    [
        ("a is wrong", "", "a is wrong"),
        ("a is wrong", "do b", "a is wrong — do b"),
        ("two\nlines\r\n\tand  spaces", "more\nlines", "two lines and spaces — more lines"),
    ],
)
def test_a_message_is_one_line(what: str, hint: str, text: str) -> None:
    error = UsageError(what, hint=hint)
    assert str(error) == text
    error.stage = "onnx"
    assert str(error) == f"[onnx] {text}"
    assert (error.what, error.hint) == (what, hint)


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("tensorflow", extra="tflite", purpose="--target tflite")
    assert str(error) == "--target tflite needs the package 'tensorflow' — pip install 'facex[tflite]'"


# --- stages


def test_a_stage_without_trouble_changes_nothing() -> None:
    with stage("onnx"):
        value = 3
    assert value == 3


@pytest.mark.parametrize("error", PARENTS, ids=lambda e: e.__name__)
def test_a_stage_names_itself_in_our_errors_and_passes_them_on(error: type[FacexError]) -> None:
    given = MissingExtraError("a", extra="b", purpose="c") if error is MissingExtraError else error("x", hint="y")
    with pytest.raises(error) as caught, stage("tflite"):
        raise given
    assert caught.value is given
    assert str(given).startswith("[tflite] ")


def test_the_innermost_stage_is_named() -> None:
    with pytest.raises(UsageError, match=r"^\[inner\] x$"), stage("outer"), stage("inner"):
        raise UsageError("x")
    with pytest.raises(BackendError, match=r"^\[inner\] KeyError: 'x'"), stage("outer"), stage("inner"):
        raise KeyError("x")


@pytest.mark.parametrize("foreign", [ValueError("bad"), RuntimeError("bad"), AssertionError("bad"), KeyError("bad")])
def test_a_foreign_exception_becomes_a_backend_error_with_its_cause(foreign: Exception) -> None:
    with pytest.raises(BackendError) as caught, stage("coreml"):
        raise foreign
    assert caught.value.__cause__ is foreign
    assert caught.value.exit_code == 6
    assert str(caught.value).startswith(f"[coreml] {type(foreign).__name__}: ")
    assert "bad" in str(caught.value)
    assert "--debug" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("", "RuntimeError: no message"),
        ("\n \n", "RuntimeError: no message"),
        ("\n  first line\nsecond line", "RuntimeError: first line"),
        ("x" * 5000, f"RuntimeError: {'x' * 300}"),
    ],
)
def test_only_the_first_line_of_a_foreign_message_is_shown(message: str, shown: str) -> None:
    with pytest.raises(BackendError) as caught, stage("onnx"):
        raise RuntimeError(message)
    assert caught.value.what == shown
    assert len(str(caught.value).splitlines()) == 1
    assert "second" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so(number: int) -> None:
    with pytest.raises(BackendError) as caught, stage("onnx"):
        raise OSError(number, "No space left on device", "build/model.onnx")
    assert str(caught.value) == ("[onnx] No space left on device: build/model.onnx — free some space and run again")
    assert isinstance(caught.value.__cause__, OSError)


def test_other_file_errors_give_no_advice_about_space() -> None:
    with pytest.raises(BackendError) as caught, stage("onnx"):
        raise PermissionError(errno.EACCES, "Permission denied", "build")
    assert str(caught.value) == "[onnx] Permission denied: build"
    with pytest.raises(BackendError) as caught, stage("onnx"):
        raise OSError("cannot map the file")
    assert str(caught.value) == "[onnx] cannot map the file"


def test_out_of_memory() -> None:
    with (
        pytest.raises(BackendError, match=r"^\[tflite\] out of memory — use a smaller --size") as caught,
        stage("tflite"),
    ):
        raise MemoryError
    assert isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit, SessionUnavailableError])
def test_what_is_nobodys_fault_passes_a_stage(passing: type[BaseException]) -> None:
    given = passing("x")
    with pytest.raises(passing) as caught, stage("onnx"):
        raise given
    assert caught.value is given
