"""Exact rewrites of the float ONNX model that make it quantize better, or run faster on integers.

Each changes a model in place and says how often it did; the float results stay what they were, up to rounding. What
they remove is a tensor whose range is bad for 8 bits: one step must serve numbers that differ in size or use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.edit import constant, convolution, replace
from facex.calibration.gates import integer_gates, means_of_channels
from facex.calibration.graph import Graph, attribute

FINEST_STRIDE = 2
"""LeakyReLUs are split on maps at this stride or finer: that is where rounding hurts most and splitting costs least."""
HALVES = "_halves"
"""How the name of a tensor ends that holds both halves of a split LeakyReLU."""


def all_exact(model: Any) -> dict[str, int]:
    """Every rewrite of this module, in the order in which they help each other.

    Returns:
        name of the rewrite -> how many places it changed.
    """
    own_constants(model)
    means_of_channels(model)
    return {
        "integer_gate": integer_gates(model),
        "relu_before_concat": relu_before_concat(model),
        "lossless_image": lossless_image(model),
        "split_leaky_relu": split_leaky_relus(model),
    }


def own_constants(model: Any) -> None:
    """Give every convolution of the trunk a weight and a bias of its own, so that one can change without the others."""
    graph = Graph(model)
    for node in (n for n in graph.trunk if n.op_type == "Conv"):
        weight = graph.constants[node.input[1]]
        has_bias = len(node.input) > 2 and bool(node.input[2])
        bias = graph.constants[node.input[2]] if has_bias else np.zeros(len(weight))
        replace(model, [node], [convolution(model, node, node.input[0], node.output[0], weight, bias)])


def relu_before_concat(model: Any) -> int:
    """Before: relu(concat(a, b)). After: concat(relu(a), relu(b)), each ReLU fused into the convolution before it.

    The convolutions' outputs lose a negative range that nothing reads, and no stand-alone 8-bit ReLU is left, for which
    XNNPACK has no kernel.
    """
    from onnx import helper

    graph = Graph(model)
    moved = 0
    for relu in (n for n in graph.nodes if n.op_type == "Relu"):
        concat = graph.producer.get(relu.input[0])
        if concat is None or concat.op_type != "Concat" or graph.only_consumer(concat.output[0]) is None:
            continue
        names = [f"{relu.output[0]}_part{i}" for i in range(len(concat.input))]
        branches = [helper.make_node("Relu", [a], [b], name=b) for a, b in zip(concat.input, names, strict=True)]
        merged = helper.make_node(
            "Concat", names, [relu.output[0]], name=f"{relu.output[0]}_concat", axis=attribute(concat, "axis", 1)
        )
        replace(model, [concat, relu], [*branches, merged])
        moved += 1
    return moved


def lossless_image(model: Any) -> int:
    """Before: conv(pad_0(image - mean)). After: conv'(pad_mean(image)) with the mean moved into the bias of conv'.

    The 0-255 image enters the convolution with a step of exactly one grey level, and there is no subtraction to round.
    It is exact because padding the image with the mean is padding the difference with zero; only strips that the
    convolution reads are added. A mean that is not whole is rounded in those strips alone once they are quantized.
    """
    graph = Graph(model)
    (image,) = (i.name for i in model.graph.input)
    changed = 0
    for sub in graph.consumers.get(image, []):
        conv = graph.only_consumer(sub.output[0])
        if sub.op_type != "Sub" or sub.input[0] != image or sub.input[1] not in graph.constants:
            continue
        mean, channels = graph.constants[sub.input[1]], graph.shapes[image][1]
        if conv is None or conv.op_type != "Conv" or attribute(conv, "group", 1) != 1 or mean.size not in (1, channels):
            continue
        mean = np.broadcast_to(mean, (1, channels, 1, 1))
        weight = graph.constants[conv.input[1]].astype(np.float64)
        bias = graph.constants[conv.input[2]] - weight.sum(axis=(2, 3)) @ mean.reshape(-1).astype(np.float64)
        padded, strips = _strips(model, graph, image, mean, conv)
        merged = convolution(model, conv, padded, conv.output[0], weight, bias, pads=[0, 0, 0, 0])
        replace(model, [sub, conv], [*strips, merged])
        changed += 1
    return changed


def _strips(model: Any, graph: Graph, image: str, mean: NDArray[np.float32], conv: Any) -> tuple[str, list[Any]]:
    """Concatenations that add the strips of mean colour that a convolution reads beyond the image."""
    from onnx import helper

    _, channels, height, width = graph.shapes[image]
    sides = [height, width]
    pads = attribute(conv, "pads", [0, 0, 0, 0])
    strides, dilations = attribute(conv, "strides", [1, 1]), attribute(conv, "dilations", [1, 1])
    kernel, result = graph.constants[conv.input[1]].shape[2:], graph.shapes[conv.output[0]][2:]
    name, nodes, stem = image, [], f"{conv.output[0]}_image"
    for axis in (0, 1):
        read = (result[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        before = pads[axis]
        after = max(read - before - sides[axis], 0)
        for place, thickness in (("before", before), ("after", after)):
            if not thickness:
                continue
            shape = [1, channels, *sides]
            shape[2 + axis] = thickness
            output = stem = f"{stem}_{'yx'[axis]}{place}"
            strip = constant(model, f"{output}_strip", np.broadcast_to(mean, shape))
            parts = [strip, name] if place == "before" else [name, strip]
            nodes.append(helper.make_node("Concat", parts, [output], name=output, axis=2 + axis))
            name = output
            sides[axis] += thickness
    return name, nodes


def split_leaky_relus(model: Any, finest_stride: int = FINEST_STRIDE) -> int:
    """Before: W leaky(conv(x)). After: [W, -W] relu([conv(x), -a conv(x)]), a the slope; on the finest maps alone.

    The tensor before a LeakyReLU must be stored with the step of its large negative values, which the activation then
    shrinks. The two halves, relu(z) and relu(-a z), have none; one convolution of weights [w, -a w] with a fused ReLU
    gives both, and the convolution that follows subtracts them, so that the activation's result is never rounded at
    all. A depthwise convolution that follows becomes a dense one with zeros between its channels.
    """
    done = 0
    while (found := _next_split(Graph(model), finest_stride)) is not None:
        _split(model, Graph(model), *found)
        done += 1
    return done


def _next_split(graph: Graph, finest_stride: int) -> tuple[Any, Any, Any] | None:
    """The first LeakyReLU to split, with the dense convolution before it and the convolution after it."""
    (image,) = (i.name for i in graph.model.graph.input)
    for leaky in (n for n in graph.nodes if n.op_type == "LeakyRelu"):
        conv, follower = graph.producer.get(leaky.input[0]), graph.only_consumer(leaky.output[0])
        fine = graph.shapes[leaky.output[0]][2] * finest_stride >= graph.shapes[image][2]
        if not fine or conv is None or conv.op_type != "Conv" or attribute(conv, "group", 1) != 1:
            continue
        if graph.only_consumer(conv.output[0]) is None or follower is None or follower.op_type != "Conv":
            continue
        if attribute(follower, "group", 1) in (1, graph.shapes[leaky.output[0]][1]):
            return conv, leaky, follower
    return None


def _split(model: Any, graph: Graph, conv: Any, leaky: Any, follower: Any) -> None:
    from onnx import helper

    slope, halves = attribute(leaky, "alpha", 0.01), f"{leaky.output[0]}{HALVES}"
    weight, bias = (graph.constants[name].astype(np.float64) for name in conv.input[1:3])
    both = convolution(
        model, conv, conv.input[0], f"{halves}_sum", np.concatenate([weight, -slope * weight]),
        np.concatenate([bias, -slope * bias]),
    )  # fmt: skip
    relu = helper.make_node("Relu", [both.output[0]], [halves], name=halves)
    mix, offset = (graph.constants[name].astype(np.float64) for name in follower.input[1:3])
    dense = _dense(mix, attribute(follower, "group", 1))
    subtracting = np.concatenate([dense, -dense], axis=1)
    mixed = convolution(model, follower, halves, follower.output[0], subtracting, offset, group=1)
    replace(model, [conv, leaky, follower], [both, relu, mixed])


def join_leaky_relus(model: Any, floats: frozenset[str]) -> int:
    """The reverse of `split_leaky_relus` where everything runs in float, which gains nothing from it.

    Before: [V, -V'] relu([w, -a w'] x), where scaling of channels may have parted the halves, but the product of what
    enters a channel and what leaves it is that of the network in both. After: V leaky(w x). Dense convolutions that
    were depthwise are so again.

    Args:
        model: changed in place.
        floats: outputs of the nodes that run in float, with unrounded weights; others are left alone.
    """
    done = 0
    while (found := _next_join(Graph(model), floats)) is not None:
        _join(model, Graph(model), *found)
        done += 1
    graph = Graph(model)
    for conv in (n for n in graph.trunk if done and n.op_type == "Conv" and n.output[0] in floats):
        weight, bias = (graph.constants[name].astype(np.float64) for name in conv.input[1:3])
        own = _depthwise(weight)
        if own is not None:
            channels = weight.shape[1]
            narrow = convolution(model, conv, conv.input[0], conv.output[0], own, bias, group=channels)
            replace(model, [conv], [narrow])
    return done


def _next_join(graph: Graph, floats: frozenset[str]) -> tuple[Any, Any, Any] | None:
    for relu in (n for n in graph.nodes if n.op_type == "Relu" and n.output[0].endswith(HALVES)):
        conv, follower = graph.producer[relu.input[0]], graph.only_consumer(relu.output[0])
        if follower is not None and {conv.output[0], relu.output[0], follower.output[0]} <= floats:
            return conv, relu, follower
    return None


def _join(model: Any, graph: Graph, conv: Any, relu: Any, follower: Any) -> None:
    from onnx import helper

    weight, bias = (graph.constants[name].astype(np.float64) for name in conv.input[1:3])
    mix, offset = (graph.constants[name].astype(np.float64) for name in follower.input[1:3])
    (w, negative), (v, subtracted) = np.split(weight, 2), np.split(mix, 2, axis=1)
    # channel by channel -a = w'/w * v'/v; least squares, and the whole from every channel's share
    inside = np.sum(w * negative, axis=(1, 2, 3)) * np.sum(v * subtracted, axis=(0, 2, 3))
    square = np.sum(w * w, axis=(1, 2, 3)) * np.sum(v * v, axis=(0, 2, 3))
    slope = float(inside.sum() / square.sum())
    single = convolution(model, conv, conv.input[0], conv.output[0], w, np.split(bias, 2)[0])
    leaky = helper.make_node("LeakyRelu", [conv.output[0]], [relu.output[0]], name=relu.output[0], alpha=slope)
    mixed = convolution(model, follower, relu.output[0], follower.output[0], v, offset)
    replace(model, [conv, relu, follower], [single, leaky, mixed])


def _depthwise(weight: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The weight of a depthwise convolution that computes the same as one with zeros between its channels."""
    outputs, inputs = weight.shape[:2]
    if inputs == 1 or outputs % inputs:
        return None
    own: NDArray[np.float64] = weight[np.arange(outputs), np.arange(outputs) // (outputs // inputs)][:, None]
    return own if np.count_nonzero(weight) == np.count_nonzero(own) else None


def _dense(weight: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """The weight of an ungrouped convolution that computes the same: [out, in/groups, h, w] -> [out, in, h, w]."""
    outputs, inputs, *kernel = weight.shape
    result = np.zeros((outputs, inputs * groups, *kernel))
    for i in range(outputs):
        first = i // (outputs // groups) * inputs
        result[i, first : first + inputs] = weight[i]
    return result
