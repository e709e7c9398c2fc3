"""Every operator of both lowerings' tables against onnxruntime, over the parameters that ONNX gives it."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Case:
    """A graph from `x` to `y`; the operator under test is the one it is filed under."""

    name: str
    nodes: list[Any]
    constants: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (1, 3, 4, 6)


def node(operator: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"{operator}_{output}", **attributes)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def simple(operator: str, **attributes: Any) -> Iterator[Case]:
    """In the image's own layout, and on a tensor whose axes are in ONNX order."""
    yield Case("channels last", [node(operator, "x", **attributes)])
    flat = node("Reshape", "x,shape", "flat")
    yield Case("natural order", [flat, node(operator, "flat", **attributes)], {"shape": ints(1, 12, -1)})


def binary(operator: str) -> Iterator[Case]:
    shapes = [(), (1,), (6,), (4, 1), (4, 6), (3, 1, 1), (3, 4, 6), (1, 1, 1, 1), (1, 3, 1, 6), (1, 3, 4, 6)]
    for shape, order in itertools.product(shapes, ("x,c", "c,x")):
        yield Case(f"constant {list(shape)} as {order}", [node(operator, order)], {"c": random(*shape)})
    flat = node("Reshape", "x,shape", "flat")
    yield Case("constant on rank 3", [flat, node(operator, "c,flat")], {"shape": ints(1, 12, 6), "c": random(12, 1)})
    yield Case("itself", [node(operator, "x,x")])
    yield Case("its negative", [node("Neg", "x", "n"), node(operator, "n,x")])
    turned = node("Transpose", "x", "t", perm=[0, 2, 3, 1])
    for order in ("x,t", "t,x"):
        yield Case(f"two layouts {order}", [turned, node(operator, order)], shape=(1, 4, 4, 4))
    total = node("ReduceSum", "x,axes", "s", keepdims=1)
    for order in ("x,s", "s,x"):
        yield Case(f"an activation broadcast {order}", [total, node(operator, order)], {"axes": ints(2, 3)})


def concat() -> Iterator[Case]:
    double = node("Add", "x,x", "d")
    turned = node("Transpose", "x", "t", perm=[0, 3, 1, 2])
    for axis in (0, 1, 2, 3, -1, -3):
        yield Case(f"axis {axis}", [double, node("Concat", "x,d,x", axis=axis)])
        yield Case(f"two layouts, axis {axis}", [turned, node("Concat", "x,t", axis=axis)], shape=(1, 4, 4, 4))
        shape = [1, 3, 4, 6]
        shape[axis] = 2
        yield Case(f"a constant, axis {axis}", [node("Concat", "c,x", axis=axis)], {"c": random(*shape)})
    flat = node("Reshape", "x,shape", "f")
    yield Case("rank 3", [flat, node("Concat", "f,f", axis=1)], {"shape": ints(1, -1, 4)})


def constant() -> Iterator[Case]:
    value = numpy_helper.from_array(random(3, 1, 1))
    yield Case("tensor", [helper.make_node("Constant", [], ["c"], value=value), node("Mul", "x,c")])


def conv() -> Iterator[Case]:
    """The corners; `test_nhwc_conv` searches the whole space."""
    yield Case("pointwise", [node("Conv", "x,w")], {"w": random(5, 3, 1, 1)})
    yield Case("padded", [node("Conv", "x,w,b", pads=[1, 1, 1, 1])], {"w": random(5, 3, 3, 3), "b": random(5)})
    yield Case("depthwise", [node("Conv", "x,w", group=3, pads=[1] * 4)], {"w": random(3, 1, 3, 3)})
    yield Case("valid", [node("Conv", "x,w", auto_pad="VALID")], {"w": random(5, 3, 2, 2)})
    turned = node("Transpose", "x", "t", perm=[0, 3, 2, 1])
    yield Case("after a transpose", [turned, node("Conv", "t,w", pads=[1] * 4)], {"w": random(2, 6, 3, 3)})


