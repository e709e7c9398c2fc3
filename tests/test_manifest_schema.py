"""The schema of the manifest, and what `load` refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from facex.errors import ArtifactError
from facex.manifest import Calibration, Evaluation, Manifest, Source, Stability, load, schema, to_json
from facex.reference.detector import SETTLED
from facex.types import (
    Artifact,
    ChannelOrder,
    Contract,
    ContractOptions,
    Credits,
    Finding,
    ForecastOperations,
    Head,
    Latency,
    LatencyKind,
    NeuralEngineForecast,
    Placement,
    Precision,
    Runtime,
    Selection,
    SettledBy,
    Size,
    TensorInfo,
    Verdict,
)

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "manifest.json"
"""A manifest with everything in it; `test_manifest.py` makes it."""

PLAIN = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture
def rich() -> Manifest:
    return load(GOLDEN)


def _save(folder: Path, data: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_schema_accepts_a_rich_and_a_bare_manifest(rich: Manifest) -> None:
    bare = dataclasses.replace(rich, calibration=None, evaluation=None, artifacts=(), findings=(), latency=())
    for manifest in (rich, rich.reproducible(), bare):
        jsonschema.validate(json.loads(to_json(manifest)), schema())


def test_documentation_shows_the_packaged_schema() -> None:
    documented = ROOT / "docs" / "manifest.schema.json"
    assert documented.read_bytes() == (ROOT / "facex" / "manifest.schema.json").read_bytes()


@pytest.mark.parametrize(
    ("kind", "definition"),
    [
        (Manifest, None),
        (Source, "source"),
        (Contract, "contract"),
        (Calibration, "calibration"),
        (Stability, "stability"),
        (Evaluation, "evaluation"),
        (Size, "size"),
        (TensorInfo, "tensor"),
        (Artifact, "artifact"),
        (Credits, "credits"),
        (NeuralEngineForecast, "neural_engine_forecast"),
        (ForecastOperations, "forecast_operations"),
        (Selection, "selection"),
        (Finding, "finding"),
        (Latency, "latency"),
    ],
)
def test_schema_names_the_fields_of_the_dataclass(kind: type, definition: str | None) -> None:
    part = schema()["$defs"][definition] if definition else schema()
    fields = {field.name for field in dataclasses.fields(kind)}
    assert set(part["properties"]) == fields
    assert set(part["required"]) == fields
    assert part["additionalProperties"] is False
    assert all(entry["description"].strip() for entry in part["properties"].values())


@pytest.mark.parametrize(
    ("definition", "key", "values"),
    [
        ("artifact", "precision", list(Precision)),
        ("artifact", "head", list(Head)),
        ("forecast_operations", "placement", list(Placement)),
        ("finding", "verdict", list(Verdict)),
        ("latency", "kind", list(LatencyKind)),
        ("contract", "channel_order", list(ChannelOrder)),
    ],
)
def test_schema_lists_the_words_of_the_enum(definition: str, key: str, values: list[str]) -> None:
    assert schema()["$defs"][definition]["properties"][key]["enum"] == [str(value) for value in values]


def test_schema_lists_the_runtimes_and_none() -> None:
    assert schema()["$defs"]["runtime"]["enum"] == [*map(str, Runtime), None]
    for definition in ("finding", "latency"):
        assert schema()["$defs"][definition]["properties"]["runtime"]["$ref"] == "#/$defs/runtime"


def test_schema_lists_what_can_be_assumed() -> None:
    listed = schema()["$defs"]["source"]["properties"]["assumed"]["items"]["enum"]
    assert set(listed) == {field.name for field in dataclasses.fields(ContractOptions)}


def test_schema_lists_what_can_be_settled() -> None:
    properties = schema()["$defs"]["settled"]["properties"]
    assert properties["field"]["enum"] == list(SETTLED)
    assert properties["how"]["enum"] == list(map(str, SettledBy))


Step = str | int


def _objects(value: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Paths of all objects but `tools`, whose keys are free; the first entry stands for its list."""
    if isinstance(value, dict) and path != ("tools",):
        yield path
        for key, entry in value.items():
            yield from _objects(entry, (*path, key))
    elif isinstance(value, list) and value:
        yield from _objects(value[0], (*path, 0))


