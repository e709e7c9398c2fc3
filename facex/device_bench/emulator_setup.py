"""The preparation of the emulated ARM64 machine, as commands that are shown first and run only when told to.

Everything comes from packages by name, through the ordinary clients as an ordinary user: QEMU and an ARM64 Python from
the distribution, whose signatures apt checks, and LiteRT and numpy from Python's index, whose checksums pip checks.
Nothing is installed into this system: the packages are unpacked in the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from facex.device_bench import emulator
from facex.errors import BackendError, MissingSetupError, UsageError, stage
from facex.progress import Progress

NUMPY = "2.2.6"
"""Version of numpy on both sides: it has wheels for every Python below."""

PYTHONS: Mapping[tuple[str, str], str] = {
    ("debian", "12"): "3.11",
    ("debian", "13"): "3.13",
    ("ubuntu", "22.04"): "3.10",
    ("ubuntu", "24.04"): "3.12",
}
"""Distribution and release -> version of its Python, which LiteRT must have a wheel for."""

UBUNTU_PORTS = "http://ports.ubuntu.com/ubuntu-ports/"
"""Where Ubuntu keeps its packages for ARM64; signed like the others."""

NEEDED = ("apt-get", "dpkg-deb")
DOWNLOAD_MB = 160
DISK_MB = 330
_OS_RELEASE = Path("/etc/os-release")
_DONE = ".done"
_LOCK = ".lock"
LAST = "tidy"
"""The step after which what was downloaded is gone."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        name: unique; marks it as done.
        purpose: for people, with what it downloads.
        line: the command.
        environment: variables beside those of this process.
    """

    name: str
    purpose: str
    line: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What makes the machine; names of files and folders are relative to `folder`, where every command is run.

    Attributes:
        folder: where everything goes.
        folders: made before the first step.
        files: written before the first step, name -> text.
        steps: in order.
        ready: what is where, written after the last step as `emulator.READY`.
    """

    folder: Path
    folders: tuple[str, ...]
    files: Mapping[str, str]
    steps: tuple[Step, ...]
    ready: Mapping[str, str]

    @property
    def is_ready(self) -> bool:
        """Whether all of it was done."""
        return (self.folder / emulator.READY).is_file()

    def script(self) -> str:
        """The same for a shell; run there, it does what `prepare` does."""
        folder = shlex.quote(str(self.folder))
        lines = [
            f"# ARM64 numerics without a phone: about {DOWNLOAD_MB} MB to download, {DISK_MB} MB on disk in the end",
            *("set -e", f"mkdir -p {folder}", f"cd {folder}", f"mkdir -p {shlex.join(self.folders)}"),
            *(f"cat > {name} <<'END'\n{text}END" for name, text in self.files.items()),
        ]
        for step in self.steps:
            variables = "".join(f"{key}={value} " for key, value in step.environment.items())
            lines += [f"\n# {step.purpose}", f"{variables}{shlex.join(step.line)}"]
        lines.append(f"\ncat > {emulator.READY} <<'END'\n{self.ready_text}END")
        return "\n".join(lines) + "\n"

    @property
    def ready_text(self) -> str:
        """Content of `emulator.READY`."""
        return json.dumps(self.ready, indent=2) + "\n"


def plan() -> Preparation:
    """The preparation for this machine; reads what the system says of itself, and changes nothing.

    Raises:
        UsageError: this machine cannot be prepared: not Linux on x86-64, or of no distribution that is known here.
        MissingSetupError: a tool that the commands need is not there.
    """
    distribution, release, codename = _distribution()
    if missing := [tool for tool in NEEDED if shutil.which(tool) is None]:
        raise MissingSetupError(f"--setup-arm64 needs {', '.join(missing)}, which is not on the PATH")
    python = PYTHONS[distribution, release]
    folder = emulator.folder()
    return Preparation(
        folder=folder,
        folders=("apt/state/lists/partial", "apt/cache/archives/partial", "system"),
        files={
            "apt/apt.conf": _apt_conf(folder / "apt"),
            "apt/sources.list": _sources(distribution, codename),
            "apt/status": "",
        },
        steps=(*_system_steps(python), *_python_steps(python)),
        ready={
            "emulator": "usr/bin/qemu-aarch64-static",
            "system": "system",
            "python": f"system/usr/bin/python{python}",
            "site": "site-arm64",
            "host_site": "site-x86_64",
        },
    )


