"""A fake `adb`, so that everything up to the cable can be tested. No test of facex has seen a real phone."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# The program. A folder stands for the storage of the phone; commands for its shell run in a real one, in which paths
# lead into that folder and Android's programs are those that the fixture wrote. What answers instead, fails, sleeps or
# pulls the cable is in the file rules.
ADB = r"""
import os, sys, time  # and no more: it is started thousands of times

words = sys.argv[1:]
with open(HERE + "/calls", "a") as log:
    log.write(" ".join(words) + "\n")
text = " ".join(words)
if words == ["devices"]:
    sys.stdout.write(open(HERE + "/devices").read())
    sys.exit()
assert words[0] == "-s", words
serial, command, *rest = words[1:]
if os.path.exists(HERE + "/unplugged"):
    print(f"adb: device '{serial}' not found", file=sys.stderr)
    sys.exit(1)
for rule in eval(open(HERE + "/rules").read()):
    if rule["match"] in text:
        sys.stdout.write(rule.get("print", ""))
        sys.stdout.flush()
        time.sleep(rule.get("sleep", 0))
        if rule.get("unplug"):
            open(HERE + "/unplugged", "w").close()
        if "exit" in rule:
            sys.exit(rule["exit"])
root = HERE + "/phone"

def copy(source, target):
    content = open(source, "rb").read()
    if content[:4] == b"\x7fELF":
        content = open(HERE + "/benchmark_model", "rb").read()
    with open(target, "wb") as stream:
        stream.write(content)

if command == "push":
    source, target = rest[0], root + rest[1]
    if not os.path.isdir(os.path.dirname(target)):
        print(f"adb: error: failed to copy '{source}' to '{rest[1]}': remote couldn't create file")
        sys.exit(1)
    copy(source, target)
    os.chmod(target, 0o600)
    print(f"{source}: 1 file pushed, 0 skipped.")
elif command == "pull":
    if not os.path.exists(root + rest[0]):
        print(f"adb: error: failed to stat remote object '{rest[0]}': No such file or directory")
        sys.exit(1)
    copy(root + rest[0], rest[1])
elif command == "shell":
    line = " ".join(rest).replace("/data/local/tmp", root + "/data/local/tmp").replace("/sys/dev", root + "/sys/dev")
    os.execve("/bin/sh", ["sh", "-c", line], {**os.environ, "PATH": HERE + "/bin:/usr/bin:/bin"})
else:
    print(f"adb: unknown command {command}")
    sys.exit(1)
"""

# Says what the fixture was told, if its model is there; writes the profile where it was asked for one, and the outputs
# that the fixture has for a picture, by its MD5 sum.
BENCHMARK_MODEL = r"""#!/bin/sh
for word in "$@"; do case "$word" in
  --graph=*) [ -s "${word#--graph=}" ] || { echo "ERROR: Could not open '${word#--graph=}'."; exit 1; };;
  --op_profiling_output_file=*) cp "$HERE/profile.csv" "${word#*=}";;
  --input_layer_value_files=*) image="${word#*=image:}";;
  --output_filepath=*) outputs="${word#*=}";;
esac; done
if [ -n "$outputs" ]; then
  known="$HERE/outputs/$(md5sum < "$image" | cut -c1-32)"
  [ ! -e "$known" ] || cp "$known" "$outputs"
fi
cat "$HERE/output"
exit "$(cat "$HERE/exit")"
"""

PROGRAMS = {
    "getprop": 'cat "$HERE/properties"',
    "dumpsys": 'cat "$HERE/thermal"',
    "pm": 'cat "$HERE/installed"',
    "log": '[ -e "$HERE/deaf" ] || echo "$3" >> "$HERE/log"',
    "logcat": 'cat "$HERE/log"',
    "am": 'echo "am $*" >> "$HERE/calls"; cat "$HERE/am"; [ "$1" = force-stop ] || cat "$HERE/output" >> "$HERE/log"',
    "pkill": "exit 1",
    "taskset": 'shift; exec "$@"',
}

PROPERTIES = """\
[ro.build.version.release]: [13]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a,armeabi]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 4]
[ro.soc.model]: [SM8150]
[ro.boot.serialno]: [0123456789ABCDEF]
"""

OUTPUT = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Loaded model
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 1.71
INFO: Initialized session in 12.5ms.
INFO: Running benchmark for at least 5 iterations and at least 0 seconds but terminate if exceeding 60 seconds.
INFO: count=5 first=31000 curr=12100 min=12000 max=31000 avg=16000 std=7400 p5=12000 median=12200 p95=31000

INFO: Running benchmark for at least 50 iterations and at least 0 seconds but terminate if exceeding 60 seconds.
INFO: count=50 first=12050 curr=12010 min=11900 max=14000 avg=12200.5 std=300 p5=11950 median=12100 p95=13000

INFO: Inference timings in us: Init: 12500, First inference: 31000, Warmup (avg): 16000, Inference (avg): 12200.5
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual
INFO: Memory footprint delta from the start of the tool (MB): init=4.5 overall=9.25
"""