def dequantize() -> Iterator[Case]:
    weight = np.random.default_rng(5).integers(-127, 128, (4, 3, 1, 1), dtype=np.int8)
    scale = np.linspace(0.01, 0.3, 4, dtype=np.float32)
    nodes = [node("DequantizeLinear", "q,s,z", "w", axis=0), node("Conv", "x,w")]
    yield Case("weights by channel", nodes, {"q": weight, "s": scale, "z": np.zeros(4, np.int8)})
    whole = [node("DequantizeLinear", "q,s,z", "c"), node("Add", "x,c")]
    for kind, zero in ((np.int8, -7), (np.uint8, 130)):
        row = np.arange(3, dtype=kind).reshape(3, 1, 1)
        yield Case(f"{np.dtype(kind)}", whole, {"q": row, "s": np.float32(0.5), "z": kind(zero)})
    bias = [node("DequantizeLinear", "q,s", "b", axis=0), node("Conv", "x,w,b")]
    values = {"q": np.array([-90000, 4, 123456], np.int32), "s": scale[:3] / 1000, "w": random(3, 3, 1, 1)}
    yield Case("a bias without zero point", bias, values)
    last = [node("DequantizeLinear", "q,s,z", "c", axis=-1), node("Mul", "x,c")]
    row = np.arange(-3, 3, dtype=np.int8)
    yield Case("the last axis", last, {"q": row, "s": np.linspace(1, 2, 6, dtype=np.float32), "z": np.ones(6, np.int8)})


def quantize() -> Iterator[Case]:
    nodes = [node("QuantizeLinear", "x,s,z", "q"), node("DequantizeLinear", "q,s,z")]
    for zero in (np.int8(0), np.int8(-128), np.int8(127), np.int8(13), np.uint8(0), np.uint8(140)):
        yield Case(f"{zero.dtype} zero at {zero}", nodes, {"s": np.float32(0.0123), "z": zero})
    bare = [node("QuantizeLinear", "x,s", "q"), node("DequantizeLinear", "q,s")]
    yield Case("no zero point is uint8 0", bare, {"s": np.float32(0.0123)})


def gather() -> Iterator[Case]:
    for axis, index in ((0, 0), (1, 2), (1, -1), (2, 1), (3, -6), (-1, 5)):
        yield Case(f"axis {axis} at {index}", [node("Gather", "x,i", axis=axis)], {"i": np.int64(index)})


def leaky_relu() -> Iterator[Case]:
    yield from simple("LeakyRelu")
    yield from simple("LeakyRelu", alpha=0.1)


def reduction(operator: str) -> Iterator[Case]:
    """A sum takes its axes as an input, a mean as an attribute up to opset 17."""
    for axes, keep in itertools.product(((1,), (2, 3), (-1,), (0, -2), (0, 1, 2, 3)), (0, 1)):
        name = f"axes {axes} keep {keep}"
        if operator == "ReduceSum":
            yield Case(name, [node(operator, "x,a", keepdims=keep)], {"a": ints(*axes)})
        else:
            yield Case(name, [node(operator, "x", keepdims=keep, axes=axes)])
    for keep in (0, 1):
        yield Case(f"no axes keep {keep}", [node(operator, "x", keepdims=keep)])
    turned = node("Transpose", "x", "t", perm=[0, 2, 3, 1])
    given = {"a": ints(1, 2)} if operator == "ReduceSum" else {}
    how = {} if given else {"axes": [1, 2]}
    yield Case("after a transpose", [turned, node(operator, "t,a" if given else "t", **how)], given)


def reduce_sum() -> Iterator[Case]:
    yield from reduction("ReduceSum")
    for keep in (0, 1):
        yield Case(f"empty axes keep {keep}", [node("ReduceSum", "x,a", keepdims=keep)], {"a": ints()})
    yield Case("no axes is nothing", [node("ReduceSum", "x,a", noop_with_empty_axes=1)], {"a": ints()})


