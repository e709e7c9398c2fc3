"""Fixtures of every room: seeded photographs, a seeded checkpoint that finds things in them, the real data.

Test modules cannot import one another (`--import-mode=importlib`), so what they share are fixtures, some of
them functions to call.
"""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from facex.types import ContractOptions, Effort, Head, Size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from facex.calibration.engine import Calibrated
    from facex.calibration.schedule import Schedule
    from facex.progress import Clock
    from facex.reference.detector import Detector

# The same examples on every run, however slow the machine: a red test is red again when it is run again.
settings.register_profile("facex", deadline=None, derandomize=True, database=None)
settings.load_profile("facex")

PHOTO_SIZES = ((200, 160), (192, 168), (208, 152), (160, 200), (200, 160), (224, 160))
"""Width and height of the photographs of `photo_dir`, px."""

CALIBRATION_SIZE = Size(height=160, width=160)
POSITIVE_SHARE = 0.035
"""Share of the priors that seeded class heads are set to score above 0.5: about 37 of 1050 at 160x160."""
CLASS_HEADS = ("class_heads", "conf")
OFFSET_HEADS = ("box_heads", "landmark_heads", "loc", "landm", "first_box_heads")
"""What the networks of the families call their heads, one a level."""


def _draw(seed: int, width: int, height: int) -> Image.Image:
    """A colourful picture: a gradient under coloured ellipses and rectangles of many sizes, with noise."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for i in range(36):
        x, y = random.uniform(-10, width), random.uniform(-10, height)
        w, h = random.uniform(6, 60, 2)
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        (draw.ellipse if i % 3 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), np.float64)
    return Image.fromarray(np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def draw_photograph() -> Callable[[int, int, int], Image.Image]:
    """`draw_photograph(seed, width, height)` gives a colourful synthetic RGB picture."""
    return _draw


@pytest.fixture(scope="session")
def photo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six seeded colourful pictures, JPEG and PNG, about 200x160 px."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, (width, height) in enumerate(PHOTO_SIZES):
        image = _draw(100 + i, width, height)
        if i % 2:
            image.save(folder / f"picture_{i}.png")
        else:
            image.save(folder / f"picture_{i}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def shared_dir(pytestconfig: pytest.Config) -> Path:
    """The folder `shared` beside the checkout, with real checkpoints and photographs."""
    folder = pytestconfig.rootpath.parent / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip(f"no real checkpoints and photographs at {folder}")
    return folder


def _letterboxed(images: list[Image.Image]) -> Tensor:
    """The pictures as the default contract's network input, float32 [B, 3, 160, 160]."""
    import torch

    from facex.reference.families.retinaface import ASSUMED
    from facex.reference.photographs import letterbox, network_input

    pixels = [letterbox(np.asarray(image), CALIBRATION_SIZE, ASSUMED["mean"][::-1]).pixels for image in images]
    return torch.from_numpy(network_input(np.stack(pixels), ASSUMED["mean"], (1.0, 1.0, 1.0), bgr=True))


def _last_convolutions(network: nn.Module, heads: Sequence[str]) -> list[nn.Conv2d]:
    """Of every level of those heads that a network has, head by head."""
    from torch import nn

    levels = [level for name in heads for level in getattr(network, name, ())]
    return [[m for m in level.modules() if isinstance(m, nn.Conv2d)][-1] for level in levels]


def _random_weights(network: nn.Module) -> None:
    """He-initialised convolutions and mildly varied batch norms, from torch's global generator."""
    import torch
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 1.0, 0.3)  # mostly in the linear range: rounding is not amplified
            module.momentum = None  # running statistics become plain averages
    with torch.no_grad():
        for head in _last_convolutions(network, OFFSET_HEADS):
            assert head.bias is not None
            head.weight.mul_(0.15)
            head.bias.uniform_(-0.2, 0.2)


