"""The table of published figures: its form, its sources, and its counts against networks that are built and read."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest

from facex.device_bench import _anchors, _host_ratio, _phones, _tflite_builder, _work
from facex.device_bench._phones import FLOAT, INT8
from facex.device_bench._tflite_builder import Builder
from facex.errors import ArtifactError, MissingExtraError
from facex.progress import Silent

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
COUNTS = ("mmacs", "conv_mmacs", "pointwise_mmacs", "depthwise_mmacs", "melements", "operators")
TABLE = json.loads(_phones.FIGURES_PATH.read_text(encoding="utf-8"))
SCHEMA = json.loads(_phones.FIGURES_PATH.with_name("phones.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`script("fit_latency")` imports a benchmark."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_the_table_keeps_its_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(TABLE, SCHEMA)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("figures", "source", "a page somewhere"),
        ("figures", "source", None),
        ("figures", "ms", 0),
        ("figures", "years", "recently"),
        ("figures", "precision", "f32"),
        ("networks", "mmacs", -1),
        ("networks", "source", ""),
    ],
)
def test_the_schema_refuses(part: str, key: str, value: object) -> None:
    broken = {**TABLE, part: [{**TABLE[part][0], key: value}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_every_figure_is_of_a_known_network_and_device_and_is_there_once() -> None:
    figures, networks = TABLE["figures"], [n["name"] for n in TABLE["networks"]]
    keys = [(f["device"], f["precision"], f["network"]) for f in figures]
    assert {f["network"] for f in figures} == set(networks)
    assert {f["device"] for f in figures} == set(_phones.names())
    assert len(set(networks)) == len(networks)
    # a phone with figures in fp32 and in fp16 would be two phones
    assert len({(d, p == "int8", n) for d, p, n in keys}) == len(keys)


@pytest.mark.parametrize("name", _phones.names())
def test_the_figures_of_a_phone_have_everything_in_common(name: str) -> None:
    rows = [f for f in TABLE["figures"] if f["device"] == name]
    assert len({(f["unit"], f["threads"], f["runtime"]) for f in rows}) == 1
    phone = _phones.load(name)
    assert (phone.threads is None) == (phone.unit != "CPU")
    assert len(phone.of(FLOAT)) + len(phone.of(INT8)) == len(rows)


def test_no_figure_of_a_retinaface_is_in_the_table() -> None:
    assert not [n["name"] for n in TABLE["networks"] if "retina" in n["name"]]


@pytest.mark.parametrize("name", [n["name"] for n in TABLE["networks"] if n["melements"] is not None])
def test_the_parts_of_the_work_add_up(name: str) -> None:
    (plain,) = (n for n in TABLE["networks"] if n["name"] == name)
    assert sum(plain[key] for key in COUNTS[1:4]) == pytest.approx(plain["mmacs"], rel=0.002)


def _expect(name: str, work: _work.Work) -> None:
    (plain,) = (n for n in TABLE["networks"] if n["name"] == name)
    for key in COUNTS:
        # the table has two decimals
        assert getattr(work, key) == pytest.approx(plain[key], rel=0.004, abs=0.0051), key


@pytest.mark.parametrize("name", [n for n in _anchors.names() if n in {t["name"] for t in TABLE["networks"]}])
def test_an_anchor_asks_for_the_work_in_the_table(name: str) -> None:
    _expect(name, _work.of_tflite(_anchors.build(name, int8=False)))


@pytest.mark.slow
def test_a_large_network_asks_for_the_work_in_the_table(script: Any) -> None:
    for name, architecture in script("large_networks").ARCHITECTURES.items():
        _expect(name, _work.of_tflite(_tflite_builder.written(architecture, int8=False)))


def test_work_by_hand() -> None:
    def network(g: Builder) -> int:
        x = g.conv(g.image(8), 4, 3, 2)
        x = g.add(x, g.relu(g.depthwise(x, 3)))
        return g.dense(g.global_pool(g.conv(x, 6)), 5)

    for int8 in (False, True):
        file = _tflite_builder.written(network, int8=int8)
        work = _work.of_tflite(file)
        conv, depthwise, pointwise, dense = 4 * 4 * 4 * 27, 4 * 4 * 4 * 9, 4 * 4 * 6 * 4, 6 * 5
        assert work.conv_mmacs == pytest.approx((conv + dense) / 1e6)
        assert work.depthwise_mmacs == pytest.approx(depthwise / 1e6)
        assert work.pointwise_mmacs == pytest.approx(pointwise / 1e6)
        assert work.mmacs == pytest.approx((conv + depthwise + pointwise + dense) / 1e6)
        wide, last = 4 * 4 * 4, 4 * 4 * 6
        moved = (192 + wide) + 2 * wide + 2 * wide + 3 * wide + (wide + last) + (last + 6) + (6 + 5)
        assert work.melements == pytest.approx(moved / 1e6)
        assert work.operators == 7
        joined = _work.of_tflite(file, joined=True)
        assert joined.operators == 6
        assert joined.melements == pytest.approx((moved - 2 * wide) / 1e6)


def test_a_built_convolution_computes_one() -> None:
    def network(g: Builder) -> int:
        return g.conv(g.image(4), 2, activation="NONE")

    interpreter = _work.opened(_tflite_builder.written(network, int8=False))
    interpreter.allocate_tensors()
    image = np.random.default_rng(1).standard_normal((1, 4, 4, 3)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    weight = np.random.default_rng(0).standard_normal(65_537).astype(np.float32)[:6].reshape(2, 3) * math.sqrt(2 / 3)
    np.testing.assert_allclose(found, np.einsum("bhwc,oc->bhwo", image, weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arithmetic", [FLOAT, INT8])
def test_anchors_run_and_take_longer_where_there_is_more_to_do(arithmetic: str) -> None:
    names = ("mobilenet_v1_0.25_128", "mobilenet_v1_1.0_224")
    labels = {_host_ratio.label(n, arithmetic): _anchors.build(n, int8=arithmetic == INT8) for n in names}
    times = _host_ratio.times(labels, Silent(), rounds=5, max_seconds=5)
    small, large = times.values()
    assert large.minimum_ms > 5 * small.minimum_ms > 0  # 42 times the multiply-accumulates
    assert small.noise >= 1


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(b"no flatbuffer at all")
    with pytest.raises(ArtifactError, match=r"a\.tflite: LiteRT cannot read it"):
        _work.of_tflite(path)


def test_without_litert_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match=r"facex\[tflite\]"):
        _work.opened(b"")


# What was fitted


@pytest.mark.parametrize(("device", "arithmetic"), [("pixel-4", FLOAT), ("snapdragon-835", FLOAT), ("pixel-3", INT8)])
def test_the_script_fits_what_is_recorded(script: Any, device: str, arithmetic: str) -> None:
    fitted = script("fit_latency").costs(device, arithmetic, _phones.load(device).of(arithmetic))
    recorded = _phones.costs(device, arithmetic)
    assert recorded is not None
    assert fitted.ms == pytest.approx(recorded.ms, rel=0.01)
    assert fitted.factor_90 == pytest.approx(recorded.factor_90, rel=0.01)
    assert (fitted.networks, fitted.families) == (recorded.networks, recorded.families)


def test_a_fit_finds_costs_that_it_is_shown(script: Any) -> None:
    terms = ("million multiply-accumulates", "million elements")
    figures = _phones.load("pixel-3").of(FLOAT)
    made = [
        _phones.Figure(
            network=f.network,
            precision="fp32",
            ms=0.02 * f.network.work.mmacs + 0.3 * (f.network.work.melements or 0),
            years="2020",
            source="https://example.org",
        )
        for f in figures
    ]
    found = script("fit_latency").fit(made, terms)
    assert found == pytest.approx({terms[0]: 0.02, terms[1]: 0.3}, rel=0.02)


def test_a_held_out_family_was_not_seen(script: Any) -> None:
    fit_latency = script("fit_latency")
    figures = list(_phones.load("pixel-4").of(FLOAT))
    (place,) = (i for i, f in enumerate(figures) if f.network.family == "squeezenet")
    wrong = figures.copy()
    wrong[place] = _phones.Figure(
        network=figures[place].network, precision="fp32", ms=100 * figures[place].ms, years="2020", source="https://a.b"
    )
    terms = fit_latency.CHOICES[0]
    name = figures[place].network.name
    told, told_wrong = (fit_latency.held_out(each, terms)[name] for each in (figures, wrong))
    assert told_wrong == pytest.approx(told / 100)


def test_work_that_is_not_known_is_no_zero() -> None:
    costs = _phones.costs("pixel-3", FLOAT)
    assert costs is not None
    with pytest.raises(ValueError, match="is not known"):
        costs.latency_ms(_work.Work(mmacs=100.0))


# What held-out networks show


def test_fitted_costs_tell_held_out_families_of_pixel_3() -> None:
    costs = _phones.costs("pixel-3", FLOAT)
    assert costs is not None
    assert costs.networks >= 26
    assert costs.median_error <= 0.12
    assert costs.factor_90 <= 1.3


@pytest.mark.slow
def test_leave_one_family_out_on_pixel_3_is_no_worse_than_required(script: Any) -> None:
    validation = script("latency_validation")
    figures = _phones.load("pixel-3").of(FLOAT)
    times = validation.timed(figures, FLOAT, large=False, max_seconds=25)
    found = validation.summary(validation.rows(figures, times, FLOAT))
    count, median_error, factor_90 = found["joined"]
    assert count == len(figures)
    assert median_error <= 0.12
    assert factor_90 <= 1.3
    # the ratio alone, without the networks that take too long here: measured 13 % and x1.24
    count, median_error, factor_90 = found["host ratio"]
    assert count >= 25
    assert median_error <= 0.20
    assert factor_90 <= 1.4


def test_the_published_latency_of_a_retinaface_is_inside_its_band(script: Any) -> None:
    (found,) = script("latency_validation").retinaface_bands()
    device, published_ms, band = found
    assert (device, published_ms) == ("snapdragon-835", 130.94)
    assert band.low_ms <= published_ms <= band.high_ms
    assert band.high_ms / band.low_ms <= 1.3**2 + 1e-9  # not by being wide