def max_pool() -> Iterator[Case]:
    """Of values below zero too, where zeros beyond the border would be the largest."""
    for kernel, stride, pads in (
        ((3, 3), (2, 2), (1, 1, 1, 1)), ((3, 3), (1, 1), (1, 1, 1, 1)), ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 2), (2, 1), (1, 0, 0, 1)), ((5, 5), (1, 2), (2, 2, 2, 2)), ((2, 2), (1, 1), (1, 1, 1, 1)),
    ):  # fmt: skip
        how = {"kernel_shape": kernel, "strides": stride, "pads": pads}
        for shape in ((1, 3, 6, 8), (1, 3, 5, 7)):
            yield Case(f"{how} of {shape}", [node("MaxPool", "x", **how)], {}, shape)
            below = [node("Sub", "x,c", "n"), node("MaxPool", "n", **how)]
            yield Case(f"{how} of {shape} below zero", below, {"c": np.float32(9)}, shape)
            above = [node("Relu", "x", "r"), node("Identity", "r", "i"), node("MaxPool", "i", **how)]
            yield Case(f"{how} of {shape} above zero", above, {}, shape)
    yield Case("the defaults", [node("MaxPool", "x", kernel_shape=[2, 2], auto_pad="VALID")])


def clip() -> Iterator[Case]:
    wide = node("Mul", "x,five", "w")
    for low, high in ((0, 6), (0, None), (None, 6), (-1, 1), (-0.5, 2.5), (2, 3)):
        bounds = {k: np.float32(v) for k, v in (("low", low), ("high", high)) if v is not None}
        inputs = f"w,{'low' if low is not None else ''},{'high' if high is not None else ''}"
        yield Case(f"{low} to {high}", [wide, node("Clip", inputs)], {"five": np.float32(5), **bounds})


def hard(operator: str, **attributes: Any) -> Iterator[Case]:
    """Where it bends and beyond."""
    wide = node("Mul", "x,five", "w")
    yield Case(f"{attributes}", [wide, node(operator, "w", **attributes)], {"five": np.float32(5)})
    flat = [wide, node("Reshape", "w,shape", "f"), node(operator, "f", **attributes)]
    yield Case(f"{attributes} in natural order", flat, {"five": np.float32(5), "shape": ints(1, 12, -1)})


def mean_of_channels() -> Iterator[Case]:
    yield Case("an image", [node("GlobalAveragePool", "x")])
    turned = node("Transpose", "x", "t", perm=[0, 3, 1, 2])
    yield Case("after a transpose", [turned, node("GlobalAveragePool", "t")])
    yield Case("as a gate", [node("GlobalAveragePool", "x", "g"), node("Mul", "g,x")])


def reshape() -> Iterator[Case]:
    for shape in ((1, -1), (0, -1), (0, 0, -1), (2, 0, 2, 3), (-1,), (1, 12, 6), (3, 2, 2, 2, 3), (0, 3, 0, 0)):
        wanted = shape if shape != (2, 0, 2, 3) else (2, 0, 2, 6)
        yield Case(f"to {wanted}", [node("Reshape", "x,s")], {"s": ints(*wanted)})
    turned = node("Transpose", "x", "t", perm=[0, 2, 3, 1])
    yield Case("by prior", [turned, node("Reshape", "t,s")], {"s": ints(1, -1, 3)})
    back = node("Reshape", "f,t", "y")
    yield Case("there and back", [node("Reshape", "x,s", "f"), back], {"s": ints(1, 12, 6), "t": ints(1, 3, 4, 6)})


def resize() -> Iterator[Case]:
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for factors in ((2, 2), (3, 3), (1, 1), (2, 3), (4, 1)):
        scales = np.array([1, 1, *factors], np.float32)
        yield Case(f"scales {factors}", [node("Resize", "x,,s", **how)], {"s": scales}, (1, 3, 5, 7))
        sizes = ints(1, 3, 5 * factors[0], 7 * factors[1])
        yield Case(f"sizes {factors}", [node("Resize", "x,,,s", **how)], {"s": sizes}, (1, 3, 5, 7))


def slices() -> Iterator[Case]:
    for starts, ends, axes, steps in (
        ((1,), (3,), (2,), (1,)),
        ((-3,), (-1,), (3,), (1,)),
        ((0,), (INT64.max,), (-1,), (2,)),
        ((-1,), (INT64.min,), (1,), (-1,)),
        ((5,), (0,), (3,), (-2,)),
        ((4,), (-100,), (3,), (-3,)),
        ((100,), (0,), (2,), (-1,)),
        ((-2,), (-4,), (3,), (-1,)),
        ((0, 1), (2, 4), (1, 3), (1, 2)),
        ((2, 5), (-10, 1), (1, -1), (-1, -2)),
    ):
        constants = {"b": ints(*starts), "e": ints(*ends), "a": ints(*axes), "s": ints(*steps)}
        yield Case(f"{starts}:{ends}:{steps} of {axes}", [node("Slice", "x,b,e,a,s")], constants)
    every = {"b": ints(0, 1, 1, 2), "e": ints(1, 3, 4, 5)}
    yield Case("every axis", [node("Slice", "x,b,e")], every)


