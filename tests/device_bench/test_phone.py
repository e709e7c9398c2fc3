"""Finding adb and a phone, and leaving the phone as it was; against a fake adb, never a real phone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex.device_bench import _phone
from facex.errors import DeviceError, UsageError

SERIAL = "0123456789ABCDEF"


def test_the_only_ready_phone_is_taken(fake_phone: Any) -> None:
    fake_phone.devices("AAA\toffline", f"{SERIAL}\tdevice")
    assert _phone.connect("").serial == SERIAL
    assert _phone.connect(SERIAL).serial == SERIAL


@pytest.mark.parametrize(
    ("serial", "rows", "message"),
    [
        ("", [], "adb sees no phone — connect one"),
        ("AAA", [], "adb sees no phone"),
        ("", ["AAA\toffline"], "AAA is not ready: offline — reconnect its cable"),
        ("", ["AAA\tunauthorized"], "AAA is not ready: unauthorized — unlock the phone"),
        ("", ["AAA\tno permissions (verify udev rules); see [http://x]"], "no permissions .* — add a udev rule"),
        ("", ["????????????\tno permissions"], "not ready: no permissions"),
        ("", ["AAA\trecovery"], "not ready: recovery — start it as usual"),
        ("AAA", ["AAA\toffline", "BBB\tdevice"], "AAA is not ready: offline"),
        ("", ["AAA"], "AAA is not ready: unknown"),
    ],
)
def test_a_phone_that_is_not_ready_says_what_to_do(fake_phone: Any, serial: str, rows: list[str], message: str) -> None:
    fake_phone.devices(*rows)
    with pytest.raises(DeviceError) as caught:
        _phone.connect(serial)
    assert caught.match(message)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(("serial", "message"), [("", "choose from adb:AAA, adb:BBB"), ("CCC", "connected: AAA, BBB")])
def test_a_phone_must_be_named_among_several(fake_phone: Any, serial: str, message: str) -> None:
    fake_phone.devices("AAA\tdevice", "BBB\tdevice")
    with pytest.raises(UsageError, match=message):
        _phone.connect(serial)


def test_what_a_starting_daemon_says_is_skipped(fake_phone: Any) -> None:
    started = "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n"
    fake_phone.set("devices", f"{started}List of devices attached\n{SERIAL}\tdevice\n")
    assert _phone.connect("").serial == SERIAL


def test_a_list_that_is_none_is_quoted(fake_phone: Any) -> None:
    fake_phone.set("devices", "adb server version (40) doesn't match\n")
    with pytest.raises(DeviceError, match="printed no list, but: adb server version"):
        _phone.connect("")


@pytest.mark.parametrize("variable", _phone.SDK_VARIABLES)
def test_adb_of_an_sdk_is_found(
    fake_phone: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_adb: Callable[[Path | None], None],
    variable: str,
) -> None:
    without_adb(tmp_path / "sdk")
    monkeypatch.setenv(variable, str(tmp_path / "sdk"))
    assert _phone.find_adb() == tmp_path / "sdk/platform-tools/adb"
    assert _phone.connect("").serial == SERIAL


def test_without_adb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, without_adb: Callable[[Path | None], None]
) -> None:
    for name in _phone.SDK_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "no sdk"))
    without_adb(None)
    with pytest.raises(DeviceError, match=r"adb is not on the PATH.*install Android's platform tools"):
        _phone.connect("")


def test_an_adb_that_cannot_be_run(fake_phone: Any) -> None:
    (fake_phone.here / "path/adb").write_text("#!/no/such/interpreter\n")
    with pytest.raises(DeviceError, match="cannot be run"):
        _phone.connect("")


def test_no_answer_in_time(fake_phone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = _phone.connect("")
    fake_phone.rule("getprop", sleep=30)
    with pytest.raises(DeviceError, match="getprop: no answer in 0 s"):
        phone.call("shell", "getprop", timeout_s=0.3)


def test_words_arrive_as_they_are(fake_phone: Any) -> None:
    words = ["two  words", "$HOME", "quote'd", "a;b", "*"]
    assert _phone.connect("").shell("printf", "%s\n", *words).splitlines() == words


def test_facts(fake_phone: Any) -> None:
    known = _phone.facts(_phone.connect(""))
    assert known == {
        "manufacturer": "Google",
        "model": "Pixel 4",
        "processor": "SM8150",
        "android": "13",
        "abi": "arm64-v8a",
        "abis": "arm64-v8a,armeabi-v7a,armeabi",
    }  # not the serial number
    assert _phone.description(known) == "adb: Google Pixel 4, SM8150, Android 13, arm64-v8a"
    assert _phone.description({"model": "X", "abi": "x86_64"}) == "adb: X, x86_64"


def test_facts_that_are_garbage_are_quoted(fake_phone: Any) -> None:
    fake_phone.set("properties", "sh: getprop: inaccessible\n")
    with pytest.raises(DeviceError, match="tells no model, but: sh: getprop: inaccessible"):
        _phone.facts(_phone.connect(""))


def test_heat_and_clocks(fake_phone: Any) -> None:
    found = _phone.state(_phone.connect(""))
    assert found.thermal_status == 0
    assert found.cpu_mhz == (1766.4, 2841.6, 825.6)  # CPUs 0, 7 and 10: not in the order of their names


def test_a_phone_may_keep_them_to_itself(fake_phone: Any) -> None:
    for clock in fake_phone.here.rglob("scaling_cur_freq"):
        clock.unlink()
    fake_phone.set("thermal", "Can't find service: thermalservice\n")
    found = _phone.state(_phone.connect(""))
    assert (found.thermal_status, found.cpu_mhz) == (None, ())


def test_a_folder_is_removed_with_all_in_it(fake_phone: Any, tmp_path: Path) -> None:
    phone, warnings = _phone.connect(""), list[str]()
    (fake_phone.here / "phone/data/local/tmp/of others").mkdir()
    (tmp_path / "file").write_text("content")
    with _phone.folder(phone, warnings.append) as path:
        phone.push(tmp_path / "file", f"{path}/file")
        assert len(fake_phone.left) == 2
    assert fake_phone.left == ["of others"]
    assert warnings == []
    stopping = next(call for call in fake_phone.calls if "pkill" in call)
    assert f"{path[:-1]}[{path[-1]}]/" in stopping
    assert f"{path}/" not in stopping  # it would stop the shell that runs it


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_a_folder_is_removed_after_anything(fake_phone: Any, raised: type[BaseException]) -> None:
    warnings: list[str] = []
    with contextlib.suppress(raised), _phone.folder(_phone.connect(""), warnings.append):
        assert len(fake_phone.left) == 1
        raise raised
    assert (fake_phone.left, warnings) == ([], [])


def test_a_folder_that_cannot_be_made(fake_phone: Any) -> None:
    fake_phone.rule("mkdir", print="mkdir: '/data/local/tmp/x': Read-only file system\n", exit=1)
    with (
        pytest.raises(DeviceError, match="Read-only file system"),
        _phone.folder(_phone.connect(""), lambda text: None),
    ):
        pytest.fail("there is no folder")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"match": "rm -rf", "print": "rm: Permission denied\n", "exit": 0}, "rm -rf printed: rm: Permission denied"),
        ({"match": "rm -rf", "exit": 0}, "rm -rf printed: no output at all"),
        ({"match": "pkill", "unplug": True, "exit": 255}, "exit code 255"),
    ],
)
def test_what_cannot_be_removed_is_told(fake_phone: Any, rule: dict[str, Any], reason: str) -> None:
    warnings: list[str] = []
    fake_phone.rule(**rule)
    with _phone.folder(_phone.connect(""), warnings.append) as path:
        pass
    (warning,) = warnings
    assert warning.startswith(f"{path} may be left on the phone {SERIAL}: ")
    assert reason in warning
    assert warning.endswith(f"`adb shell rm -rf {path}` removes it")


def test_a_clean_up_that_is_interrupted_is_told(fake_phone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_phone, "_remove", interrupted)
    warnings: list[str] = []
    with contextlib.suppress(KeyboardInterrupt), _phone.folder(_phone.connect(""), warnings.append) as path:
        pass
    assert warnings == [f"{path} may be left on the phone {SERIAL}: interrupted; `adb shell rm -rf {path}` removes it"]
