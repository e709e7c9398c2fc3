"""Exact rewrites of gates: hard sigmoids and hard swishes as sums, clips and products, which every 8-bit kernel has.

A gate is a factor between 0 and 1: hard_sigmoid(z) = relu6(z + 3) / 6, and hard_swish(z) = z * hard_sigmoid(z) (Howard
et al. 2019, arXiv 1905.02244, section 5.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.channels import HOMOGENEOUS
from facex.calibration.edit import constant, convolution, replace
from facex.calibration.graph import RELU6, Graph, attribute

FINEST_STRIDE = 2
"""Maps at this stride or finer pay for a second convolution; see `rewrites.FINEST_STRIDE`."""
SHIFT, WIDTH = 3.0, RELU6[1]
ROUNDING = 1e-6
"""By how much the slope of a hard sigmoid may miss 1/6: it is stored in float32."""


def means_of_channels(model: Any) -> int:
    """Before: ReduceMean over rows and columns. After: GlobalAveragePool, the same by another name."""
    from onnx import helper

    graph = Graph(model)
    done = 0
    for node in (n for n in graph.nodes if n.op_type == "ReduceMean"):
        axes = graph.constants[node.input[1]] if len(node.input) > 1 else np.array(attribute(node, "axes", []))
        rank = len(graph.shapes[node.input[0]])
        if rank == 4 and sorted(int(a) % rank for a in axes) == [2, 3] and attribute(node, "keepdims", 1):
            output = node.output[0]
            replace(model, [node], [helper.make_node("GlobalAveragePool", [node.input[0]], [output], name=output)])
            done += 1
    return done


def integer_gates(model: Any) -> int:
    """Before: hard_sigmoid(z), hard_swish(z). After: g = relu6(z + 3), g / 6 and z * g / 6.

    The sum with 3 goes into the bias of the convolution that gives z, unless z is read elsewhere; on maps as fine as
    `FINEST_STRIDE` a convolution of its own gives it then. Where only the product reads z, its channels can be scaled
    against each other, which the step of a tensor needs whose channels differ much in size. The division by 6 goes into
    the weights of the convolutions that read the result, behind other gates as well, or stays a product with a constant
    where something else reads it. XNNPACK has 8-bit kernels for all that is left, and none for a hard swish.
    """
    done = 0
    for node in (n for n in Graph(model).nodes if n.op_type == "HardSwish"):
        _product(model, node)
    for node in (n for n in Graph(model).nodes if n.op_type == "HardSigmoid"):
        if abs(attribute(node, "alpha", 0.2) - 1 / WIDTH) < ROUNDING and attribute(node, "beta", 0.5) == SHIFT / WIDTH:
            _absorb(model, _clipped_sum(model, Graph(model), node))
            done += 1
    return done


def _product(model: Any, swish: Any) -> None:
    from onnx import helper

    (z,), (result,) = swish.input, swish.output
    sigmoid = helper.make_node("HardSigmoid", [z], [f"{result}_sigmoid"], alpha=1 / WIDTH, beta=SHIFT / WIDTH)
    replace(model, [swish], [sigmoid, helper.make_node("Mul", [z, sigmoid.output[0]], [result], name=result)])


def _clipped_sum(model: Any, graph: Graph, sigmoid: Any) -> str:
    """Write a hard sigmoid as Add, Clip and Mul; gives the output of the last."""
    from onnx import helper

    (z,), (result,) = sigmoid.input, sigmoid.output
    gate, before = f"{result}_gate", graph.producer.get(z)
    bounds = [
        constant(model, f"relu6_{end}", np.array(bound)) for end, bound in zip(("low", "high"), RELU6, strict=True)
    ]
    sixth = constant(model, f"{result}_sixth", np.array(1 / WIDTH))
    tail = [
        helper.make_node("Clip", [f"{gate}_sum", *bounds], [gate], name=gate),
        helper.make_node("Mul", [gate, sixth], [result], name=result),
    ]
    alone = graph.only_consumer(z) is not None
    if before is not None and before.op_type == "Conv" and (alone or _is_fine(graph, z)):
        weight, bias = (graph.constants[name].astype(np.float64) for name in before.input[1:3])
        shifted = convolution(model, before, before.input[0], f"{gate}_sum", weight, bias + SHIFT)
        replace(model, [before, sigmoid] if alone else [sigmoid], [shifted, *tail])
    else:
        three = constant(model, f"{gate}_shift", np.array(SHIFT))
        add = helper.make_node("Add", [z, three], [f"{gate}_sum"], name=f"{gate}_sum")
        replace(model, [sigmoid], [add, *tail])
    return str(result)


def _is_fine(graph: Graph, name: str) -> bool:
    (image,) = (i.name for i in graph.model.graph.input)
    return graph.shapes[name][2] * FINEST_STRIDE >= graph.shapes[image][2]


def _absorb(model: Any, scaled: str) -> None:
    """Before: conv(w, x * c). After: conv(c w, x), whatever passes a factor on in between."""
    from onnx import helper

    graph = Graph(model)
    mul = graph.producer[scaled]
    convolutions = _absorbing(graph, scaled, set())
    if not convolutions:
        return
    factor = float(graph.constants[mul.input[1]])
    for node in convolutions:
        weight, bias = (graph.constants[name].astype(np.float64) for name in node.input[1:3])
        replace(model, [node], [convolution(model, node, node.input[0], node.output[0], factor * weight, bias)])
    clip = graph.producer[mul.input[0]]
    replace(model, [clip, mul], [helper.make_node("Clip", list(clip.input), [scaled], name=scaled)])


def _absorbing(graph: Graph, name: str, seen: set[str]) -> list[Any] | None:
    """The convolutions that can take up one factor on a tensor; None where something else would see it."""
    if name in seen or any(o.name == name for o in graph.model.graph.output):
        return None  # reached twice, a product would have the factor's square
    seen.add(name)
    found = []
    for node in graph.consumers.get(name, []):
        if node.op_type == "Conv":
            found.append(node)
        elif node.op_type in HOMOGENEOUS or (node.op_type == "Mul" and len(graph.activations(node)) == 2):
            deeper = _absorbing(graph, node.output[0], seen)
            if deeper is None:
                return None
            found += deeper
        else:
            return None
    return found


def hard_swish(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a hard swish makes of values."""
    return x * np.clip(x + SHIFT, *RELU6) / WIDTH


def is_gated(graph: Graph, name: str) -> bool:
    """Whether a tensor is read by the product with a clipped one alone."""
    product = graph.only_consumer(name)
    if product is None or product.op_type != "Mul":
        return False
    behind = [graph.producer.get(x) for x in product.input if x != name]
    return any(n is not None and n.op_type == "Clip" for n in behind)


def gates_itself(graph: Graph, name: str) -> bool:
    """Whether a tensor is read by a sum that makes a gate, by the product with that gate, and by nothing else."""
    readers = {node.op_type: node for node in graph.consumers.get(name, [])}
    if set(readers) != {"Add", "Mul"} or name in {o.name for o in graph.model.graph.output}:
        return False
    behind = [graph.producer.get(x) for x in readers["Mul"].input if x != name]
    clip = next((n for n in behind if n is not None and n.op_type == "Clip"), None)
    return clip is not None and clip.input[0] == readers["Add"].output[0]