def _distribution() -> tuple[str, str, str]:
    """ID, release and code name."""
    known = ", ".join(f"{name.capitalize()} {release}" for name, release in PYTHONS)
    here = f"{platform.system()} {platform.machine()}"
    if here != "Linux x86_64":
        raise UsageError(f"--setup-arm64: this machine is {here}", hint=f"works on x86-64 with {known}")
    text = _OS_RELEASE.read_text(encoding="utf-8") if _OS_RELEASE.is_file() else ""
    fields = {key: value.strip('"') for key, _, value in (line.partition("=") for line in text.splitlines())}
    found = fields.get("ID", ""), fields.get("VERSION_ID", "")
    if found not in PYTHONS:
        raise UsageError(
            f"--setup-arm64: this system is {' '.join(found).strip() or 'unknown'}", hint=f"known: {known}"
        )
    return *found, fields["VERSION_CODENAME"]


def _apt_conf(apt: Path) -> str:
    """Settings under which apt keeps its own lists and packages, for both architectures, and sees nothing installed."""
    return (
        f'Dir::State "{apt}/state";\n'
        f'Dir::State::status "{apt}/status";\n'
        f'Dir::Cache "{apt}/cache";\n'
        f'Dir::Etc::sourcelist "{apt}/sources.list";\n'
        'Dir::Etc::sourceparts "-";\n'
        'APT::Architecture "amd64";\n'
        'APT::Architectures { "amd64"; "arm64"; };\n'
        'Acquire::Languages "none";\n'
    )


def _sources(distribution: str, codename: str) -> str:
    """The distribution's own sources as this system has them, mirrors included, and those of ARM64 beside."""
    keyring = f"/usr/share/keyrings/{distribution}-archive-keyring.gpg"
    line = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    found = {tuple(entry.split()) for entry in done.stdout.splitlines() if len(entry.split()) == 3}
    suites = [f"{codename}{suffix}" for suffix in ("", "-updates", "-security")]
    own = sorted({(suite, uri) for uri, suite, component in found if suite in suites and component == "main"})
    if not own:
        raise MissingSetupError(
            f"--setup-arm64: apt knows no source of {codename}", hint="apt-get indextargets must list them"
        )
    if distribution == "debian":
        return "".join(f"deb [signed-by={keyring}] {uri} {suite} main\n" for suite, uri in own)
    return "".join(
        [f"deb [arch=amd64 signed-by={keyring}] {uri} {suite} main universe\n" for suite, uri in own]
        + [f"deb [arch=arm64 signed-by={keyring}] {UBUNTU_PORTS} {suite} main universe\n" for suite in suites]
    )


def _system_steps(python: str) -> Iterator[Step]:
    fetch = ("apt-get", "--yes", "--download-only", "--no-install-recommends", "install")

    def step(name: str, purpose: str, *line: str) -> Step:
        return Step(name=name, purpose=purpose, line=line, environment={"APT_CONFIG": "apt/apt.conf"})

    yield step("lists", "what the distribution has, about 20 MB", "apt-get", "update")
    yield step("fetch-qemu", "the emulator, about 63 MB", *fetch, "qemu-user-static")
    packages = (f"python{python}-minimal", f"libpython{python}-stdlib", "libstdc++6")
    yield step("fetch-python", "Python for ARM64, about 16 MB", *fetch, *(f"{name}:arm64" for name in packages))
    # of the emulators, which are 380 MB, that of ARM64 alone, under one name or two; tar fails without both
    yield step("unpack-qemu", "the emulator, without its siblings", "sh", "-ec", _UNPACK_QEMU)
    yield step("unpack-python", "Python and its libraries", "sh", "-ec", _UNPACK_SYSTEM)


