"""State dicts in every wrapping that the wild offers, and files that must be refused in one line."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facex.errors import EXIT_INPUT, CheckpointError
from facex.reference import backbones, checkpoint, families
from facex.reference import detector as detectors
from facex.reference.families import retinaface
from facex.types import ContractOptions

MOBILENET_V1 = backbones.find("mobilenetv1")

STEM = "body.stage1.0.0.weight"
State = dict[str, Any]
Save = Callable[..., Path]


@pytest.fixture
def state(seeded_state: Callable[..., dict[str, Tensor]]) -> State:
    return dict(seeded_state())


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(value: Any, **options: Any) -> Path:
        path = tmp_path / "given.pth"
        torch.save(value, path, **options)
        return path

    return save


def load(path: Path) -> detectors.Detector:
    return detectors.load(path, ContractOptions())


def assert_refused(path: Path, *words: str) -> CheckpointError:
    """Loading fails in one line that names the file and holds the words."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    text = str(caught.value)
    assert caught.value.exit_code == EXIT_INPUT
    assert len(text.splitlines()) == 1
    assert str(path) in text
    said = text.replace(str(path), "")  # the folder is named after the test
    assert all(word in said for word in words), text
    return caught.value


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "ordered": OrderedDict,
    "module": lambda s: prefixed(s, "module."),
    "module.model": lambda s: prefixed(s, "module.model."),
    "model.module": lambda s: prefixed(s, "model.module."),
    "compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "state_dict": lambda s: {"state_dict": s},
    "state_dict and module": lambda s: {
        "state_dict": prefixed(s, "module."),
        "epoch": 9,
        "optimizer": {"lr": [1]},
    },
    "model in state_dict": lambda s: {"state_dict": {"model": prefixed(s, "module.")}, "best": 0.5},
    "model_state_dict": lambda s: {"model_state_dict": s, "epoch": 3},
    "scalars beside": lambda s: {**s, "epoch": 7, "loss": 0.5, "name": "mnet", "best": True, "note": None},
    "scalars beside module": lambda s: {**prefixed(s, "module."), "epoch": 7},
    "no step counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "parameters": lambda s: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_load_the_same_network(state: State, save: Save, wrapping: str, legacy: bool) -> None:
    path = save(WRAPPINGS[wrapping](state), _use_new_zipfile_serialization=not legacy)
    loaded = load(path).network
    assert not loaded.training
    tensors = loaded.state_dict()
    for name, value in tensors.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[retinaface.published_keys(name, "classic", MOBILENET_V1)[0]]), name
    assert sum(not name.endswith("num_batches_tracked") for name in tensors) == sum(
        v.is_floating_point() for v in state.values()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_float_types_become_float32(state: State, save: Save, dtype: torch.dtype) -> None:
    narrowed = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    network = load(save(narrowed)).network
    for name, value in network.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, narrowed[retinaface.published_keys(name, "classic", MOBILENET_V1)[0]].float())


def test_an_untrained_looking_file_is_read_once_and_not_changed(seeded_checkpoint: Path) -> None:
    before = seeded_checkpoint.read_bytes()
    detector = load(seeded_checkpoint)
    assert seeded_checkpoint.read_bytes() == before
    assert detector.sha256 == checkpoint.sha256(seeded_checkpoint)
    assert len(detector.sha256) == 64
    assert not any(p.requires_grad for p in detector.network.parameters())


def test_a_prefix_on_some_keys_only_is_kept(state: State, save: Save) -> None:
    """Taking it off would let one of two tensors win by chance."""
    assert_refused(save({**state, f"module.{STEM}": torch.zeros(8, 3, 3, 3)}), f"unexpected module.{STEM}")


# --- files that are not checkpoints


def test_missing_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "absent.pth", "no such file")


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(tmp_path / "absent")
    assert_refused(tmp_path / "link.pth", "no such file")


def test_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path, "is a folder")


def test_name_too_long(tmp_path: Path) -> None:
    assert_refused(tmp_path / ("a" * 4000), "too long")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    assert_refused(tmp_path / "pipe.pth", "not a regular file")


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is a text file\n", b"\x80", bytes(range(256)) * 40, b"PK\x03\x04"]
)
def test_bytes_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "given.pth"
    path.write_bytes(content)
    assert_refused(path)


