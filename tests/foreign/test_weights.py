"""What may happen to a convolution on its way into a file, done by hand, and what may not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.exporters._foreign import Convolution
from facex.foreign import weights
from facex.provenance import Agreement, Answer, Weights

SHAPES = ((8, 3, 3, 3), (8, 1, 3, 3), (16, 8, 1, 1), (16, 16, 3, 3))


def _convolution(name: str, weight: NDArray[Any], bias: NDArray[Any], **changes: Any) -> Convolution:
    settings = {"groups": len(weight) if weight.shape[1] == 1 else 1, "stored": "float32", "bits": 32} | changes
    return Convolution(name=name, weight=np.asarray(weight, np.float64), bias=np.asarray(bias, np.float64), **settings)


@pytest.fixture
def network() -> list[Convolution]:
    """Four convolutions, one that sees pixels, one depthwise, two that are neither."""
    random = np.random.default_rng(5)
    return [
        _convolution(f"layer{i}", random.normal(size=shape), random.normal(size=shape[0]))
        for i, shape in enumerate(SHAPES)
    ]


def _in_float32(convolution: Convolution, **changes: Any) -> Convolution:
    single = {k: getattr(convolution, k).astype(np.float32).astype(np.float64) for k in ("weight", "bias")}
    return dataclasses.replace(convolution, **(single | changes))


def _kinds(found: Weights) -> list[str]:
    return [layer.agreement.value for layer in found.layers]


def test_the_same_weights_in_any_order_are_exact(network: list[Convolution]):
    found = weights.compare(network, [_in_float32(c, name=f"op{i}") for i, c in enumerate(network)][::-1])
    assert found.built_from is Answer.YES
    assert _kinds(found) == ["exact"] * 4
    assert [layer.found for layer in found.layers] == ["op0", "op1", "op2", "op3"]
    assert found.parameter_shares == {"exact": 1.0}
    assert found.first is not None
    assert (found.first.channels, found.first.mean) == ((0, 1, 2), None)


def test_rounding_to_eight_bits_is_rounding(network: list[Convolution]):
    def rounded(c: Convolution) -> Convolution:
        step = np.abs(c.weight).max(axis=(1, 2, 3), keepdims=True) / 127
        return dataclasses.replace(c, weight=np.rint(c.weight / step) * step, stored="int8", bits=8)

    found = weights.compare(network, list(map(rounded, network)))
    assert found.built_from is Answer.YES
    assert _kinds(found) == ["rounded"] * 4
    for layer, theirs, ours in zip(found.layers, map(rounded, network), network, strict=True):
        assert layer.snr_db is not None
        noise = np.square(theirs.weight - ours.weight).sum(axis=(1, 2, 3)) / np.square(theirs.weight).sum(
            axis=(1, 2, 3)
        )
        assert layer.snr_db == pytest.approx(-10 * np.log10(noise.mean()), abs=0.1)


def test_float32_does_not_excuse_rounding(network: list[Convolution]):
    noisy = [
        dataclasses.replace(c, weight=c.weight * (1 + 1e-3 * np.random.default_rng(1).normal(size=c.weight.shape)))
        for c in network
    ]
    found = weights.compare(network, noisy)
    assert found.built_from is Answer.NO
    assert _kinds(found) == ["differs"] * 4


def test_equalized_channels_are_scaled(network: list[Convolution]):
    random = np.random.default_rng(6)
    rows, columns = random.uniform(0.1, 9, 16), random.uniform(0.1, 9, 8)
    theirs = list(network)
    theirs[2] = dataclasses.replace(
        network[2], weight=network[2].weight * rows[:, None, None, None] * columns[None, :, None, None],
        bias=network[2].bias * rows,
    )  # fmt: skip
    found = weights.compare(network, theirs)
    assert found.built_from is Answer.YES
    assert _kinds(found) == ["exact", "exact", "scaled", "exact"]
    assert found.layers[2].bias_snr_db is not None
    assert found.layers[2].bias_snr_db > 100


def test_doubled_channels_and_dense_depthwise_are_recognised(network: list[Convolution]):
    # leaky(x) = relu(x) - a relu(-x): the first gives x and -a x, the second takes both, as a dense convolution
    first, depthwise = network[:2]
    dense = np.zeros((8, 16, 3, 3))
    dense[range(8), range(8)] = depthwise.weight[:, 0]
    dense[range(8), range(8, 16)] = -depthwise.weight[:, 0]
    theirs = [
        _convolution(
            "both", np.concatenate([first.weight, -0.1 * first.weight]), np.concatenate([first.bias, -0.1 * first.bias])
        ),
        _convolution("dense", dense, depthwise.bias),
        *network[2:],
    ]
    found = weights.compare(network, theirs)
    assert found.built_from is Answer.YES
    assert [layer.found for layer in found.layers[:2]] == ["both", "dense"]
    assert _kinds(found)[:2] == ["scaled", "scaled"]


def test_folded_order_scale_and_mean_are_read(network: list[Convolution]):
    first, mean, scale = network[0], np.array([120.0, 110.0, 100.0]), 1 / 57.0
    swapped = first.weight[:, ::-1] * scale  # takes pixels of the other order
    theirs = dataclasses.replace(first, weight=swapped, bias=first.bias - swapped.sum(axis=(2, 3)) @ mean)
    found = weights.compare(network, [theirs, *network[1:]])
    assert found.built_from is Answer.YES
    assert found.first is not None
    assert found.first.channels == (2, 1, 0)
    assert found.first.scale == pytest.approx((scale,) * 3)
    assert found.first.mean == pytest.approx(mean, rel=1e-4)


def test_a_pruned_layer_is_named(network: list[Convolution]):
    weight = network[3].weight
    pruned = np.where(np.abs(weight) < np.median(np.abs(weight)), 0.0, weight)
    found = weights.compare(network, [*network[:3], dataclasses.replace(network[3], weight=pruned)])
    assert found.built_from is Answer.NO
    assert _kinds(found) == ["exact", "exact", "exact", "differs"]
    assert "layer3" in found.reason
    assert "trained on, or pruned" in found.reason


def test_other_weights_of_the_same_shapes_are_not_it(network: list[Convolution]):
    random = np.random.default_rng(7)
    other = [dataclasses.replace(c, weight=random.normal(size=c.weight.shape), stored="int8", bits=8) for c in network]
    found = weights.compare(network, other)
    assert found.built_from is Answer.NO
    assert _kinds(found) == ["differs"] * 4


def test_a_layer_without_counterpart_leaves_it_open(network: list[Convolution]):
    extra = _convolution("extra", np.ones((5, 7, 1, 1)), np.zeros(5))
    found = weights.compare(network, [*network[:3], extra])
    assert found.built_from is Answer.UNDECIDED
    assert found.layers[3].agreement is Agreement.MISSING
    assert found.unmatched == ("extra",)
    assert weights.compare(network, []).built_from is Answer.UNDECIDED


def test_dead_channels_do_not_decide(network: list[Convolution]):
    ours = np.array(network[3].weight)
    ours[4:] *= 1e-12
    theirs = np.array(ours)
    theirs[4:] = 0.0
    changed = [*network[:3], dataclasses.replace(network[3], weight=ours)]
    found = weights.compare(changed, [*network[:3], dataclasses.replace(network[3], weight=theirs)])
    assert found.built_from is Answer.YES


def test_a_convolution_with_one_live_input_does_not_take_anothers_place():
    random = np.random.default_rng(8)
    dense, single = random.normal(size=(2, 12, 6, 1, 1))
    single[:, 1:] *= 1e-9
    ours = [_convolution("dense", dense, np.zeros(12)), _convolution("single", single, np.zeros(12))]

    def rounded(c: Convolution) -> Convolution:
        step = np.abs(c.weight).max() / 127
        return dataclasses.replace(c, weight=np.rint(c.weight / step) * step, stored="int8", bits=8)

    found = weights.compare(ours, list(map(rounded, ours)))
    assert [(layer.name, layer.found) for layer in found.layers] == [("dense", "dense"), ("single", "single")]
    assert found.built_from is Answer.YES
