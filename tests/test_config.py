"""Options from a file: where they are found, what they mean, and what is said about mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from facex import config
from facex.cli import cli
from facex.errors import UsageError

Run = Callable[..., Any]


@pytest.fixture
def planned(run_facex: Run) -> Callable[..., dict[str, Any]]:
    """`planned("--fp16", before=[…])` gives the plan of `facex … export …` as JSON."""

    def plan(*options: object, before: tuple[object, ...] = ()) -> dict[str, Any]:
        ran = run_facex(*before, "export", *options, "--plan", "--json")
        assert (ran.code, ran.err) == (0, "")
        found: dict[str, Any] = json.loads(ran.out)
        return found

    return plan


def test_sizes_of_an_export_are_too_many_for_a_bundle(run_facex: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text('size = ["480x640", 320]')
    line = ("bundle", "nowhere.json", "--android", "app")
    ran = run_facex(*line)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "--size: a bundle holds models of one size, not of 480x640, 320x320" in ran.error
    assert "nowhere.json: cannot be read" in run_facex(*line, "--size", "320x320").error


def test_facex_toml_is_found_in_the_current_folder(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text(
        """
        checkpoint = "weights/model.pth"
        target = ["tflite", "onnx"]
        size = ["480x640", 320]
        fp16 = true
        calib = "photos/calib"
        images = "../shared"
        out = "/somewhere/else"
        max-size-mb = 2
        max_latency_ms = 30.5
        activation = "relu"
        anchors = "10,20;30,40;50,60"
        limit = ["matched_f1=0.9", "w8a8.snr_db=20"]
        int8-effort = "fast"
        int8_steps = 30
        seed = 4
        threads = 3
        """
    )
    plan = planned()
    recipe = plan["recipe"]
    assert [step["file_name"] for step in plan["steps"]] == [
        f"model_{size}_fp16.{target}" for size in ("480x640", "320x320") for target in ("tflite", "onnx")
    ]
    # relative to the file, not to wherever facex is run
    assert recipe["checkpoint"] == (tmp_path / "weights" / "model.pth").as_posix()
    assert recipe["calib"] == (tmp_path / "photos" / "calib").as_posix()
    assert recipe["images"] == (tmp_path / ".." / "shared").as_posix()
    assert recipe["out"] == "/somewhere/else"
    assert (recipe["effort"], recipe["steps"], recipe["seed"]) == ("fast", 30, 4)
    budget = recipe["budget"]
    assert (budget["max_size_mb"], budget["max_latency_ms"], budget["max_load_ms"]) == (2, 30.5, None)
    assert (budget["device"], budget["others"]) == ("host", [])
    assert recipe["contract"]["activation_slope"] == 0
    assert recipe["contract"]["min_sizes"] == [[10, 20], [30, 40], [50, 60]]
    assert [(limit["precision"], limit["metric"], limit["value"]) for limit in recipe["limits"]] == [
        (None, "matched_f1", 0.9),
        ("w8a8", "snr_db.*", 20),
    ]
    assert recipe["threads"] == 3


def test_the_command_line_wins(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text('checkpoint = "a.pth"\ntarget = ["tflite"]\nthreads = 3\nsize = ["320x320"]\n')
    recipe = planned("b.pth", "--target", "onnx", "--threads", "1", "--size", "160x160")["recipe"]
    assert recipe["checkpoint"] == "b.pth"
    assert (recipe["targets"], recipe["threads"]) == (["onnx"], 1)
    assert recipe["sizes"] == [{"height": 160, "width": 160}]


def test_a_table_holds_for_its_command_alone_and_goes_before(run_facex: Run, planned: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text(
        'threads = 3\n[export]\nthreads = 2\ncheckpoint = "a.pth"\n[bench]\nruns = 0\n'
    )
    ran = run_facex("doctor")
    assert ran.code == 2
    assert "'bench.runs'" in ran.error
    (tmp_path / "facex.toml").write_text(
        'threads = 3\n[export]\nthreads = 2\ncheckpoint = "a.pth"\n[bench]\nruns = 9\n'
    )
    assert planned()["recipe"]["threads"] == 2


def test_options_reach_every_command_that_has_them(
    run_facex: Run, tmp_path: Path, exported: Path, seeded_checkpoint: Path, photo_dir: Path
) -> None:
    (tmp_path / "facex.toml").write_text(
        f'max-size-mb = 0.1\njson = true\nreference = "{seeded_checkpoint}"\nimages = "{photo_dir}"\nruns = 2\n'
    )
    artifact = exported / "seeded_160x160_fp32.onnx"
    checked = run_facex("check", artifact)
    assert checked.code == json.loads(checked.out)["exit_code"] == 4
    assert json.loads(checked.out)["evaluation"]["count"] == 6
    timed = run_facex("bench", artifact)
    assert timed.code == 4
    assert json.loads(timed.out)["latency"][0]["runs"] == 2


@pytest.mark.parametrize(
    ("text", "as_json"),
    [
        ("json = true", {"list", "pull"}),
        ("[weights]\njson = true", {"list", "pull"}),
        ("[weights.list]\njson = true", {"list"}),
        ("json = true\n[weights.list]\njson = false", {"pull"}),
        ("[weights]\njson = true\n[weights.pull]\njson = false", {"list"}),
        ("json = true\n[weights]\njson = false\n[weights.pull]\njson = true", {"pull"}),
        ("[doctor]\njson = true", set()),
    ],
)
@pytest.mark.parametrize("name", ["facex.toml", "pyproject.toml"])
def test_options_reach_the_commands_of_a_group(
    run_facex: Run, tmp_path: Path, name: str, text: str, as_json: set[str]
) -> None:
    if name == "pyproject.toml":
        text = f"[tool.facex]\n{text}".replace("\n[", "\n[tool.facex.")
    (tmp_path / name).write_text(text)
    with cli.make_context("facex", ["weights", "list"]) as context:
        cli.callback(config_path=None, debug=False)
        group = cli.commands["weights"]
        assert isinstance(group, click.Group)
        within = group.make_context("weights", ["list"], parent=context)
        found = {
            command
            for command, arguments in (("list", []), ("pull", ["mnet025"]))
            if group.commands[command].make_context(command, arguments, parent=within).params["as_json"]
        }
    assert found == as_json
    assert run_facex("weights", "list").out.startswith("{") is ("list" in as_json)


@pytest.mark.parametrize(
    ("text", "check", "bench"),
    [
        ('runtime = "native"', ["native"], "native"),
        ('[check]\nruntime = ["executor", "native-cpu"]', ["executor", "native-cpu"], None),
    ],
)
def test_check_takes_several_runtimes_and_bench_one(
    tmp_path: Path, text: str, check: list[str], bench: str | None
) -> None:
    (tmp_path / "facex.toml").write_text(text)
    found = config.defaults(tmp_path / "facex.toml", cli)
    assert found["check"]["runtime"] == check
    assert found["bench"].get("runtime") == bench


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[bench]\nruntime = ["executor", "native"]', "'bench.runtime' takes one value, not 2"),
        ('[check]\nruntime = ["executor", "neural"]', "'check.runtime'.*'neural' is not one of"),
    ],
)
def test_runtimes_that_a_command_does_not_take_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "facex.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        config.defaults(tmp_path / "facex.toml", cli)


def test_pyproject_with_our_table(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "app"\n[tool.facex]\ncheckpoint = "a.pth"\nthreads = 2\n'
    )
    assert planned()["recipe"]["threads"] == 2


def test_pyproject_without_our_table_says_nothing(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "app"\n[tool.other]\nthreads = "many"\n')
    planned("a.pth")


def test_facex_toml_goes_before_pyproject(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.facex]\ncheckpoint = "a.pth"\nthreads = 2\n')
    (tmp_path / "facex.toml").write_text('checkpoint = "b.pth"\n')
    recipe = planned("--threads", "4")["recipe"]
    assert (Path(recipe["checkpoint"]).name, recipe["threads"]) == ("b.pth", 4)


def test_a_file_may_be_named(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text('checkpoint = "a.pth"\n')
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "strict.toml").write_text('checkpoint = "b.pth"\n')
    recipe = planned(before=("--config", "ci/strict.toml"))["recipe"]
    assert recipe["checkpoint"] == "ci/b.pth"
    (tmp_path / "ci" / "pyproject.toml").write_text('[tool.facex]\ncheckpoint = "c.pth"\n')
    assert planned(before=("--config", "ci/pyproject.toml"))["recipe"]["checkpoint"] == "ci/c.pth"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thread = 2", "'thread' is not an option"),
        ("targets = ['onnx']", "'targets' is not an option"),
        ("[export]\nruns = 3", "'export.runs' is not an option"),
        ("[convert]\nthreads = 3", "'convert' is not an option"),
        ("export = 3", "'export' is not an option"),
        ("weights = 3", "'weights' is not an option"),
        ("list = 3", "'list' is not an option"),
        ("[list]\njson = true", "'list' is not an option"),
        ("[weights]\nlist = 3", "'weights.list' is not an option — valid keys: json"),
        ("[weights]\nthreads = 3", "'weights.threads' is not an option — valid keys: json"),
        ("[weights.get]\njson = true", "'weights.get' is not an option"),
        ("[weights.list]\nname = 'a'", "'weights.list.name' is not an option — valid keys: json"),
        ("[weights.pull]\njson = 1", "'weights.pull.json' must be true or false, not 1"),
        ("threads = 0", "'threads'"),
        ("threads = 'two'", "'threads'"),
        ("threads = true", "'threads' must be text or a number, not True"),
        ("threads = [1, 2]", "'threads' takes one value, not 2"),
        ("threads = []", "'threads' takes one value, not 0"),
        ("opset = 5", "'opset'"),
        ("int8 = 'yes'", "'int8' must be true or false, not 'yes'"),
        ("int8 = 1", "'int8' must be true or false, not 1"),
        ("int8-effort = 'most'", "'int8-effort': 'most' is not one of 'minmax', 'fast', 'best'"),
        ("int8-steps = 0", "'int8-steps': 0 is not in the range x>=1"),
        ("target = ['ncnn']", "'target': 'ncnn' is not one of 'coreml', 'onnx', 'tflite'"),
        ("target = [['onnx']]", "'target' must be text or a number"),
        ("size = 'big'", "'size': --size big: is not HEIGHTxWIDTH"),
        ("activation = 'gelu'", "'activation': --activation gelu: is not relu or leaky:SLOPE"),
        ("mean = '1,2'", "'mean': --mean 1,2: is not 3 numbers"),
        ("limit = 'nonsense=1'", "'limit': --limit nonsense=1: no metric is called 'nonsense'"),
        ("min-f1 = 2", "'min-f1': --limit matched_f1=2"),
        ("max-size-mb = nan", "'max-size-mb': --max-size-mb nan: must be a positive number"),
        ("max-latency-ms = -1", "'max-latency-ms': --max-latency-ms -1: must be a positive number"),
        ("[bench]\nruns = 0", "'bench.runs'"),
        ("out = 1979-05-27", "'out' must be text or a number"),
        ("threads = ", "is not TOML"),
        ("threads = 1\nthreads = 2", "is not TOML"),
    ],
)
@pytest.mark.parametrize("name", ["facex.toml", "pyproject.toml"])
def test_mistakes_name_the_file_and_the_key(run_facex: Run, tmp_path: Path, name: str, text: str, message: str) -> None:
    if name == "pyproject.toml":
        text = "[tool.facex]\n" + text.replace("\n[", "\n[tool.facex.") if text[0] != "[" else "[tool.facex." + text[1:]
    (tmp_path / name).write_text(text)
    ran = run_facex("export", "a.pth", "--plan")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith(f"error: {tmp_path / name}: ")
    assert message in ran.error


@pytest.mark.parametrize(
    ("text", "message"),
    [("[tool]\nfacex = 3", "'tool.facex' must be a table, not 3"), ("tool = ", "is not TOML"), ("\x00", "is not TOML")],
)
def test_a_pyproject_that_makes_no_sense(run_facex: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    ran = run_facex("doctor")
    assert ran.code == 2
    assert message in ran.error
    assert "pyproject.toml" in ran.error


def test_a_file_that_is_named_must_say_something(run_facex: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    ran = run_facex("--config", "pyproject.toml", "doctor")
    assert ran.code == 2
    assert "pyproject.toml: has no [tool.facex]" in ran.error


def test_a_file_that_is_not_text(run_facex: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_bytes(b"\xff\xfe\x00")
    ran = run_facex("doctor")
    assert ran.code == 2
    assert "facex.toml: is not TOML" in ran.error


def test_paths_of_the_file_are_checked_like_any_other(run_facex: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ci.toml").write_text('checkpoint = "missing.pth"\n')
    ran = run_facex("--config", "sub/ci.toml", "export")
    assert ran.code == 2
    assert "sub/missing.pth: no such file" in ran.error


# --- budgets ------------------------------------------------------------------------------------------------

BUDGETS = """
[budget.host]
max_latency_ms = 30
max-size-mb = 3
[budget."pixel-4"]
max_latency_ms = 12.5
max_size_mb = 0.7
max_load_ms = 100
max_memory_mb = 9
compare = "median"
"""


def _named(name: str, text: str) -> str:
    """The text for a file of this name."""
    return text if name == "facex.toml" else text.replace("[", "[tool.facex.")


@pytest.mark.parametrize("name", ["facex.toml", "pyproject.toml"])
def test_budgets_of_devices(planned: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(_named(name, BUDGETS))
    budget = planned("a.pth")["recipe"]["budget"]
    (phone,) = budget.pop("others")
    unlimited = {"max_load_ms": None, "max_memory_mb": None, "compare": "upper"}
    assert budget == {**unlimited, "max_latency_ms": 30, "max_size_mb": 3, "device": "host"}
    assert phone == {
        "max_latency_ms": 12.5, "max_size_mb": 0.7, "max_load_ms": 100, "max_memory_mb": 9, "compare": "median",
        "device": "pixel-4", "others": [],
    }  # fmt: skip


def test_options_win_over_the_table_of_the_host_and_leave_other_devices_alone(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text(BUDGETS)
    budget = planned("a.pth", "--max-latency-ms", "50", "--max-memory-mb", "7")["recipe"]["budget"]
    assert (budget["max_latency_ms"], budget["max_size_mb"], budget["max_memory_mb"]) == (50, 3, 7)
    assert budget["others"][0]["max_latency_ms"] == 12.5


def test_a_file_without_budgets_has_none(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text('[budget]\n[budget."pixel-3"]\n')
    assert planned("a.pth")["recipe"]["budget"]["others"][0]["max_latency_ms"] is None
    (tmp_path / "facex.toml").write_text("threads = 2\n")
    assert planned("a.pth")["recipe"]["budget"]["others"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget = 3", "'budget' must be a table, not 3 — for example [budget.host]"),
        ("[budget]\nhost = 3", "'budget.\"host\"' must be a table, not 3"),
        ("[budget]\nmax_size_mb = 3", "'budget.\"max_size_mb\"': no such device — choose from adb, "),
        ("[budget.hots]\nmax_size_mb = 3", "'budget.\"hots\"': no such device"),
        ("[budget.host]\nmax_size = 3", "'budget.\"host\".max_size' is not a limit — valid keys: max_size_mb, "),
        ("[budget.host]\nthreads = 3", "'budget.\"host\".threads' is not a limit"),
        ("[budget.host]\nmax_size_mb = '3'", "'budget.\"host\".max_size_mb' must be a number, not '3'"),
        ("[budget.host]\nmax_size_mb = true", "'budget.\"host\".max_size_mb' must be a number, not True"),
        ("[budget.host]\nmax_size_mb = [3]", "'budget.\"host\".max_size_mb' must be a number, not [3]"),
        ("[budget.host]\nmax_load_ms = 0", "'budget.\"host\"': --max-load-ms 0: must be a positive number"),
        ("[budget.host]\nmax_load_ms = nan", "'budget.\"host\"': --max-load-ms nan: must be a positive number"),
        ("[budget.adb]\ncompare = 'most'", "'budget.\"adb\".compare': 'most' is none — choose from upper, median, "),
        ("[budget.adb]\ncompare = 3", "'budget.\"adb\".compare': 3 is none"),
        ("[budget.adb]\ncompare = ['upper']", "'budget.\"adb\".compare': ['upper'] is none"),
        ("[check.budget]\nhost = 1", "'check.budget' is not an option"),
        ("max-size-mb = 3\n[budget.host]\nmax_size_mb = 2", "'max-size-mb' and 'budget.\"host\".max_size_mb' are"),
        (
            "[bench]\nmax_load_ms = 3\n[budget.host]\nmax_load_ms = 2",
            "'bench.max_load_ms' and 'budget.\"host\".max_load_ms' are the same limit — keep one of them",
        ),
    ],
)
@pytest.mark.parametrize("name", ["facex.toml", "pyproject.toml"])
@pytest.mark.parametrize("command", ["export", "bench"])
def test_mistakes_in_budgets_name_file_table_and_key(
    run_facex: Run, tmp_path: Path, name: str, command: str, text: str, message: str
) -> None:
    if name == "pyproject.toml":
        text = "[tool.facex]\n" + text.replace("\n[", "\n[tool.facex.") if text[0] != "[" else _named(name, text)
        text = text.replace("= [tool.facex.", "= [")
    (tmp_path / name).write_text(text)
    ran = run_facex(command, "a.pth")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith(f"error: {tmp_path / name}: ")
    assert message in ran.error


def test_limits_of_another_device_may_stand_beside_an_option(planned: Run, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text('max-size-mb = 3\n[budget."pixel-4"]\nmax_size_mb = 2\n')
    budget = planned("a.pth")["recipe"]["budget"]
    assert (budget["max_size_mb"], budget["others"][0]["max_size_mb"]) == (3, 2)


def test_budgets_hold_in_check_and_bench(
    run_facex: Run, tmp_path: Path, exported: Path, seeded_checkpoint: Path, photo_dir: Path
) -> None:
    (tmp_path / "facex.toml").write_text(
        '[budget.host]\nmax_load_ms = 0.001\nmax_memory_mb = 0.001\n[budget."pixel-4"]\nmax_latency_ms = 0.001\n'
    )
    artifact = exported / "seeded_160x160_fp32.onnx"
    for arguments in (
        ("bench", artifact, "--runs", "1", "--json"),
        ("check", artifact, "--reference", seeded_checkpoint, "--images", photo_dir, "--out", "ci", "--json"),
    ):
        ran = run_facex(*arguments)
        assert ran.code == 4
        told = json.loads(ran.out)
        verdicts = {
            (f["name"], f["device"]): f["verdict"]
            for f in told["findings"]
            if f["name"] in ("latency", "load", "memory")
        }
        assert verdicts[("load", None)] == "fail"
        assert verdicts[("memory", None)] in ("fail", "skipped")  # skipped where no system tells it
        assert verdicts[("latency", "pixel-4")] == "skipped"
        assert told["latency"][0]["load_ms"] > 0.001
    assert 'name="load"' in (tmp_path / "ci" / "junit.xml").read_text()
    assert "above the limit of 0.001 ms" in (tmp_path / "ci" / "junit.xml").read_text()