def _at(value: Any, path: tuple[Step, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


KEYS = [(path, key) for path in _objects(PLAIN) for key in _at(PLAIN, path)]


@pytest.mark.parametrize(("path", "key"), KEYS, ids=lambda part: part if isinstance(part, str) else None)
def test_load_refuses_a_manifest_without_one_key(tmp_path: Path, path: tuple[Step, ...], key: str) -> None:
    data = copy.deepcopy(PLAIN)
    del _at(data, path)[key]
    with pytest.raises(ArtifactError, match=key):
        load(_save(tmp_path, data))


@pytest.mark.parametrize("path", list(_objects(PLAIN)), ids=lambda path: "/".join(map(str, path)) or "top")
def test_load_refuses_a_manifest_with_an_unknown_key(tmp_path: Path, path: tuple[Step, ...]) -> None:
    data = copy.deepcopy(PLAIN)
    _at(data, path)["colour"] = "blue"
    with pytest.raises(ArtifactError, match="colour"):
        load(_save(tmp_path, data))


CHOOSING = next(i for i, a in enumerate(PLAIN["artifacts"]) if a["selection"])
FORECAST = next(i for i, a in enumerate(PLAIN["artifacts"]) if a["neural_engine_forecast"])
FAILING = next(i for i, f in enumerate(PLAIN["findings"]) if f["verdict"] == "fail")
SKIPPED = next(i for i, f in enumerate(PLAIN["findings"]) if f["verdict"] == "skipped")

WRONG: list[tuple[tuple[Step, ...], Any]] = [
    (("source", "checkpoint"), ""),
    (("source", "sha256"), "3F2A9C1B" * 8),
    (("source", "sha256"), "3f2a"),
    (("source", "sha256"), "ab" * 32 + "\n"),
    (("source", "assumed"), ["family"]),
    (("source", "assumed"), ["mean", "mean"]),
    (("source", "contract", "channel_order"), "grb"),
    (("source", "contract", "activation_slope"), -0.1),
    (("source", "contract", "strides"), []),
    (("source", "contract", "strides", 0), 8.5),
    (("source", "contract", "min_sizes"), [[]]),
    (("source", "contract", "min_sizes", 0, 0), 0),
    (("source", "contract", "variances"), [0.1]),
    (("source", "contract", "mean"), [104.0, 117.0]),
    (("source", "contract", "landmarks"), 0),
    (("calibration",), {}),
    (("calibration", "count"), 0),
    (("calibration", "digest"), ""),
    (("calibration", "effort"), "much"),
    (("calibration", "effort"), ""),
    (("calibration", "seed"), -1),
    (("calibration", "seed"), 0.5),
    (("calibration", "photographs_with_faces"), -1),
    (("calibration", "photographs_with_faces"), "all"),
    (("calibration", "near_duplicates"), "few"),
    (("calibration", "near_duplicates"), -1),
    (("calibration", "stability"), 0.1),
    (("calibration", "stability", "median"), -0.1),
    (("calibration", "stability", "worst"), 1.5),
    (("calibration", "stability", "tensor"), ""),
    (("calibration", "sha256"), ["ab"]),
    (("calibration", "sha256"), ["ab" * 32] * 2),
    (("evaluation", "reference_faces"), -1),
    (("artifacts",), {}),
    (("artifacts", 0, "path"), "/absolute.onnx"),
    (("artifacts", 0, "path"), "folder/"),
    (("artifacts", 0, "precision"), "int8"),
    (("artifacts", 0, "head"), "both"),
    (("artifacts", 0, "size"), "640x640"),
    (("artifacts", 0, "size_bytes"), 0),
    (("artifacts", 0, "size_bytes"), True),
    (("artifacts", 0, "inputs"), []),
    (("artifacts", 0, "outputs", 0, "shape", 0), -1),
    (("artifacts", 0, "integer_mac_fraction"), 1.01),
    (("artifacts", 0, "runtime"), ""),
    (("artifacts", 0, "promoted"), "yes"),
    (("artifacts", 0, "credits"), None),
    (("artifacts", 0, "credits", "author"), None),
    (("artifacts", FORECAST, "neural_engine_forecast"), "on the Neural Engine"),
    (("artifacts", FORECAST, "neural_engine_forecast", "resident_mac_fraction"), 1.5),
    (("artifacts", FORECAST, "neural_engine_forecast", "transitions"), -1),
    (("artifacts", FORECAST, "neural_engine_forecast", "first_elsewhere"), ""),
    (("artifacts", FORECAST, "neural_engine_forecast", "operations", 0, "placement"), "gpu"),
    (("artifacts", FORECAST, "neural_engine_forecast", "operations", 0, "count"), 0),
    (("artifacts", FORECAST, "neural_engine_forecast", "notes"), [""]),
    (("artifacts", CHOOSING, "selection", "score_threshold"), 1.5),
    (("artifacts", CHOOSING, "selection", "nms_iou"), None),
    (("artifacts", CHOOSING, "selection", "max_faces"), 0),
    (("artifacts", CHOOSING, "selection"), "detections"),
    (("findings", 0, "name"), "Matched F1"),
    (("findings", 0, "unit"), "percent"),
    (("findings", 0, "actual"), "1.0"),
    (("findings", 0, "actual"), None),
    (("findings", 0, "verdict"), "ok"),
    (("findings", 0, "runtime"), "neural"),
    (("latency", 0, "runtime"), ""),
    (("findings", 0, "reason"), "a pass needs no reason"),
    (("findings", FAILING, "reason"), ""),
    (("findings", SKIPPED, "reason"), ""),
    (("findings", SKIPPED, "actual"), 1.0),
    (("latency", 0, "kind"), "guess"),
    (("latency", 0, "threads"), 0),
    (("latency", 0, "p50_ms"), 0.0),
    (("tools", "onnx"), 1.17),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda part: str(part)[:40])
def test_load_refuses_a_wrong_value(tmp_path: Path, path: tuple[Step, ...], value: Any) -> None:
    data = copy.deepcopy(PLAIN)
    assert _at(data, path) != value
    _at(data, path[:-1])[path[-1]] = value
    with pytest.raises(ArtifactError, match="/".join(map(str, path[:2]))):
        load(_save(tmp_path, data))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_load_refuses_numbers_that_are_not_finite(tmp_path: Path, rich: Manifest, number: str) -> None:
    text = to_json(rich).replace('"actual": 0.87312', f'"actual": {number}')
    assert number in text
    with pytest.raises(ArtifactError, match=f"{number} is not a finite number"):
        load(_save(tmp_path, text))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"manifest"', "[" * 100_000])
def test_load_refuses_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load(_save(tmp_path, text))


def test_load_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="is not a manifest"):
        load(path)


def test_load_refuses_another_schema_version(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="schema_version is 2, this facex reads 1"):
        load(_save(tmp_path, PLAIN | {"schema_version": 2}))


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(tmp_path / "none.json")
