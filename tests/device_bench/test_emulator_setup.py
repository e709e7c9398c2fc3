"""The preparation of the emulated machine: what it shows is what it does, once, and from where it stopped."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from facex.device_bench import emulator, emulator_setup
from facex.errors import BackendError, MissingSetupError, UsageError
from facex.progress import Silent

DEBIAN = 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
UBUNTU = 'ID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n'
APT = """#!/bin/sh
case "$*" in
  *indextargets*) cat "$INDEX";;
  update) test -s "$APT_CONFIG" -a -s apt/sources.list -a -d apt/state/lists/partial;;
  *--download-only*)
    test -s "$APT_CONFIG" || exit 9
    test -e "$BROKEN" && echo "W: slow" >&2 && echo "E: Unable to fetch some archives" >&2 && exit 100
    for last; do :; done
    case "$last" in *:arm64) name=python_1_arm64;; *) name=qemu-user_1_amd64;; esac
    echo "$*" > apt/cache/archives/$name.deb;;
  *) exit 8;;
esac
"""
DPKG = """#!/bin/sh
case "$1" in
  --fsys-tarfile) mkdir -p t/usr/bin && echo "$2" > t/usr/bin/qemu-aarch64-static
                  chmod +x t/usr/bin/qemu-aarch64-static && tar -C t -c ./usr && rm -r t;;
  -x) mkdir -p "$3/usr/bin" "$3/usr/lib" && cp "$2" "$3/usr/bin/python3.11";;
esac
"""
PIP = """#!/bin/sh
while [ $# -gt 0 ]; do test "$1" = --target && mkdir -p "$2" && echo "$*" > "$2/asked"; shift; done
"""

Place = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """`place()` makes this an x86-64 Debian with tools that do nothing but leave their traces; gives the cache."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG), ("python", PIP)):
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)

    def make(release: str = DEBIAN, index: str = "http://mirror/debian/ bookworm main\n") -> Path:
        (tmp_path / "os-release").write_text(release, encoding="utf-8")
        (tmp_path / "index").write_text(index, encoding="utf-8")
        monkeypatch.setattr(emulator_setup, "_OS_RELEASE", tmp_path / "os-release")
        monkeypatch.setattr(platform, "system", lambda: "Linux")
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(sys, "executable", str(tools / "python"))
        monkeypatch.setattr(emulator_setup, "_try", lambda preparation: None)
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        monkeypatch.setenv("INDEX", str(tmp_path / "index"))
        monkeypatch.setenv("BROKEN", str(tmp_path / "broken"))
        monkeypatch.setenv("FACEX_CACHE", str(tmp_path / "cache of someone"))
        return tmp_path

    return make


def _tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".done")
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files if path.name != ".lock"}


def test_planning_changes_nothing(place: Place) -> None:
    root = place()
    preparation = emulator_setup.plan()
    assert not preparation.is_ready
    assert not (root / "cache of someone").exists()


def test_what_is_shown_does_what_is_done(place: Place) -> None:
    place()
    preparation = emulator_setup.plan()
    emulator_setup.prepare(preparation, Silent())
    assert preparation.is_ready
    done = _tree(preparation.folder)
    assert {"ready.json", "usr/bin/qemu-aarch64-static", "system/usr/bin/python3.11"} < done.keys()
    assert not any(name.startswith("apt/") for name in done)
    assert (preparation.folder / "system" / "lib").resolve() == (preparation.folder / "system" / "usr" / "lib")
    shutil.rmtree(preparation.folder)
    subprocess.run(["/bin/sh"], input=preparation.script(), text=True, check=True, cwd="/")
    assert _tree(preparation.folder) == done


def test_versions_are_pinned_and_of_the_distributions_python(place: Place) -> None:
    place()
    preparation = emulator_setup.plan()
    emulator_setup.prepare(preparation, Silent())
    done = _tree(preparation.folder)
    for site in ("site-arm64", "site-x86_64"):
        assert f"ai-edge-litert=={emulator.LITERT} numpy=={emulator_setup.NUMPY}" in done[f"{site}/asked"]
    shown = preparation.script()
    assert "--python-version 3.11 --platform manylinux_2_27_aarch64" in shown
    assert "python3.11-minimal:arm64 libpython3.11-stdlib:arm64 libstdc++6:arm64" in shown


