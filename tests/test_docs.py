"""The documents tell the truth: commands parse, examples run, tables agree with the code, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import facex
from facex import architectures, config, errors, exporters, recipe, showing
from facex.cli import cli
from facex.device_bench import _phones, emulator, emulator_setup
from facex.manifest import schema
from facex.parity import average_precision, limits, match, metrics, witness
from facex.reference import geometry
from facex.reference.families.retinaface import ASSUMED
from facex.report.page import charts, thumbnails
from facex.types import Precision, Size

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = (README, ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")))
WORKFLOW = DOCS / "github-actions.yml"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(page: Path, title: str) -> str:
    """What stands below a heading of level two, up to the next one."""
    return re.split(r"^## ", text_of(page).split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every Markdown table, without its header's rule and without backticks."""
    found = []
    for block in re.findall(r"(?:^[ \t]*\|.*\|\n)+", text, flags=re.M):
        rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in block.strip().splitlines()]
        cells = [[cell.strip().replace("`", "").replace("\\|", "|") for cell in row] for row in rows]
        found.append([row for row in cells if not set("".join(row)) <= set("-: ")])
    return found


def code(text: str, language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)[1]


def commands(text: str) -> list[list[str]]:
    """Arguments of every `facex …` on an indented line or after a prompt; those with an ellipsis are no commands."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^(?:[ \t]+|\$ )facex ((?:--|[a-z]).*)$", joined, flags=re.M)
    return [shlex.split(line, comments=True) for line in lines if "…" not in line]


def parsed(name: str, arguments: list[str]) -> click.Context:
    """The context of a command as `facex` makes it, its options checked and nothing run."""
    context = click.Context(cli, info_name="facex", **cli.context_settings)
    command = cli.commands[name]
    while isinstance(command, click.Group):
        context = click.Context(command, info_name=name, parent=context)
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments, parent=context)


# Links


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", text_of(target), flags=re.M)), link


def test_the_readme_leads_to_every_page():
    for page in DOCS.glob("*.*"):
        assert f"docs/{page.name}" in text_of(README) or page.suffix in (".py", ".json"), page.name


# Commands


@pytest.mark.parametrize(
    "page",
    [
        README,
        WORKFLOW,
        *(
            DOCS / f"{n}.md"
            for n in ("adding_a_family", "adding_a_target", "demo", "devices", "diff", "weights", "estimates", "report")
        ),
    ],
)
def test_commands_parse(page):
    found = commands(text_of(page).replace("--target onnxz", "--target onnx"))
    assert found
    for name, *arguments in found:
        parsed(name, arguments)


def test_a_command_that_does_not_exist_would_be_seen():
    ((name, *arguments),) = commands("    facex export model.pth --tarket onnx")
    with pytest.raises(click.NoSuchOption, match="--tarket"):
        parsed(name, arguments)


def test_the_readme_begins_with_its_two_commands():
    makefile = text_of(ROOT / "Makefile")
    top = text_of(README).split("\n## ")[0].splitlines()[:6]
    for command in ("make export", "make test"):
        assert f"    {command}" in top
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.M)
    assert "EXPORT_OPTIONS" in makefile


def test_the_command_line_page_is_fresh():
    # compared word by word: releases of click break lines at different places
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(DOCS), str(ROOT)])}
    command = [sys.executable, "-c", "import write_cli; print(write_cli.page())"]
    written = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert text_of(DOCS / "cli.md").split() == written.split(), "run `make docs`"


def test_examples_in_the_help_keep_their_lines():
    for name, command in cli.commands.items():
        text = command.get_help(click.Context(command, info_name=name, **cli.context_settings))
        assert "\\b" not in text
        assert re.search(rf"^    facex {name}", text, flags=re.M), text


# Tables


def number(cell: str) -> float | None:
    return None if cell == "\N{EN DASH}" else float(cell)


def test_limits_are_the_default_ones():
    ((header, *rows),) = tables(section(README, "Limits"))
    assert header[2:] == [str(p) for p in Precision]
    written = {row[0].split(",")[0]: [number(cell) for cell in row[2:]] for row in rows}
    held = {name for values in limits.DEFAULT_LIMITS.values() for name in values}
    assert written == {name: [limits.DEFAULT_LIMITS[p].get(name) for p in Precision] for name in held}
    assert {row[0].split(",")[0]: row[1] for row in rows} == {n: limits.METRICS[n].direction.value for n in held}


def test_limits_against_the_executor_are_the_default_ones():
    (header, *rows) = next(t for t in tables(text_of(DOCS / "parity.md")) if t[0][:2] == ["metric", "limit"])
    kinds = [[Precision(word) for word in cell.split(", ")] for cell in header[2:]]
    assert sorted(p for kind in kinds for p in kind) == sorted(Precision)
    for row in rows:
        name = row[0].split(",")[0]
        assert row[1] == limits.METRICS[name].direction.value
        for kind, cell in zip(kinds, row[2:], strict=True):
            assert {limits.executor_limits(p).get(name) for p in kind} == {number(cell)}
    assert {row[0].split(",")[0] for row in rows} == {name for p in Precision for name in limits.executor_limits(p)}


def test_exit_codes_are_those_of_the_program():
    ((_, *rows),) = tables(section(README, "Exit codes"))
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in rows} == codes
    comments = re.findall(r"^\s+#\s+(\d)  ", text_of(WORKFLOW), flags=re.M)
    assert set(map(int, comments)) == codes - {errors.EXIT_INTERRUPTED}


def test_assumptions_are_the_defaults():
    _, (_, *rows) = tables(section(README, "State the contract"))
    assumed = dict(rows)
    assert recipe.parse_activation(assumed["--activation"]) == ASSUMED["activation_slope"]
    assert recipe.parse_anchors(assumed["--anchors"].split(" ")[0]) == ASSUMED["min_sizes"]
    assert recipe.parse_numbers(assumed["--variances"], "--variances") == ASSUMED["variances"]
    assert assumed["--channel-order"] == "bgr"
    mean, scale = assumed["--mean, --scale"].split(",  in")[0].split(", in ")[0].split(" and ")
    assert recipe.parse_numbers(mean, "--mean") == ASSUMED["mean"]
    assert recipe.parse_numbers(scale, "--scale") == (1.0, 1.0, 1.0)


def test_inputs_are_those_of_the_targets():
    inputs, _ = tables(section(README, "In the app"))
    written = {row[0].lower().replace(" ", ""): row[1] for row in inputs[1:]}
    assert set(written) == set(exporters.names())
    for name, words in written.items():
        info = exporters.info(name)
        if info.image_dtype == "image":
            assert words == "an RGB image, H \N{MULTIPLICATION SIGN} W"
        else:
            assert words == f"{info.image_dtype} [1, {'H, W, 3' if info.channels_last else '3, H, W'}]"


def test_the_number_of_priors_is_right(detector):
    count = len(geometry.priors(detector.contract, Size(height=640, width=640)))
    assert f"N is the number of priors, {count} at 640x640" in text_of(README)


def test_constants_of_parity_are_those_of_the_code():
    constants = next(t for t in tables(text_of(DOCS / "parity.md")) if t[0] == ["constant", "value"])
    assert [float(value) for _, value in constants[1:]] == [
        metrics.FACE_SCORE, geometry.NMS_IOU, match.MATCH_IOU, metrics.SURE_SCORE, average_precision.AP_SCORE,
        average_precision.MIN_HEIGHT_PX, metrics.SNR_LIMIT_DB,
    ]  # fmt: skip


def test_every_metric_is_defined():
    rows = next(t for t in tables(text_of(DOCS / "parity.md")) if t[0][0] == "metric")[1:]
    bounds = {limits.Direction.MIN: "lowest", limits.Direction.MAX: "highest"}
    written = {name: (row[1], row[2]) for row in rows for name in row[0].split(", ")}
    assert written == {name: (m.unit, bounds[m.direction]) for name, m in limits.METRICS.items()}


def test_limits_and_versions_of_arm64_are_those_of_the_code():
    page = text_of(DOCS / "arm64.md")
    rows = next(t for t in tables(page) if t[0][0] == "finding")[1:]
    assert {row[0]: float(row[3]) for row in rows} == limits.ARM64_LIMITS
    assert f"ai-edge-litert {emulator.LITERT} and numpy {emulator_setup.NUMPY}" in page
    assert {f"{name.capitalize()} {release}" for name, release in emulator_setup.PYTHONS} == {
        *("Debian 12", "Debian 13", "Ubuntu 22.04", "Ubuntu 24.04")
    }
    assert "Debian 12 and 13 and Ubuntu 22.04 and 24.04" in page
    assert f"{architectures.PICTURES[True]} of `--images`" in page
    assert f"{architectures.PICTURES[False]} for any other" in page


def test_numbers_of_the_page_are_those_of_the_code():
    page = text_of(DOCS / "report.md")
    assert f"at most {thumbnails.PHOTOGRAPHS}, and at most four for each file" in page
    assert witness.SCENES == 4
    assert f"at most {charts.DOTS} faces of a kind,\nfewer from {thumbnails.MANY + 1} runs on" in page
    assert f"more than {charts.CLIPPED:.1%}".replace("%", " %") in page
    assert showing.PHOTOGRAPHS == 2
    assert "on two of `--images`" in page


def test_every_key_of_the_manifest_is_explained():
    page = text_of(DOCS / "manifest.md")
    whole = schema()
    objects = [whole, *(d for d in whole["$defs"].values() if "properties" in d)]
    keys = {key for found in objects for key in found["properties"]}
    words = set(re.findall(r"`(?:\w+\.)?(\w+)(?:\[\])?`", page))
    assert keys - words == set()


# Examples


def test_the_configuration_is_accepted(tmp_path):
    path = tmp_path / "facex.toml"
    path.write_text(code(section(README, "facex.toml"), "toml"), encoding="utf-8")
    found = config.defaults(path, cli)
    assert found["export"]["targets"] == ["onnx", "tflite"]
    assert found["export"]["checkpoint"] == str(tmp_path / "model.pth")
    assert found["check"]["out"] == str(tmp_path / "ci")
    assert found["bench"] == {"max_size_mb": "2.0"}
    assert "reference" not in found["export"]
    with cli.make_context("facex", ["--config", str(path), "export", "--plan"]) as context:
        cli.callback(config_path=path, debug=False)
        options = cli.commands["export"].make_context("export", ["--plan"], parent=context).params
    assert options["channel_order"] == "bgr"
    assert options["targets"] == ("onnx", "tflite")


def test_the_budgets_are_accepted(tmp_path):
    path = tmp_path / "facex.toml"
    path.write_text(code(text_of(DOCS / "budgets.md"), "toml"), encoding="utf-8")
    assert config.budgets(path)["pixel-4"].max_size_mb == 0.7
    keys = {row[0] for row in tables(text_of(DOCS / "budgets.md"))[0][1:]}
    assert keys == {*recipe.BUDGET_LIMITS, "compare"}


def test_the_rules_of_diff_are_accepted(tmp_path):
    path = tmp_path / "facex.toml"
    path.write_text(code(text_of(DOCS / "diff.md"), "toml"), encoding="utf-8")
    assert config.defaults(path, cli)["diff"]["fail_on"] == ["regression:5%", "regression:latency:15%"]


def test_the_workflow_is_yaml():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(text_of(WORKFLOW))
    (job,) = workflow["jobs"].values()
    steps = {step.get("name", step.get("uses")): step for step in job["steps"]}
    assert "facex[tflite]" in steps["Install facex"]["run"]
    assert steps["Gate"]["run"].startswith("facex check ")
    assert steps["Keep the reports"]["if"] == "always()"
    assert "ci/junit.xml" in steps["Keep the reports"]["with"]["path"]


def test_extras_exist():
    project = text_of(ROOT / "pyproject.toml")
    extras = {name for page in (README, WORKFLOW) for name in re.findall(r"(?:facex|\.)\[([a-z,]+)\]", text_of(page))}
    assert {"tflite", "coreml", "all"} <= extras
    for name in extras:
        assert re.search(rf"^{name} = \[", project, flags=re.M), name


def test_the_changelog_knows_this_version():
    assert f"## [{facex.__version__}]" in text_of(ROOT / "CHANGELOG.md")


def test_the_house_is_complete():
    folders: list[str] = []
    listed = set()
    for line in code(section(README, "The house"), "text").splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            listed.add("".join([*folders, name]))
    built = {p.relative_to(ROOT).as_posix() for p in (ROOT / "facex").rglob("*.py")}
    assert listed == {p for p in built if not p.endswith("/__init__.py") or p == "facex/__init__.py"}


def modules_with_examples() -> list[str]:
    paths = [p for p in (ROOT / "facex").rglob("*.py") if ">>> " in text_of(p)]
    return sorted(".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths)


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_some_docstring_has_an_example():
    assert "facex.recipe" in modules_with_examples()


@pytest.mark.slow
def test_the_python_example(tmp_path, seeded_checkpoint, photo_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").symlink_to(seeded_checkpoint)
    (tmp_path / "photos").symlink_to(photo_dir)
    exec(compile(code(section(README, "Python"), "python"), str(README), "exec"), {})
    *files, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in files] == ["model_320x320_fp32.onnx", "model_320x320_fp32.tflite"]
    assert all(line.endswith(" pass") for line in files)
    assert last.startswith("0 0 [")


def test_the_table_of_phones_is_what_was_fitted():
    (table,) = (t for t in tables(text_of(DOCS / "estimates.md")) if t[0][0] == "--device")
    assert [row[0] for row in table[1:]] == _phones.names()
    for name, _, taken, *fits in table[1:]:
        phone = _phones.load(name)
        assert taken == _phones.years(phone.figures)
        for arithmetic, told in zip((_phones.FLOAT, _phones.INT8), fits, strict=True):
            costs = _phones.costs(name, arithmetic)
            shown = costs and f"{costs.networks} / {costs.median_error:.0%} / x{costs.factor_90:.2f}"
            assert told == (shown or "–")  # noqa: RUF001