def _widest_gap(values: Tensor, rank: int) -> Tensor:
    """Middle of the widest gap between the values around the rank-th largest, so that few are borderline."""
    ordered = values.sort(descending=True).values[rank // 2 : rank + rank // 2 + 2]
    widest = int((ordered[:-1] - ordered[1:]).argmax())
    return (ordered[widest] + ordered[widest + 1]) / 2


def _calibrate_class_heads(network: nn.Module, images: Tensor) -> None:
    """Scale and shift the class heads so that a few priors of every level and size score above 0.5."""
    levels = network(images)
    for head, level in zip(_last_convolutions(network, CLASS_HEADS), levels, strict=True):
        assert head.bias is not None
        face_minus_background = (level.conf[:, 1::2] - level.conf[:, 0::2]).transpose(0, 1).flatten(1)
        gain = 3.0 / face_minus_background.std(dim=1)
        for slot, values in enumerate(face_minus_background):
            threshold = _widest_gap(values, round(POSITIVE_SHARE * len(values)))
            head.weight[2 * slot : 2 * slot + 2].mul_(gain[slot])
            head.bias[2 * slot : 2 * slot + 2] *= gain[slot]
            head.bias[2 * slot + 1] -= gain[slot] * threshold


def _seeded(build: Callable[[], nn.Module], seed: int = 7) -> dict[str, Tensor]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, so the same weights on every machine
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            network = build()
            _random_weights(network)
            network.train()
            network(_letterboxed([_draw(500 + i, 200, 160) for i in range(8)]))
            network.eval()
            pictures = [_draw(100 + i, *size) for i, size in enumerate(PHOTO_SIZES)]
            _calibrate_class_heads(network, _letterboxed(pictures))
    finally:
        torch.set_num_threads(threads)
    return network.state_dict()


@pytest.fixture(scope="session")
def seeded_network() -> Callable[..., dict[str, Tensor]]:
    """`seeded_network(build, seed=7)` gives a state dict, by parameter, for the network that `build()` makes.

    It must be one of a family, for the default contract; see `seeded_checkpoint` for what it finds.
    """
    return _seeded


def _seeded_state(*, layout: str, slope: float, landmarks: int, seed: int) -> dict[str, Tensor]:
    from facex.reference import backbones
    from facex.reference.families import retinaface

    backbone = backbones.find("mobilenetv1")
    state = _seeded(lambda: retinaface.skeleton(backbone, 8, 64, (2, 2, 2), landmarks, slope, slope), seed)
    return {retinaface.published_keys(name, layout, backbone)[0]: tensor for name, tensor in state.items()}


@pytest.fixture(scope="session")
def seeded_state() -> Callable[..., dict[str, Tensor]]:
    """`seeded_state(layout="classic", slope=0.1, landmarks=5, seed=7)` gives a new RetinaFace state dict."""
    from functools import lru_cache

    cached = lru_cache(maxsize=None)(_seeded_state)

    def state(layout: str = "classic", slope: float = 0.1, landmarks: int = 5, seed: int = 7) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in cached(layout=layout, slope=slope, landmarks=landmarks, seed=seed).items()}

    return state


@pytest.fixture(scope="session")
def seeded_checkpoint(tmp_path_factory: pytest.TempPathFactory, seeded_state: Callable[..., dict[str, Tensor]]) -> Path:
    """A classic-layout checkpoint for the default contract.

    It scores 20-60 priors above 0.5 on each picture of `photo_dir` letterboxed to 160x160.
    """
    import torch

    path = tmp_path_factory.mktemp("checkpoint") / "seeded.pth"
    torch.save(seeded_state(), path)
    return path


@pytest.fixture(scope="session")
def detector(seeded_checkpoint: Path) -> Detector:
    """The seeded checkpoint under the default contract."""
    from facex.reference import detector

    return detector.load(seeded_checkpoint, ContractOptions())


def _onnx_model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> Any:
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8  # older runtimes refuse the newest one
    return shape_inference.infer_shapes(model)


@pytest.fixture(scope="session")
def onnx_model() -> Callable[..., Any]:
    """`onnx_model(nodes, {input: shape}, outputs, constants={}, opset=17)` gives a float32 ONNX model."""
    return _onnx_model


def _run_onnx(model: Any, feeds: Mapping[str, NDArray[Any]], *, optimized: bool = False) -> dict[str, NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., dict[str, NDArray[Any]]]:
    """`run_onnx(model_or_path, feeds, optimized=False)` runs onnxruntime, node by node unless `optimized`."""
    return _run_onnx