def test_a_second_time_nothing_is_run(place: Place) -> None:
    place()
    emulator_setup.prepare(emulator_setup.plan(), Silent())

    def refuse(step: emulator_setup.Step, folder: Path) -> None:
        raise AssertionError(f"{step.name} was run again")

    emulator_setup.prepare(emulator_setup.plan(), Silent(), refuse)


def test_one_that_failed_goes_on_where_it_stopped(place: Place) -> None:
    root = place()
    (root / "broken").touch()
    preparation = emulator_setup.plan()
    with pytest.raises(BackendError, match="fetch-qemu failed with exit code 100: E: Unable to fetch") as caught:
        emulator_setup.prepare(preparation, Silent())
    assert "run it again" in caught.value.hint
    assert not preparation.is_ready
    (root / "broken").unlink()
    names: list[str] = []

    def run(step: emulator_setup.Step, folder: Path) -> None:
        names.append(step.name)
        emulator_setup._run(step, folder)

    emulator_setup.prepare(preparation, Silent(), run)
    assert names == [step.name for step in preparation.steps][1:]
    assert preparation.is_ready


def test_what_does_not_run_is_never_ready(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place()

    def fail(preparation: emulator_setup.Preparation) -> None:
        raise BackendError("emulated ARM64: was ended by signal 4")

    monkeypatch.setattr(emulator_setup, "_try", fail)
    preparation = emulator_setup.plan()
    with pytest.raises(BackendError, match="signal 4"):
        emulator_setup.prepare(preparation, Silent())
    assert not preparation.is_ready


def test_a_mirror_is_kept_and_foreign_sources_are_not(place: Place) -> None:
    index = (
        "http://mirror/debian/ bookworm main\nhttp://mirror/debian/ bookworm-updates main\n"
        "http://mirror/debian/ bookworm contrib\nhttp://elsewhere/ nodistro main\n"
        "http://elsewhere/ bookworm-pgdg main\n"
    )
    place(index=index)
    lines = emulator_setup.plan().files["apt/sources.list"].splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "http://mirror/debian/ bookworm main",
        "http://mirror/debian/ bookworm-updates main",
    ]
    assert all("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in line for line in lines)


def test_ubuntu_keeps_arm64_apart(place: Place) -> None:
    place(UBUNTU, "http://mirror/ubuntu noble main\nhttp://mirror/ubuntu noble-security main\n")
    preparation = emulator_setup.plan()
    lines = preparation.files["apt/sources.list"].splitlines()
    assert [line.split()[1:2] + line.split()[3:] for line in lines if "arch=arm64" in line] == [
        ["[arch=arm64", emulator_setup.UBUNTU_PORTS, suite, "main", "universe"]
        for suite in ("noble", "noble-updates", "noble-security")
    ]
    assert sum("arch=amd64" in line and "http://mirror/ubuntu" in line for line in lines) == 2
    assert preparation.ready["python"] == "system/usr/bin/python3.12"


@pytest.mark.parametrize(
    ("release", "message"),
    [("ID=arch\n", "this system is arch — known: Debian 12"), ("", "this system is unknown"), (
        "ID=debian\nVERSION_ID=11\nVERSION_CODENAME=bullseye\n", "this system is debian 11")],
)  # fmt: skip
def test_other_systems_are_refused(place: Place, release: str, message: str) -> None:
    place(release)
    with pytest.raises(UsageError, match=message):
        emulator_setup.plan()


def test_other_processors_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place()
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(UsageError, match="this machine is Darwin arm64"):
        emulator_setup.plan()


def test_tools_and_sources_that_are_missing_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place(index="")
    with pytest.raises(MissingSetupError, match="no source of bookworm"):
        emulator_setup.plan()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingSetupError, match="needs apt-get, dpkg-deb"):
        emulator_setup.plan()
