"""The trunk of an ONNX model in torch, with the rounding of its integer kernels: what reconstruction learns through.

Integers are not simulated bit for bit: convolutions run in float32 on rounded weights and rounded activations, which
differs from the kernels by their last rounding alone. The finished QDQ model is what is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from facex.calibration.channels import TIED, Channels
from facex.calibration.graph import SAME_RANGE_OPERATORS, Graph, attribute
from facex.calibration.plan import QMAX, QMIN, WEIGHT_QMAX, Affine, QuantizationPlan
from facex.errors import UnsupportedOperatorError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS_OPERATORS = frozenset({"Resize", "Slice"})
"""Operators whose constant inputs say what they do, and are no operands."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a simulation holds once it has learned.

    Attributes:
        constants: weights and biases by their names in the model; integer weights lie on their grids.
        grids: by tensor.
        factors: channel group -> factors that were absorbed into those constants, float64 (see `equalize`).
    """

    constants: Mapping[str, NDArray[np.float32]]
    grids: Mapping[str, Affine]
    factors: Mapping[str, NDArray[np.float64]]


class _Round(torch.autograd.Function):
    """Rounds forwards, and is the identity backwards (the straight-through estimator of Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _OnGrid(torch.autograd.Function):
    """y = scale * clamp(round(x / scale), -128 - z, 127 - z), z the rounded zero point; rounding is straight-through.

    With m = 1 where x is not clipped: dy/dx = m, dy/dscale = (y - m x) / scale, dy/dz = (m - 1) scale.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        step, z = float(scale), round(float(zero))
        z = min(max(z, QMIN), QMAX)
        y = x.div(step).round_().clamp_(QMIN - z, QMAX - z).mul_(step)
        ctx.save_for_backward(x, y)
        ctx.grid = step, z
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        x, y = ctx.saved_tensors
        step, z = ctx.grid
        low, high = (QMIN - z - 0.5) * step, (QMAX - z + 0.5) * step
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, low, high)
        to_scale = (_dot(gradient, y) - _dot(passed, x)) / step
        to_zero = -step * (gradient.sum() - passed.sum())
        return passed, to_scale, to_zero


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))


class Simulation(nn.Module):
    """The trunk with everything that may be learned as parameters.

    Attributes:
        weight: by convolution output with dots replaced, float32 [out, in/groups, kh, kw].
        bias: the same, float32 [out].
        log_factor: by channel group, float32 [channels]: what equalization would still rescale (see `equalize`).
        log_scale: float32 [grids], natural logarithm of the step of every activation grid.
        zero: float32 [grids], its zero point before rounding.
    """

    def __init__(self, graph: Graph, plan: QuantizationPlan) -> None:
        super().__init__()
        self._graph = graph
        self._channels = Channels(graph)
        self._nodes = graph.trunk
        _refuse_unknown(self._nodes)
        self._last_read = {name: i for i, node in enumerate(self._nodes) for name in (*node.output, *node.input)}
        grids = [sorted(group & set(plan.activations)) for group in graph.shared_ranges()]
        self._grids = [names for names in grids if names]
        self._grid_of = {name: i for i, names in enumerate(self._grids) for name in names}
        chosen = [plan.activations[names[0]] for names in self._grids]
        self.log_scale = nn.Parameter(torch.tensor([float(np.log(g.scale)) for g in chosen]))
        self.zero = nn.Parameter(torch.tensor([float(g.zero_point) for g in chosen]))
        images = {i.name for i in graph.model.graph.input}
        learned = torch.tensor([float(not images & set(names)) for names in self._grids])
        for parameter in (self.log_scale, self.zero):
            parameter.register_hook(lambda gradient: gradient * learned)  # type: ignore[no-untyped-call]  # the image stays on whole grey levels
        convolutions = [n for n in self._nodes if n.op_type == "Conv"]
        self._key = {n.output[0]: f"conv{i}" for i, n in enumerate(convolutions)}
        self._float = {n.output[0] for n in convolutions if n.output[0] in plan.floats}
        self.weight = nn.ParameterDict(
            {self._key[n.output[0]]: nn.Parameter(_tensor(graph.constants[n.input[1]])) for n in convolutions}
        )
        self.bias = nn.ParameterDict(
            {self._key[n.output[0]]: nn.Parameter(_tensor(graph.constants[n.input[2]])) for n in convolutions}
        )
        self._group = {name: f"group{i}" for i, name in enumerate(self._channels.groups)}
        self.log_factor = nn.ParameterDict(
            {self._group[name]: nn.Parameter(torch.zeros(graph.shapes[names[0]][1]))
             for name, names in self._channels.groups.items()}
        )  # fmt: skip

    def forward(
        self,
        image: Tensor,
        *,
        quantized: bool = True,
        only: frozenset[str] | None = None,
        adjust: Callable[[str, Tensor], Tensor] | None = None,
        prepare: Callable[[Any, Tensor], None] | None = None,
        keep: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Run the trunk.

        Args:
            image: float32 [B, 3, h, w], 0-255; of any size up to the model's that the network takes.
            quantized: round as the kernels do; otherwise the float network of the same parameters.
            only: round nothing but the results and weights of the nodes with these outputs.
            adjust: given the name and the result of every convolution before it is rounded; what it returns counts.
            prepare: given every convolution and what is about to enter it; it may change its weights.
            keep: tensors to return; others are forgotten once they are read for the last time. None keeps all.

        Returns:
            Tensors of the trunk, by name.
        """
        values = {self._graph.model.graph.input[0].name: image}
        for i, node in enumerate(self._nodes):
            name = node.output[0]
            rounds = quantized and (only is None or name in only)
            if node.op_type == "Conv":
                if prepare:
                    prepare(node, values[node.input[0]])
                result = self._convolve(node, values[node.input[0]], rounds)
                result = adjust(name, result) if adjust else result
            elif node.op_type == "Resize":
                result = self._upsample(node, values[node.input[0]])
            elif node.op_type == "Slice":
                result = self._cut(node, values[node.input[0]])
            elif node.op_type == "Clip":
                result = values[node.input[0]].clamp(*self._graph.bounds(node))
            else:
                result = _OPERATORS[node.op_type](node, self._operands(node, values))
            on_grid = node.op_type in SAME_RANGE_OPERATORS and not self._constants_of(node)
            values[name] = self.rounded(name, result) if rounds and name in self._grid_of and not on_grid else result
            if keep is not None:
                for read in {*node.output, *node.input} - set(keep):
                    if self._last_read[read] == i:
                        values.pop(read, None)
        return values

    def _constants_of(self, node: Any) -> list[str]:
        """Those that are operands, not settings."""
        settings = node.op_type in SETTINGS_OPERATORS
        return [] if settings else [name for name in node.input if name in self._graph.constants]

    def rounded(self, name: str, value: Tensor) -> Tensor:
        """A value on the grid of a tensor, with gradients to scale and zero point (LSQ+, Bhalgat et al. 2020)."""
        i = self._grid_of[name]
        result: Tensor = _OnGrid.apply(value, self.log_scale[i].exp(), self.zero[i])  # type: ignore[no-untyped-call]
        return result

    def _operands(self, node: Any, values: Mapping[str, Tensor]) -> list[Tensor]:
        """Inputs of a node; constant strips beside the image are cut to the size of this crop.

        So are doubled maps: the model cuts those that are too large at its own size, not those that are at the crop's.
        """
        names = [name for name in node.input if name in values]
        computed = [values[name] for name in names]
        if not self._constants_of(node):
            same = len({self._graph.shapes[name] for name in names}) == 1
            return _common(computed) if same and node.op_type in TIED else computed
        like, axis = computed[0], attribute(node, "axis", 1)
        operands = []
        for name in node.input:
            if name in values:
                operands.append(values[name])
                continue
            constant = _tensor(self._graph.constants[name])
            for i in (i for i in (2, 3) if i != axis and constant.ndim == 4 and constant.shape[i] > 1):
                constant = constant.narrow(i, 0, like.shape[i])
            operands.append(constant.expand(len(like), *constant.shape[1:]) if constant.ndim == 4 else constant)
        return operands

    def _convolve(self, node: Any, value: Tensor, quantized: bool) -> Tensor:
        weight, bias = self.parameters_of(node, quantized=quantized)
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        if (top, left) != (bottom, right):
            value = F.pad(value, (left, right, top, bottom))
            top = left = 0
        strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
        return F.conv2d(value, weight, bias, strides, (top, left), dilations, attribute(node, "group", 1))

    def _upsample(self, node: Any, value: Tensor) -> Tensor:
        before, after = (self._graph.shapes[name][2:] for name in (node.input[0], node.output[0]))
        factors = tuple(b / a for a, b in zip(before, after, strict=True))
        return F.interpolate(value, scale_factor=factors, mode="nearest")

    def _cut(self, node: Any, value: Tensor) -> Tensor:
        """A cut of the model's size leaves a crop that does not reach there as it is."""
        given = [self._graph.constants[name].tolist() for name in node.input[1:]]
        starts, ends = given[:2]
        axes, steps = given[2] if given[2:] else range(len(starts)), given[3] if given[3:] else [1] * len(starts)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            kept = range(value.shape[axis])[start:end:step]
            value = value.index_select(axis, torch.tensor(kept))
        return value

    def parameters_of(self, node: Any, *, quantized: bool) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution, the learned factors absorbed; the weight on its 8-bit grid if asked."""
        name = node.output[0]
        weight, bias = self.weight[self._key[name]], self.bias[self._key[name]]
        groups = attribute(node, "group", 1)
        s_in, s_out = self._factor(node.input[0]), self._factor(name)
        per_group = s_in.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
        weight = weight * per_group[:, :, None, None] / s_out[:, None, None, None]
        if quantized and name not in self._float:
            largest = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
            scale = torch.where(largest > torch.finfo().tiny, largest, torch.ones(())) / WEIGHT_QMAX
            weight = _Round.apply(weight / scale) * scale  # type: ignore[no-untyped-call]
        return weight, bias / s_out

    def _factor(self, name: str) -> Tensor:
        parts = [
            self.log_factor[self._group[s.group]].exp() if s.group is not None else torch.ones(s.channels)
            for s in self._channels.segments(name)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def set_weight(self, name: str, weight: Tensor) -> None:
        """Replace the weights of the convolution with this output; float32 [out, in/groups, kh, kw]."""
        self.weight[self._key[name]].copy_(weight)

    @torch.no_grad()
    def shift_bias(self, name: str, by: Tensor) -> None:
        """Add to the bias of the convolution with this output, in the unit of its result; float32 [out]."""
        self.bias[self._key[name]].add_(by * self._factor(name))

    @torch.no_grad()
    def learned(self) -> Learned:
        """What was learned, for the ONNX model and the plan."""
        constants = {}
        for node in self._nodes:
            if node.op_type == "Conv":
                weight, bias = self.parameters_of(node, quantized=True)
                constants[node.input[1]], constants[node.input[2]] = weight.numpy(), bias.numpy()
        scales, zeros = self.log_scale.exp(), self.zero.round().clamp(QMIN, QMAX)
        grids = {
            name: Affine(scale=float(scales[i]), zero_point=int(zeros[i]))
            for i, names in enumerate(self._grids)
            for name in names
        }
        factors = {
            group: self.log_factor[key].double().exp().numpy() for group, key in self._group.items()
        }  # fmt: skip
        return Learned(constants=constants, grids=grids, factors=factors)


def _common(maps: Sequence[Tensor]) -> list[Tensor]:
    """The rows and columns that all of them have."""
    rows, columns = (min(m.shape[axis] for m in maps) for axis in (2, 3))
    return [m[:, :, :rows, :columns] for m in maps]


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _hard_sigmoid(node: Any, x: Sequence[Tensor]) -> Tensor:
    gate: Tensor = x[0] * attribute(node, "alpha", 0.2) + attribute(node, "beta", 0.5)
    return gate.clamp(0, 1)


def _max_pool(node: Any, x: Sequence[Tensor]) -> Tensor:
    """Beyond the border there is nothing, not zero."""
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    padded = F.pad(x[0], (left, right, top, bottom), value=-torch.inf)
    pooled: Tensor = F.max_pool2d(
        padded, attribute(node, "kernel_shape", None), attribute(node, "strides", [1, 1]),
        dilation=attribute(node, "dilations", [1, 1]), ceil_mode=bool(attribute(node, "ceil_mode", 0)),
    )  # fmt: skip
    return pooled


_OPERATORS: Mapping[str, Callable[[Any, Sequence[Tensor]], Tensor]] = {
    "Add": lambda _, x: x[0] + x[1],
    "Concat": lambda node, x: torch.cat(list(x), dim=attribute(node, "axis", 1)),
    "GlobalAveragePool": lambda _, x: x[0].mean(dim=(2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _, x: F.hardswish(x[0]),
    "Identity": lambda _, x: x[0],
    "LeakyRelu": lambda node, x: F.leaky_relu(x[0], attribute(node, "alpha", 0.01)),
    "MaxPool": _max_pool,
    "Mul": lambda _, x: x[0] * x[1],
    "Relu": lambda _, x: F.relu(x[0]),
    "Sub": lambda _, x: x[0] - x[1],
}


def _refuse_unknown(nodes: Sequence[Any]) -> None:
    unknown = sorted({n.op_type for n in nodes} - {"Clip", "Conv", *SETTINGS_OPERATORS, *_OPERATORS})
    if unknown:
        raise UnsupportedOperatorError(
            f"reconstruction does not know {', '.join(unknown)}", hint="use --int8-effort fast"
        )