PROFILE = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
AllocateTensors, 0, 1.356, 1.356, 100%, 100%, 0, 1, AllocateTensors/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
Convolution (NHWC, F32) IGEMM, 0.001, 9.2, 9, 75%, 75%, 0, 1, Delegate/Convolution (NHWC\tF32) IGEMM:0
CONV_2D, 9.1, 2.5, 2.4, 20%, 95%, 0, 1, [body/conv, second]:1
SOFTMAX, 11.5, 0.6, 0.6, 5%, 100%, 0, 1, [head]:2

============================== Top by Computation Time ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 9.1, 2.5, 2.4, 20%, 95%, 0, 1, [body/conv, second]:1
"""

SERIAL = "0123456789ABCDEF"
ELF = b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little") + bytes(44)
"""The head of a program for arm64-v8a."""


@dataclass(frozen=True, kw_only=True)
class FakePhone:
    """The folder of a fake phone: files of what it answers, and a log of the calls."""

    here: Path
    program: Path
    rules: list[dict[str, object]] = field(default_factory=list)

    def set(self, name: str, text: str) -> None:
        """What one of the files says from now on."""
        (self.here / name).write_text(text)

    def rule(self, match: str, **what: object) -> None:
        """For calls that hold `match`: `print`, `sleep` (s), `unplug`, and `exit` with a code before doing anything."""
        self.rules.append({"match": match, **what})
        self.set("rules", repr(self.rules))

    def devices(self, *rows: str) -> None:
        """What `adb devices` lists."""
        self.set("devices", "List of devices attached\n" + "".join(f"{row}\n" for row in rows) + "\n")

    def outputs(self, image: bytes, raw: bytes) -> None:
        """What its benchmark_model gives for a picture."""
        folder = self.here / "outputs"
        folder.mkdir(exist_ok=True)
        (folder / hashlib.md5(image, usedforsecurity=False).hexdigest()).write_bytes(raw)

    @property
    def calls(self) -> list[str]:
        """Every call so far."""
        path = self.here / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def left(self) -> list[str]:
        """What lies in the folder for files of others."""
        return sorted(p.name for p in (self.here / "phone/data/local/tmp").iterdir())


@pytest.fixture
def fake_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """One ready phone behind the `adb` that is first on the PATH, and a benchmark_model in the cache."""
    here = tmp_path / "fake_adb"  # no space: the shell of the phone reads paths of this folder
    for folder in ("bin", "path", "phone/data/local/tmp", "phone/sys/devices/system/cpu"):
        (here / folder).mkdir(parents=True)
    _executable(here / "path/adb", f"#!{sys.executable} -SE\nHERE = {str(here)!r}\n{ADB}")
    _executable(here / "benchmark_model", BENCHMARK_MODEL)
    for name, body in PROGRAMS.items():
        _executable(here / "bin" / name, f"#!/bin/sh\n{body}\n")
    for cpu, khz in ((0, 1766400), (7, 2841600), (10, 825600)):
        clock = here / f"phone/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
        clock.parent.mkdir(parents=True)
        clock.write_text(f"{khz}\n")
    program = tmp_path / "cache/benchmark_model/arm64-v8a/benchmark_model"
    program.parent.mkdir(parents=True)
    program.write_bytes(ELF)
    monkeypatch.setenv("HERE", str(here))
    monkeypatch.setenv("FACEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{here / 'path'}:/usr/bin:/bin")
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    phone = FakePhone(here=here, program=program)
    phone.devices(f"{SERIAL}\tdevice")
    for name, text in (
        *(("properties", PROPERTIES), ("output", OUTPUT), ("exit", "0"), ("profile.csv", PROFILE), ("log", "")),
        *(("thermal", "IsStatusOverride: false\nThermal Status: 0\n"), ("installed", "package:/data/app/base.apk\n")),
        *(("am", "Starting: Intent { cmp=org.tensorflow.lite.benchmark/.BenchmarkModelActivity }\n"),),
        ("rules", "[]"),
    ):
        phone.set(name, text)
    return phone


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def without_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | None], None]:
    """`without_adb(sdk)` leaves no adb on the PATH, and one in an Android SDK where that is given."""

    def leave(sdk: Path | None) -> None:
        found = shutil.which("adb")
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        if sdk is not None:
            assert found
            (sdk / "platform-tools").mkdir(parents=True)
            shutil.copy(found, sdk / "platform-tools/adb")

    return leave
