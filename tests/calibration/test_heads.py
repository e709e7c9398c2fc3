"""Which convolution of a trunk gives what, and how priors lie in its channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from facex.calibration.graph import Graph
from facex.calibration.heads import Level, levels
from facex.errors import BackendError


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(","), [output], name=f"/{output}", **attributes)


OUTPUTS = {"loc": 4, "conf": 2, "landm": 10}


def detector(
    onnx_model: Any, *, swapped: bool = False, without: str = "", names: dict[str, str] | None = None
) -> Graph:
    """Two levels of one map each, two priors a cell; `swapped` draws the heads in another order."""
    nodes = [
        node("Conv", "image,stem", "fine"),
        node("MaxPool", "fine", "coarse", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    const = {"stem": np.ones((4, 3, 1, 1), np.float32), "shape": np.array([1, -1, 2])}
    order = sorted(OUTPUTS, reverse=swapped)
    for level in ("coarse", "fine") if swapped else ("fine", "coarse"):
        for name in order:
            if (level, name) == ("coarse", without):
                continue
            const[f"w_{name}"] = np.ones((2 * OUTPUTS[name], 4, 1, 1), np.float32)
            const[f"shape_{name}"] = np.array([1, -1, OUTPUTS[name]])
            nodes += [
                node("Conv", f"{level},w_{name}", f"{level}_{name}"),
                node("Transpose", f"{level}_{name}", f"{level}_{name}_t", perm=[0, 2, 3, 1]),
                node("Reshape", f"{level}_{name}_t,shape_{name}", f"{level}_{name}_r"),
            ]
    for name in OUTPUTS:
        parts = [f"{level}_{name}_r" for level in ("fine", "coarse") if (level, name) != ("coarse", without)]
        nodes.append(helper.make_node("Concat", parts, [(names or {}).get(name, name)], axis=1))
    outputs = [(names or {}).get(name, name) for name in OUTPUTS]
    return Graph(onnx_model(nodes, {"image": (1, 3, 8, 6)}, outputs, const))


@pytest.mark.parametrize("swapped", [False, True])
def test_levels_are_told_by_their_maps_and_outputs_finest_first(onnx_model, swapped):
    assert levels(detector(onnx_model, swapped=swapped)) == [
        Level(margin=f"{level}_conf", box=f"{level}_loc", landmarks=f"{level}_landm", priors=2)
        for level in ("fine", "coarse")
    ]


def test_decoded_names_mean_the_same(onnx_model):
    names = {"loc": "boxes", "conf": "scores", "landm": "landmarks"}
    assert levels(detector(onnx_model, names=names)) == levels(detector(onnx_model))


def test_a_level_that_lacks_something_is_an_error(onnx_model):
    with pytest.raises(BackendError, match="the head of 4x3 cells gives box, margin alone"):
        levels(detector(onnx_model, without="landm"))


def test_results_that_are_not_a_detector_s_are_an_error(onnx_model):
    with pytest.raises(BackendError, match="'fine_conf' is not part of a detector's head"):
        levels(detector(onnx_model, names={"conf": "classes"}))


def test_a_tensor_of_two_meanings_is_an_error(onnx_model):
    nodes = [node("Conv", "image,w", "h"), node("Exp", "h", "boxes"), node("Sigmoid", "h", "scores")]
    graph = Graph(onnx_model(nodes, {"image": (1, 3, 4, 4)}, ["boxes", "scores"], {"w": np.ones((4, 3, 1, 1), "f4")}))
    with pytest.raises(BackendError, match=r"'h' .* it leads to \['box', 'margin'\]"):
        levels(graph)


def test_the_seeded_network_has_three_levels_of_two_priors(seeded_model):
    graph = Graph(seeded_model())
    found = levels(graph)
    assert [graph.shapes[level.box] for level in found] == [(1, 8, n, n) for n in (20, 10, 5)]
    assert [graph.shapes[level.landmarks][1] for level in found] == [20] * 3
    assert {level.priors for level in found} == {2}


def test_channels_are_read_as_the_head_flattens_them(seeded_model, run_showing, pictures, as_feed):
    """The score that the model gives is the sigmoid of the face margin, prior after prior, cell after cell."""
    import torch

    model = seeded_model()
    found = levels(Graph(model))
    values = run_showing(model, as_feed(pictures[0]), ["scores", *(level.margin for level in found)])
    scores = [
        level.face_margin(torch.from_numpy(values[level.margin])).sigmoid().permute(0, 2, 3, 1).reshape(1, -1)
        for level in found
    ]
    np.testing.assert_allclose(torch.cat(scores, dim=1), values["scores"], atol=1e-6)


def test_of_rivals_for_a_face_the_best_counts():
    import torch

    level = Level(margin="m", box="b", landmarks="l", priors=2)
    margin = torch.full((1, 2, 4, 9), -30.0)
    margin[0, 0, 1, 1], margin[0, 1, 2, 3], margin[0, 0, 1, 4] = 4.0, 2.0, 4.0  # two cells, three cells apart
    values = {
        "m": torch.stack([torch.zeros_like(margin), margin], dim=2).reshape(1, 4, 4, 9),
        "b": torch.zeros(1, 8, 4, 9),
        "l": torch.zeros(1, 20, 4, 9),
    }
    (box, _), (points, _), (score, _) = level.weighted(values)
    first, beaten, second = (w[0] for w in (box[:, 0, 0, 1, 1], box[:, 1, 0, 2, 3], box[:, 0, 0, 1, 4]))
    p = 1 / (1 + np.exp(-np.array([4.0, 2.0])))
    assert float(first) == float(second) == pytest.approx((p[0] + 0.002) / 4)
    assert float(beaten) == pytest.approx((np.exp(-1) * p[1] + 0.002) / 4)
    assert float(points[0, 1, 0, 2, 3]) == pytest.approx(2 * (np.exp(-1) * p[1] + 0.002) / 10)
    doubt = p[1] * (1 - p[1]) + 0.1 * p[1]
    assert float(score[0, 1, 2, 3]) == pytest.approx(6 * (np.exp(-1) * doubt + 0.001))
    assert float(box[0, 0, 0, 3, 8]) == pytest.approx(0.002 / 4), "no face is near"
    faces = 2 * p[0] + np.exp(-1) * p[1] + 2 * 4 * 9 * 0.002
    assert float(level.face_weight(values)) == pytest.approx(faces, rel=1e-5)


def test_offsets_by_prior_are_views_of_whole_quadruples():
    import torch

    level = Level(margin="m", box="b", landmarks="l", priors=3)
    value = torch.arange(2 * 12 * 2 * 2).reshape(2, 12, 2, 2)
    found = level.by_prior(value)
    assert found.shape == (2, 3, 4, 2, 2)
    np.testing.assert_array_equal(found[:, 1], value[:, 4:8])


def cascade(onnx_model, mesh: str = "mesh"):
    """Two levels with maps of one size: an anchor that leads to boxes and landmarks, and a mesh code."""
    nodes, parts = [], {"loc": [], "conf": [], "landm": [], mesh: []}
    for level in ("fine", "coarse"):
        for name in ("anchor", "loc", "landm", "conf", mesh):
            nodes.append(node("Conv", f"image,w_{'conf' if name == 'conf' else 'loc'}", f"{level}_{name}"))
        for name in ("loc", "landm"):
            nodes.append(node("Add", f"{level}_anchor,{level}_{name}", f"{level}_{name}_sum"))
            parts[name].append(f"{level}_{name}_sum")
        for name in ("conf", mesh):
            nodes.append(node("Exp", f"{level}_{name}", f"{level}_{name}_exp"))
            parts[name].append(f"{level}_{name}_exp")
    nodes += [helper.make_node("Concat", inputs, [name], axis=1) for name, inputs in parts.items()]
    const = {"w_loc": np.ones((8, 3, 1, 1), "f4"), "w_conf": np.ones((4, 3, 1, 1), "f4")}
    return Graph(onnx_model(nodes, {"image": (1, 3, 4, 4)}, list(parts), const))


def test_levels_with_maps_of_one_size_a_cascade_and_a_mesh_code(onnx_model):
    assert levels(cascade(onnx_model)) == [
        Level(
            margin=f"{level}_conf",
            box=f"{level}_loc",
            landmarks=f"{level}_landm",
            priors=2,
            anchor=f"{level}_anchor",
            mesh=f"{level}_mesh",
        )
        for level in ("fine", "coarse")
    ]


def test_an_extra_result_of_another_name_is_an_error(onnx_model):
    with pytest.raises(BackendError, match="'fine_pose' is not part of a detector's head"):
        levels(cascade(onnx_model, mesh="pose"))


def test_anchors_count_as_boxes_and_mesh_codes_in_units_of_their_own():
    import torch

    plain = Level(margin="m", box="b", landmarks="l", priors=2)
    level = Level(margin="m", box="b", landmarks="l", priors=2, anchor="a", mesh="c")
    shapes = {"m": 4, "b": 8, "l": 20, "a": 8, "c": 12}
    random = torch.Generator().manual_seed(3)
    values = {name: torch.randn(1, count, 4, 9, generator=random) for name, count in shapes.items()}
    *common, (anchor_weight, anchor), (code_weight, code) = level.weighted(values)
    for (weight, value), (expected_weight, expected) in zip(common, plain.weighted(values), strict=True):
        assert torch.equal(weight, expected_weight)
        assert torch.equal(value, expected)
    assert level.tensors == ["b", "l", "m", "a", "c"]
    assert torch.equal(anchor_weight, common[0][0])
    assert torch.equal(anchor, values["a"].reshape(1, 2, 4, 4, 9))
    assert torch.equal(code, values["c"].reshape(1, 2, 6, 4, 9))
    scaled = level.weighted({**values, "c": 10 * values["c"]})[-1][0]
    torch.testing.assert_close(scaled, code_weight / 100)  # an error ten times as large counts as much as before
    torch.testing.assert_close(code_weight * values["c"].square().mean() * 6, common[0][0] * 4)