@pytest.fixture(scope="session")
def calib_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four seeded pictures that are not in `photo_dir`."""
    folder = tmp_path_factory.mktemp("calibration")
    for i in range(4):
        _draw(300 + i, 200, 160).save(folder / f"calibration_{i}.png")
    return folder


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Calibrated]:
    """`calibrated(pivot, detector, head, effort=fast, seed=0, schedule=…, clock=…)`: the engine's answer.

    For a pivot of 160x160, on eight drawn pictures of just that size; computed once, except for a clock to watch.
    """
    from facex.calibration import engine
    from facex.calibration.schedule import Schedule
    from facex.progress import Clock
    from facex.reference import photographs

    folder = tmp_path_factory.mktemp("eight")
    for i in range(8):
        _draw(300 + i, 160, 160).save(folder / f"{i}.png")
    found = photographs.find(folder, option="--calib")
    known: dict[Any, Calibrated] = {}

    def calibrate(
        pivot: Path,
        detector: Detector,
        head: Head = Head.DECODED,
        effort: Effort = Effort.FAST,
        *,
        seed: int = 0,
        schedule: Schedule | None = None,
        clock: Clock | None = None,
    ) -> Calibrated:
        setting = engine.Setting(
            contract=detector.contract,
            size=CALIBRATION_SIZE,
            head=head,
            effort=effort,
            seed=seed,
            threads=1,
            schedule=schedule or Schedule(steps=8, batch=4, side=96, pool=16),
        )
        key = pivot.read_bytes(), setting
        if clock is not None or key not in known:
            told = clock or Clock()
            seen = engine.read(pivot, found, setting, told)
            known[key] = engine.calibrate(pivot, seen, setting, states=folder, clock=told)
        return known[key]

    return calibrate


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory, seeded_state: Callable[..., dict[str, Tensor]]) -> Path:
    """The seeded checkpoint trained on: the same detector with other weights."""
    import torch

    path = tmp_path_factory.mktemp("checkpoint") / "other.pth"
    torch.save(seeded_state(seed=8), path)
    return path


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that tells the user what is wrong; everything before it is progress."""
        *progress, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert not [line for line in progress if line and not line.endswith(" …") and not line.startswith("warning: ")]
        return last


@pytest.fixture
def run_facex(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Ran]]:
    """`run_facex("export", …)` runs the real command line in this process, in `tmp_path`, and gives what it left."""
    from facex import cli

    monkeypatch.chdir(tmp_path)  # away from this project's own pyproject.toml
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("FACEX_DEBUG", "")
    monkeypatch.setattr("facex.launching.STARTS", 1)  # a second each; test_launching.py sees to their number
    on_sigterm = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["facex", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        assert isinstance(left.value.code, int)
        return Ran(code=left.value.code, out=out, err=err)

    yield run
    signal.signal(signal.SIGTERM, on_sigterm)


@pytest.fixture
def start_waiting(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start_waiting(code, *line)` runs Python code with a command line in `tmp_path`, until it says that it waits."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *line: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *line],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def _frozen(seeded_checkpoint: Path) -> Iterator[None]:
    """The garbage collector leaves alone what the heavy packages hold, which every timing would walk again."""
    import onnxruntime  # noqa: F401
    import onnxsim  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def _pivots(tmp_path_factory: pytest.TempPathFactory, _frozen: None) -> Callable[..., None]:
    """`_pivot.write` that traces each network once in a session; three quarters of a small export is tracing."""
    from facex.exporters import _pivot

    write, folder = _pivot.write, tmp_path_factory.mktemp("pivots")
    known: dict[Any, Path] = {}

    def remembered(detector: Detector, size: Size, head: Any, opset: int, path: Path, credits: Any = None) -> None:
        key = (detector.sha256, detector.contract, size, head, opset, credits)
        if key not in known:
            known[key] = folder / f"{len(known)}.onnx"
            write(detector, size, head, opset, known[key], credits)
        path.write_bytes(known[key].read_bytes())

    return remembered


@pytest.fixture
def quick_pivot(_pivots: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of this test do not trace again what another test has traced."""
    monkeypatch.setattr("facex.exporters._pivot.write", _pivots)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, _frozen: None, seeded_checkpoint: Path, photo_dir: Path) -> Path:
    """The `--out` of an export to ONNX at 160x160 in fp32 and fp16 that passed; to be copied, not changed."""
    import facex

    out = tmp_path_factory.mktemp("exported")
    found = facex.export(
        seeded_checkpoint, targets=["onnx"], precisions=["fp32", "fp16"], sizes=["160x160"], images=photo_dir, out=out
    )
    assert found.exit_code == 0
    return out


def _content(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in found}


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes | None]]:
    """`content(folder)` gives every path below a folder with the bytes of the files, to show that nothing changed."""
    return _content