def softmax() -> Iterator[Case]:
    yield Case("last axis", [node("Softmax", "x")])
    yield Case("named last axis", [node("Softmax", "x", axis=3)])
    turned = node("Transpose", "x", "t", perm=[0, 2, 3, 1])
    yield Case("channels", [turned, node("Softmax", "t", axis=-1)])
    pairs = node("Reshape", "t,s", "p")
    yield Case("pairs", [turned, pairs, node("Softmax", "p", axis=2)], {"s": ints(1, -1, 2)})


def transpose() -> Iterator[Case]:
    for perm in itertools.permutations(range(4)):
        yield Case(f"{perm}", [node("Transpose", "x", perm=perm)])
        other = node("Transpose", "t", perm=[2, 0, 3, 1])
        yield Case(f"{perm} twice", [node("Transpose", "x", "t", perm=perm), other])
    yield Case("reversed by default", [node("Transpose", "x")])
    flat = node("Reshape", "x,s", "f")
    for perm in itertools.permutations(range(3)):
        yield Case(f"{perm}", [flat, node("Transpose", "f", perm=perm)], {"s": ints(2, 12, 3)})


def unsqueeze() -> Iterator[Case]:
    flat = node("Reshape", "x,s", "f")
    for axes in ((0,), (1,), (-1,), (0, 3), (-1, 1), (2, 0)):
        yield Case(f"axes {axes}", [flat, node("Unsqueeze", "f,a")], {"s": ints(12, 6), "a": ints(*axes)})
    yield Case("an image", [node("Unsqueeze", "x,a")], {"a": ints(2)})


CASES = {
    **{name: list(binary(name)) for name in ("Add", "Mul", "Sub")},
    **{name: list(simple(name)) for name in ("Exp", "Identity", "Neg", "Relu", "Sigmoid")},
    "Clip": list(clip()),
    "Concat": list(concat()),
    "Constant": list(constant()),
    "Conv": list(conv()),
    "DequantizeLinear": list(dequantize()),
    "Gather": list(gather()),
    "GlobalAveragePool": list(mean_of_channels()),
    "HardSigmoid": [*hard("HardSigmoid"), *hard("HardSigmoid", alpha=1 / 6), *hard("HardSigmoid", alpha=0.3, beta=0.1)],
    "HardSwish": list(hard("HardSwish")),
    "LeakyRelu": list(leaky_relu()),
    "MaxPool": list(max_pool()),
    "QuantizeLinear": list(quantize()),
    "ReduceMean": list(reduction("ReduceMean")),
    "ReduceSum": list(reduce_sum()),
    "Reshape": list(reshape()),
    "Resize": list(resize()),
    "Slice": list(slices()),
    "Softmax": list(softmax()),
    "Transpose": list(transpose()),
    "Unsqueeze": list(unsqueeze()),
}


ALL = [pytest.param(c, id=f"{operator}-{c.name}") for operator, cases in CASES.items() for c in cases]


@pytest.mark.parametrize("lowering", ["_nhwc", "_nchw"])
def test_every_operator_of_the_table_has_cases(lowering):
    assert set(CASES) == set(importlib.import_module(f"facex.exporters.{lowering}").OPERATORS)
    for operator, cases in CASES.items():
        assert cases
        assert all(operator in {n.op_type for n in case.nodes} for case in cases)


@pytest.mark.parametrize("case", ALL)
def test_operator_computes_what_onnxruntime_does(assert_lowered, case):
    x = np.random.default_rng(11).normal(size=case.shape).astype(np.float32)
    assert_lowered(case.nodes, x, case.constants)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL)
def test_operator_of_an_ml_program_computes_what_onnxruntime_does(assert_program, case):
    x = np.random.default_rng(11).normal(size=case.shape).astype(np.float32)
    assert_program(case.nodes, x, case.constants)
