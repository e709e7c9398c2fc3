"""A phone behind `adb`: finding both, calling, copying, what it says of itself, and leaving it as it was."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from facex.device_bench._benchmark_output import failure
from facex.errors import DeviceError, UsageError
from facex.types import DeviceState

QUICK_S = 30.0
"""Longest wait for a call that only asks or removes."""

PUSH_S = 300.0
"""Longest wait for a file to be copied."""

READY = "device"
SDK_VARIABLES = ("ANDROID_HOME", "ANDROID_SDK_ROOT")
PARENT = "/data/local/tmp"
"""Where Android lets `adb shell` write and run programs."""

_HINTS = {
    "unauthorized": "unlock the phone and accept the key of this computer",
    "offline": "reconnect its cable, or run `adb reconnect`",
    "no permissions": "add a udev rule for its vendor, or join the group plugdev, then run `adb kill-server`",
}
_PLUG_IN = "connect one, switch on USB debugging, and see that `adb devices` lists it"
_PROPERTY = re.compile(r"^\[(?P<key>[^\]]+)\]: \[(?P<value>[^\]]*)\]", re.MULTILINE)
_FACTS = {
    "manufacturer": ("ro.product.manufacturer",),
    "model": ("ro.product.model",),
    "processor": ("ro.soc.model", "ro.board.platform", "ro.hardware"),  # the first since Android 12
    "processor_maker": ("ro.soc.manufacturer",),
    "android": ("ro.build.version.release",),
    "build": ("ro.build.id",),
    "abi": ("ro.product.cpu.abi",),
    "abis": ("ro.product.cpu.abilist",),
}
_THERMAL = re.compile(r"^\s*Thermal Status: (?P<status>\d)\s*$", re.MULTILINE)
_CLOCK = re.compile(r"/cpu(?P<cpu>\d+)/cpufreq/scaling_cur_freq (?P<khz>\d+)\s*$", re.MULTILINE)
# some phones refuse these questions, with any exit code
_STATE = (
    "dumpsys thermalservice 2>/dev/null; "
    "for f in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq; "
    'do echo "$f $(cat $f 2>/dev/null)"; done; true'
)


@dataclass(frozen=True, kw_only=True)
class Phone:
    """One device; `adb` is the program."""

    adb: Path
    serial: str

    def call(self, *arguments: str, timeout_s: float = QUICK_S) -> str:
        """What `adb` prints for this device, errors among it.

        Raises:
            DeviceError: it fails, or does not answer in time.
        """
        return _call([str(self.adb), "-s", self.serial, *arguments], timeout_s)

    def shell(self, *words: str, timeout_s: float = QUICK_S) -> str:
        """What a command prints on the phone; its words arrive as they are."""
        return self.script(shlex.join(words), timeout_s=timeout_s)

    def script(self, text: str, timeout_s: float = QUICK_S) -> str:
        """What a text prints when the shell of the phone reads it."""
        return self.call("shell", text, timeout_s=timeout_s)

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the phone."""
        self.call("push", str(source), target, timeout_s=PUSH_S)

    def pull(self, source: str, target: Path) -> None:
        """Copy a file from the phone."""
        self.call("pull", source, str(target), timeout_s=PUSH_S)


def _call(line: list[str], timeout_s: float) -> str:
    shown = f"adb {' '.join(line[1:])}"[:160]
    try:
        done = subprocess.run(  # noqa: S603 - a program that the user installed, and words without a shell
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{shown}: no answer in {timeout_s:.0f} s", hint="reconnect the phone, or run `adb kill-server`"
        ) from error
    except OSError as error:
        raise DeviceError(f"{line[0]}: cannot be run: {error.strerror or error}") from error
    text = done.stdout.decode("utf-8", errors="replace").replace("\r\n", "\n")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("* daemon"))
    if done.returncode != 0:
        raise DeviceError(
            f"{shown}: exit code {done.returncode}: {failure(text)}", hint="see that the phone is still connected"
        )
    return text


def find_adb() -> Path:
    """The program `adb`: on the PATH, or in the platform tools of an Android SDK.

    Raises:
        DeviceError: it is in neither.
    """
    sdks = [Path(os.environ[name]) / "platform-tools" for name in SDK_VARIABLES if os.environ.get(name)]
    for folder in (None, *sdks):
        found = shutil.which("adb", path=folder and str(folder))
        if found:
            return Path(found)
    raise DeviceError(
        "adb is not on the PATH, nor below ANDROID_HOME or ANDROID_SDK_ROOT",
        hint="install Android's platform tools, for example the package `adb`",
    )


