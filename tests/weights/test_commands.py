"""`facex weights list` and `facex weights pull`, as commands and as processes."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex import download
from facex.weights import Checkpoint, pull

Run = Callable[..., Any]


def test_list_shows_everything_and_fetches_nothing(
    run_facex: Run, checkpoint: Checkpoint, site: Any, store: Path
) -> None:
    ran = run_facex("weights", "list")
    assert (ran.code, ran.err) == (0, "")
    assert ["mnet", "0.3", "MIT", "absent"] in [line.split() for line in ran.out.splitlines()]
    for words in (
        checkpoint.url,
        checkpoint.sha256,
        "MIT, stated at https://example.org/LICENSE",
        checkpoint.repository,
    ):
        assert words in ran.out
    assert f"facex export {store / 'mnet.pth'} --activation relu " in ran.out
    assert site.asked == []
    assert not store.exists()


@pytest.mark.parametrize(
    ("content", "name", "state"),
    [
        (slice(None), "mnet.pth", "verified"),
        (slice(1, None), "mnet.pth", "damaged"),
        (slice(5), "mnet.pth.part", "partial"),
        (slice(0), ".lock", "absent"),
    ],
    ids=["verified", "damaged", "partial", "absent"],
)
def test_list_says_what_is_in_the_cache(
    run_facex: Run, checkpoint: Checkpoint, site: Any, store: Path, content: slice, name: str, state: str
) -> None:
    store.mkdir(parents=True)
    (store / name).write_bytes(site.data[content])
    assert ["mnet", "0.3", "MIT", state] in [line.split() for line in run_facex("weights", "list").out.splitlines()]
    ran = run_facex("weights", "list", "--json")
    (found,) = json.loads(ran.out)["checkpoints"]
    assert (ran.code, ran.err) == (0, "")
    assert (found["name"], found["state"], found["path"]) == ("mnet", state, str(store / "mnet.pth"))
    assert (found["sha256"], found["licence"], found["contract"]["activation"]) == (checkpoint.sha256, "MIT", "relu")
    assert json.loads(ran.out)["cache"] == str(store.parents[1])


def test_pull_shows_the_licence_the_file_and_a_command_that_export_takes(
    run_facex: Run, checkpoint: Checkpoint, store: Path
) -> None:
    ran = run_facex("weights", "pull", "mnet")
    assert (ran.code, ran.err) == (0, "fetching 0.3 MB from 127.0.0.1, kB …\n")
    lines = ran.out.splitlines()
    assert lines[0] == "mnet: a test"
    assert lines[1].split(maxsplit=1) == ["licence", "MIT, stated at https://example.org/LICENSE"]
    assert lines[-2] == f"  file               {store / 'mnet.pth'} (fetched, its sha256 is the expected one)"
    program, command, *options = shlex.split(lines[-1].removeprefix("  export"))
    assert (program, command) == ("facex", "export")
    plan = json.loads(run_facex(command, *options, "--plan", "--json").out)["recipe"]
    assert plan["checkpoint"] == str(store / "mnet.pth")
    assert plan["contract"]["activation_slope"] == 0
    assert plan["contract"]["min_sizes"] == [[10, 20], [32, 64], [128, 256]]
    assert plan["contract"]["channel_order"] == "rgb"
    again = run_facex("weights", "pull", "mnet")
    assert (again.code, again.err) == (0, "")
    assert "(already there, its sha256 is the expected one)" in again.out


def test_pull_prints_json_and_nothing_else(run_facex: Run, checkpoint: Checkpoint, store: Path) -> None:
    for fetched in (True, False):
        ran = run_facex("weights", "pull", "mnet", "--json")
        found = json.loads(ran.out)
        assert (ran.code, found["exit_code"], found["fetched"]) == (0, 0, fetched)
        assert (found["path"], found["sha256"], found["licence"]) == (str(store / "mnet.pth"), checkpoint.sha256, "MIT")
        assert found["command"].startswith(f"facex export {store / 'mnet.pth'} --activation relu ")


def test_without_a_network_the_licence_is_shown_and_the_error_says_what_to_do(
    run_facex: Run, offline: Checkpoint, store: Path
) -> None:
    ran = run_facex("weights", "pull", "mnet")
    assert ran.code == 6
    assert ran.error.startswith(f"error: [weights] {offline.url}: cannot be reached: Connection refused — ")
    assert offline.sha256 in ran.error
    assert "MIT, stated at https://example.org/LICENSE" in ran.out
    as_json = run_facex("weights", "pull", "mnet", "--json")
    assert (as_json.code, as_json.out) == (6, "")


def test_a_damaged_file_is_told(run_facex: Run, checkpoint: Checkpoint, store: Path) -> None:
    store.mkdir(parents=True)
    (store / "mnet.pth").write_bytes(b"x")
    ran = run_facex("weights", "pull", "mnet")
    assert ran.code == 0
    assert f"warning: {store / 'mnet.pth'}: is damaged" in ran.err


def test_an_unknown_name_is_bad_usage(run_facex: Run, checkpoint: Checkpoint, store: Path) -> None:
    ran = run_facex("weights", "pull", "resnet50")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == "error: no checkpoint is called 'resnet50' — there are mnet"
    assert not store.parents[1].exists()


def test_weights_alone_shows_its_help(run_facex: Run) -> None:
    ran = run_facex("weights")
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: facex weights" in ran.err


@pytest.mark.parametrize("command", ["list", "pull"])
def test_the_commands_show_examples(run_facex: Run, command: str) -> None:
    ran = run_facex("weights", command, "--help")
    assert ran.code == 0
    examples = [line.strip() for line in ran.out.split("Examples:\n")[1].split("\n\n")[0].splitlines()]
    assert len(examples) >= 2
    assert all(line.startswith(f"facex weights {command}") for line in examples)


# The real command line, made to wait as soon as something has come.
WAITING = """
import json, signal, sys, time
from facex import cli, weights
from facex.report import progress

def wait(*_):
    print("waiting", flush=True)
    time.sleep(300)

made = weights.Checkpoint(**json.loads(sys.argv.pop()))
weights.catalogue = lambda: (made,)
progress.TerminalProgress.advance = wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent may have switched off
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_keeps_what_came(
    start_waiting: Callable[..., subprocess.Popen[str]],
    checkpoint: Checkpoint,
    site: Any,
    store: Path,
    number: signal.Signals,
) -> None:
    plain = json.dumps(dataclasses.asdict(checkpoint))
    process = start_waiting(WAITING, "weights", "pull", "mnet", "--json", plain)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    *_, warning, last = filter(None, err.splitlines())
    assert warning.startswith(f"warning: {store / 'mnet.pth.part'}: keeps what came so far")
    assert last.startswith("error: interrupted")
    kept = (store / "mnet.pth.part").stat().st_size
    assert kept >= download.BYTES_PER_STEP
    assert pull(checkpoint).path.read_bytes() == site.data
    assert site.asked == [None, f"bytes={kept}-"]


def test_the_lock_of_a_killed_pull_holds_nobody_up(
    start_waiting: Callable[..., subprocess.Popen[str]], checkpoint: Checkpoint, store: Path
) -> None:
    plain = json.dumps(dataclasses.asdict(checkpoint))
    process = start_waiting(WAITING, "weights", "pull", "mnet", "--json", plain)
    process.kill()
    process.wait(timeout=60)
    started = time.monotonic()
    assert pull(checkpoint).fetched
    assert time.monotonic() - started < 20