_UNPACK_QEMU = """\
for deb in apt/cache/archives/qemu-user*_amd64.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x ./usr/bin/qemu-aarch64 ./usr/bin/qemu-aarch64-static 2>/dev/null || true
done
test -x usr/bin/qemu-aarch64-static"""

_UNPACK_SYSTEM = """\
for deb in apt/cache/archives/*_arm64.deb; do dpkg-deb -x "$deb" system; done
test -e system/lib || ln -s usr/lib system/lib"""
"""Programs look for the loader in /lib; newer releases have it in /usr/lib, with a link that none of these brings."""


def _python_steps(python: str) -> Iterator[Step]:
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:", "--upgrade", "--quiet")
    wheels = (f"ai-edge-litert=={emulator.LITERT}", f"numpy=={NUMPY}")
    platforms = [word for tag in ("manylinux_2_27", "manylinux2014") for word in ("--platform", f"{tag}_aarch64")]
    foreign = ("--implementation", "cp", "--python-version", python, *platforms)

    def step(name: str, purpose: str, *line: str) -> Step:
        return Step(name=name, purpose=purpose, line=line, environment={})

    yield step("arm64", "LiteRT for ARM64, about 27 MB", *pip, *foreign, "--target", "site-arm64", *wheels)
    yield step("x86-64", "the same version for x86-64, about 32 MB", *pip, "--target", "site-x86_64", *wheels)
    yield step(LAST, "the downloads are not needed any more", "rm", "-rf", "apt")


def prepare(preparation: Preparation, progress: Progress, run: Callable[[Step, Path], None] | None = None) -> None:
    """Do what is not yet done, and try whether it works. One that was interrupted goes on with the step it was at.

    Args:
        preparation: from `plan`.
        progress: shown every step.
        run: runs one in a folder; by default as a process.

    Raises:
        BackendError: a command failed, with what it said last; or what came of them does not run.
    """
    with stage("setup-arm64"), _alone(preparation.folder, progress):
        if preparation.is_ready:
            return
        marks = preparation.folder / _DONE
        marks.mkdir(exist_ok=True)
        if not (marks / LAST).exists():
            for name in preparation.folders:
                (preparation.folder / name).mkdir(parents=True, exist_ok=True)
            for name, text in preparation.files.items():
                (preparation.folder / name).write_text(text, encoding="utf-8")
        for step in preparation.steps:
            if not (marks / step.name).exists():
                progress.start(step.purpose)
                (run or _run)(step, preparation.folder)
                (marks / step.name).touch()
        progress.start("trying it")
        _try(preparation)
        part = preparation.folder / f"{emulator.READY}.part"
        part.write_text(preparation.ready_text, encoding="utf-8")
        os.replace(part, preparation.folder / emulator.READY)


def _run(step: Step, folder: Path) -> None:
    line = list(step.line)
    try:
        done = subprocess.run(  # noqa: S603 - commands that were shown first
            line, cwd=folder, env={**os.environ, **step.environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise BackendError(f"{line[0]} cannot be started: {error.strerror or error}") from error
    if done.returncode:
        said = [text.strip() for text in (done.stderr + done.stdout).splitlines() if text.strip()]
        errors = [text for text in said if text.lower().startswith(("e:", "error"))] or said[-1:]
        raise BackendError(
            f"step {step.name} failed with exit code {done.returncode}: {(errors or ['it said nothing'])[0][:300]}",
            hint="run it again: it goes on with this step",
        )


def _try(preparation: Preparation) -> None:
    """Start both interpreters and import LiteRT in each.

    Raises:
        BackendError: one does not, with what it said last.
    """
    tools = emulator.toolchain({key: preparation.folder / name for key, name in preparation.ready.items()})
    for machine in (tools.arm64, tools.x86_64):
        emulator.probe(machine)


@contextlib.contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Make the folder and hold its lock, which the system releases however this process ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.start("waiting for another facex that prepares it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