def connect(serial: str) -> Phone:
    """The phone of a serial number, or the only one that is ready where that is empty.

    Raises:
        DeviceError: none is connected, or it is not ready.
        UsageError: several are ready and none was named, or the named one is not among those that are connected.
    """
    adb = find_adb()
    states = _listed(_call([str(adb), "devices"], QUICK_S))
    if not states:
        raise DeviceError("adb sees no phone", hint=_PLUG_IN)
    if serial and serial not in states:
        raise UsageError(f"--device adb:{serial}: not connected", hint=f"connected: {', '.join(states)}")
    ready = [name for name, state in states.items() if state == READY]
    if not serial and len(ready) > 1:
        choices = ", ".join(f"adb:{name}" for name in ready)
        raise UsageError("--device adb: several phones are connected", hint=f"choose from {choices}")
    chosen = serial or (ready[0] if ready else next(iter(states)))
    if states[chosen] != READY:
        state = states[chosen]
        hint = next((text for start, text in _HINTS.items() if state.startswith(start)), "start it as usual")
        raise DeviceError(f"the phone {chosen} is not ready: {state}", hint=hint)
    return Phone(adb=adb, serial=chosen)


def _listed(text: str) -> dict[str, str]:
    """Serial number -> state, from `adb devices`."""
    _, title, rows = text.partition("List of devices attached")
    if not title:
        raise DeviceError(f"adb devices printed no list, but: {failure(text)}")
    pairs = (line.split(None, 1) for line in rows.splitlines() if line.strip())
    return {name: state[0].strip() if state else "unknown" for name, *state in pairs}


def facts(phone: Phone) -> dict[str, str]:
    """What the phone says of its model, processor and system; only what it does say.

    Raises:
        DeviceError: it says nothing of the kind.
    """
    text = phone.shell("getprop")
    properties = {match["key"]: match["value"].strip() for match in _PROPERTY.finditer(text)}
    found = {fact: next((properties[k] for k in keys if properties.get(k)), "") for fact, keys in _FACTS.items()}
    if not found["model"] or not found["abi"]:
        raise DeviceError(f"{phone.serial}: getprop tells no model, but: {failure(text)}")
    return {fact: value for fact, value in found.items() if value}


def description(known: Mapping[str, str]) -> str:
    """A phone in a line, e.g. `adb: Google Pixel 4, SM8150, Android 13, arm64-v8a`."""
    model = " ".join(dict.fromkeys((known.get("manufacturer", ""), known["model"]))).strip()
    system = f"Android {known['android']}" if "android" in known else ""
    return "adb: " + ", ".join(part for part in (model, known.get("processor", ""), system, known["abi"]) if part)


def state(phone: Phone) -> DeviceState:
    """Heat and clocks at this moment; what the phone keeps to itself is None or empty."""
    text = phone.script(_STATE)
    thermal = _THERMAL.search(text)
    clocks = {int(m["cpu"]): int(m["khz"]) / 1000 for m in _CLOCK.finditer(text)}
    return DeviceState(
        thermal_status=int(thermal["status"]) if thermal else None, cpu_mhz=tuple(clocks[cpu] for cpu in sorted(clocks))
    )


@contextlib.contextmanager
def folder(phone: Phone, warn: Callable[[str], None], app: str = "") -> Iterator[str]:
    """A new folder on the phone, removed with all that is in it, whatever ends the block.

    Args:
        phone: where.
        warn: told what could not be cleaned up, so that no error on the way is hidden by it.
        app: an app to stop before, where one was started.

    Yields:
        Its path, which ends in `facex-` and random letters.
    """
    path = f"{PARENT}/facex-{secrets.token_hex(6)}"
    try:
        phone.script(f"mkdir {path} && chmod 755 {path}")
        yield path
    finally:
        try:
            _remove(phone, path, app)
        except (DeviceError, KeyboardInterrupt) as error:
            reason = error.what if isinstance(error, DeviceError) else "interrupted"
            warn(f"{path} may be left on the phone {phone.serial}: {reason}; `adb shell rm -rf {path}` removes it")
            if isinstance(error, KeyboardInterrupt):
                raise


def _remove(phone: Phone, path: str, app: str) -> None:
    if app:
        phone.script(f"am force-stop {app} || true")
    # what was started from here is stopped first; brackets keep the pattern from matching the command line it is in
    phone.script(f"pkill -f '{path[:-1]}[{path[-1]}]/' || true")
    answer = phone.script(f"rm -rf {path}; test -e {path} || echo gone")
    if answer.strip().splitlines()[-1:] != ["gone"]:
        raise DeviceError(f"rm -rf printed: {failure(answer)}")