def test_zip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "given.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not torch")
    assert_refused(path, "not a PyTorch checkpoint")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_archive(tmp_path: Path) -> None:
    path = tmp_path / "given.pth"
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), path)
    assert_refused(path, "TorchScript")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
def test_truncated(state: State, save: Save, legacy: bool, share: float) -> None:
    path = save(state, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_bytes_are_refused_or_harmless(state: State, save: Save, legacy: bool) -> None:
    path = save(state, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    random = np.random.default_rng(5)
    messages = []
    for _ in range(40):
        damaged = bytearray(whole)
        for position in random.integers(0, 4000, 3):
            damaged[position] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            load(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) >= 10
    assert all(len(message.splitlines()) == 1 for message in messages)


# --- pickles that would run code


class RunsOnLoad:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def _pickled(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "plain pickle": _pickled,
    "zip": lambda value, path: torch.save(value, path),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("call", ["os.system", "open", "eval"])
@pytest.mark.parametrize("writer", WRITERS)
def test_code_never_runs(state: State, tmp_path: Path, writer: str, call: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "given.pth"
    payload = {
        "os.system": RunsOnLoad(os.system, f"touch '{trace}'"),
        "open": RunsOnLoad(open, str(trace), "w"),
        "eval": RunsOnLoad(eval, f"open({str(trace)!r}, 'w')"),
    }[call]
    WRITERS[writer]({**state, "extra": payload}, path)

    assert_refused(path, "refused")
    assert not trace.exists()
    if writer == "plain pickle":
        pickle.loads(path.read_bytes())
        assert trace.exists(), "the payload is a dud, so the test above proves nothing"


def test_objects_are_refused_by_name(state: State, save: Save) -> None:
    assert_refused(save({"state_dict": state, "args": argparse.Namespace(lr=1)}), "argparse.Namespace")
    assert_refused(save(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear")


# --- contents that are no state dict of floats


@pytest.mark.parametrize(
    "value", [[1, 2], (), {}, 3, "text", None, {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": {}}}]
)
def test_no_state_dict(save: Save, value: Any) -> None:
    assert_refused(save(value), "holds no state dict")


def test_lone_tensor(save: Save) -> None:
    assert_refused(save(torch.zeros(3)), "holds no state dict")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_not_finite(state: State, save: Save, value: float, dtype: torch.dtype) -> None:
    state["ssh2.conv3X3.0.weight"] = state["ssh2.conv3X3.0.weight"].to(dtype)
    state["ssh2.conv3X3.0.weight"].view(-1)[17] = value
    assert_refused(save(state), "ssh2.conv3X3.0.weight", "not finite")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantized(state: State, save: Save) -> None:
    state[STEM] = torch.quantize_per_tensor(state[STEM], 0.1, 0, torch.qint8)
    assert_refused(save(state), STEM, "quantized", "qint8")


UNUSABLE: dict[str, tuple[str, Callable[[Tensor], Any], str]] = {
    "int8": (STEM, lambda t: t.mul(10).to(torch.int8), "int8 values, not floats"),
    "bool": (STEM, lambda t: t > 0, "bool values, not floats"),
    "complex": (STEM, lambda t: t.to(torch.complex64), "complex64 values, not floats"),
    "sparse": (STEM, lambda t: t.to_sparse(), "not a dense tensor"),
    "meta": (STEM, lambda t: t.to("meta"), "not a dense tensor"),
    "larger than the file": (STEM, lambda t: torch.zeros(1).expand(10**12), "more values than the file"),
    "beyond float32": (STEM, lambda t: t.double() * 1e60, "not finite in float32"),
    "list": (STEM, lambda t: t.tolist(), "is a list, not a tensor"),
    "negative variance": ("ssh1.conv3X3.1.running_var", lambda t: -t, "negative variances"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_values(state: State, save: Save, case: str) -> None:
    key, change, words = UNUSABLE[case]
    state[key] = change(state[key])
    assert_refused(save(state), f"'{key}'", words)


# --- state dicts of something else


def test_other_architecture_names_the_closest_and_what_differs(save: Save) -> None:
    error = assert_refused(
        save(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).state_dict()),
        "not a detector that facex knows",
        "closest is retinaface",
        "0 agree",
        "missing BboxHead.0.conv1x1.bias",
        "unexpected 0.bias, 0.weight, 1.bias and 3 more",
    )
    assert all(name in error.hint for name in families.names())


@pytest.mark.parametrize("layout", ["classic", "fx"])
def test_one_key_missing_and_one_more(seeded_state: Callable[..., dict[str, Tensor]], save: Save, layout: str) -> None:
    state = dict(seeded_state(layout=layout))
    del state["fpn.merge1.0.weight"]
    assert_refused(save(state), f"{layout} keys, 252 agree", "missing fpn.merge1.0.weight")
    state = dict(seeded_state(layout=layout))
    state["fpn.merge3.0.weight"] = torch.zeros(3)
    assert_refused(save(state), f"{layout} keys, 253 agree", "unexpected fpn.merge3.0.weight")


def test_one_wrong_shape(state: State, save: Save) -> None:
    state["ssh1.conv3X3.0.weight"] = torch.zeros(32, 64, 5, 5)
    assert_refused(save(state), "wrong shape ssh1.conv3X3.0.weight is [32, 64, 5, 5], expected [32, 64, 3, 3]")


@pytest.mark.parametrize("shape", [(), (0,), (0, 0, 0, 0), (1, 1)])
def test_every_shape_wrong(state: State, save: Save, shape: tuple[int, ...]) -> None:
    assert_refused(save({key: torch.ones(shape) for key in state}), "wrong shape")


@pytest.mark.parametrize(
    "key", ["fpn.output1.0.weight", STEM, "BboxHead.1.conv1x1.weight", "LandmarkHead.0.conv1x1.weight"]
)
def test_a_key_that_sets_the_structure_is_empty(state: State, save: Save, key: str) -> None:
    for shape in ((), (0,), (0, 64, 1, 1)):
        state[key] = torch.ones(shape)
        assert_refused(save(state), "wrong shape")


# --- what keys and shapes prove


@pytest.mark.parametrize(
    ("stem", "anchors", "landmarks", "backbone"),
    [
        (8, (2, 2, 2), 5, "mobilenetv1-0.25"),
        (16, (1, 1, 1), 10, "mobilenetv1-0.5"),
        (32, (3, 1, 4), 1, "mobilenetv1-1"),
        (4, (2, 1, 1), 68, "mobilenetv1-0.125"),
    ],
)
@pytest.mark.parametrize("layout", ["classic", "fx"])
def test_structure_follows_from_shapes(
    stem: int, anchors: tuple[int, ...], landmarks: int, backbone: str, layout: str
) -> None:
    network = retinaface.skeleton(MOBILENET_V1, stem, 32, anchors, landmarks, 0.1, 0.1)
    state = {retinaface.published_keys(k, layout, MOBILENET_V1)[0]: v for k, v in network.state_dict().items()}
    assert len(state) == len(network.state_dict())

    structure = checkpoint.recognise(Path("given.pth"), state)

    assert (structure.family, structure.backbone, structure.layout) == ("retinaface", backbone, layout)
    assert (structure.anchors_per_cell, structure.landmarks) == (anchors, landmarks)
    assert structure.strides == (8, 16, 32)


# --- the real ones


@pytest.mark.shared
def test_real_refusals(shared_dir: Path) -> None:
    weights = shared_dir / "weights"
    assert_refused(weights / "bad_not_retinaface.pth", "closest is retinaface", "missing", "unexpected")
    assert_refused(weights / "bad_quantized_state_dict.pth", "quantized", "qint8")


@pytest.mark.shared
def test_real_truncated(shared_dir: Path, tmp_path: Path) -> None:
    whole = (shared_dir / "weights" / "mnet025.pth").read_bytes()
    for share in (0.001, 0.3, 0.98):
        (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
        assert_refused(tmp_path / "cut.pth")
