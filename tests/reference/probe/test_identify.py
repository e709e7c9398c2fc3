"""The probe as a whole: on a network whose batch norms were measured here, and on real checkpoints."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from facex.errors import CheckpointError, UsageError
from facex.reference import checkpoint, detector, families, photographs, probe
from facex.reference.families import retinaface
from facex.reference.photographs import Photograph
from facex.reference.probe import statistics, subject
from facex.types import ChannelOrder, ContractOptions, SettledBy, as_plain

OPEN = {"activation_slope", "pyramid_slope", "min_sizes", "variances", "channel_order", "mean", "scale"}


def built(path: Path) -> subject.Subject:
    state = checkpoint.read(path)
    structure = checkpoint.recognise(path, state)
    return subject.build(structure, state, detector.settle(structure, ContractOptions())[0])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, draw_photograph: Callable[..., Image.Image]) -> list[Photograph]:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        draw_photograph(500 + i, 200, 160).save(folder / f"{i}.png")
    return photographs.find(folder, option="--images")


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, seeded_state: Callable[..., Any], pictures: list[Photograph]
) -> Callable[[float, float], Path]:
    """`trained(slope, pyramid_slope)`: a checkpoint whose batch norms hold what these pictures have in it."""
    folder = tmp_path_factory.mktemp("trained")

    def make(slope: float, pyramid_slope: float) -> Path:
        path = folder / f"{slope}_{pyramid_slope}.pth"
        torch.save(seeded_state(), path)
        made = built(path)
        made.set_slopes({"activation_slope": slope, "pyramid_slope": pyramid_slope})
        pixels = np.stack(
            [photographs.letterbox(photographs.load(p.path), _SIZE, (118, 108, 101)).pixels for p in pictures]
        )
        images = photographs.network_input(pixels, (104, 117, 123), (1, 1, 1), bgr=True)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            for norm in made.norms:
                nn.init.normal_(norm.bias, 0.0, 0.5)
                norm.reset_running_stats()
                norm.momentum = None
            made.network.train()(torch.from_numpy(images))
        state = {k: made.network.state_dict()[n] for n, k in made.structure.renamed.items()}
        torch.save(state, path)
        return path

    return make


_SIZE = detector.Size(height=probe.SIDE_PX, width=probe.SIDE_PX)


# --- the network


def test_each_slope_has_its_own_batch_norms(seeded_checkpoint: Path) -> None:
    made = built(seeded_checkpoint)
    assert list(made.activations) == ["activation_slope", "pyramid_slope"]
    body, pyramid = (set(made.own_norms[name]) for name in made.activations)
    assert not body & pyramid
    names = {module: name for name, module in made.network.named_modules()}
    assert {names[made.norms[i]].split(".")[0] for i in pyramid} == {"pyramid", "contexts"}
    # the batch norm right behind the pixels, and the laterals', see other activations or none
    assert {names[made.norms[i]].split(".")[0] for i in body} == {"backbone", "pyramid"}


def test_slopes_are_set_and_nothing_else(seeded_checkpoint: Path) -> None:
    made = built(seeded_checkpoint)
    made.set_slopes({"activation_slope": 0.1, "pyramid_slope": 0.1})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 50
    reference = detector.load(seeded_checkpoint, ContractOptions()).network
    for one, other in zip(made.network(image), reference(image), strict=True):
        assert torch.equal(one.conf, other.conf)


def test_divergence_is_that_of_two_gaussians(seeded_checkpoint: Path) -> None:
    made = built(seeded_checkpoint)
    images = np.random.default_rng(0).normal(0, 50, (3, 3, 64, 64)).astype(np.float32)
    first = made.first
    assert first is not None
    assert first.norm is not None
    x = first.convolution(torch.from_numpy(images)).double().numpy()
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    stored, var = first.norm.running_mean.double().numpy(), first.norm.running_var.double().numpy()
    expected = np.mean(np.log(np.sqrt(var / variance)) + (variance + (mean - stored) ** 2) / (2 * var) - 0.5)
    found = statistics.run(made, images).divergence[made.norms.index(first.norm)]
    assert found == pytest.approx(expected, rel=1e-3)


def test_batches_change_nothing(seeded_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = built(seeded_checkpoint)
    images = np.random.default_rng(0).normal(0, 50, (5, 3, 64, 64)).astype(np.float32)
    whole = statistics.run(made, images)
    monkeypatch.setattr(statistics, "BATCH", 2)
    parts = statistics.run(made, images)
    assert parts.divergence == pytest.approx(whole.divergence, rel=1e-5)
    assert all(p.conf.shape == w.conf.shape for p, w in zip(parts.levels, whole.levels, strict=True))


# --- the whole


def test_weights_of_chance_are_undecided_everywhere(seeded_checkpoint: Path, pictures: list[Photograph]) -> None:
    for found in (
        probe.identify(seeded_checkpoint, ContractOptions()),
        probe.identify(seeded_checkpoint, ContractOptions(), pictures),
    ):
        assert set(found.undecided) == OPEN
        assert found.contract == detector.load(seeded_checkpoint, ContractOptions()).contract
        assert found.confidence < 0.5
        assert found.disagreements == ()
        assert all(s.how is SettledBy.ASSUMED and s.evidence for s in found.settled)


def test_batch_norms_that_were_never_trained_are_undecided(tmp_path: Path, pictures: list[Photograph]) -> None:
    torch.manual_seed(0)
    backbone = retinaface.backbones.find("mobilenetv1")
    network = retinaface.skeleton(backbone, 8, 64, (2, 2, 2), 5, 0.1, 0.1)
    state = {retinaface.published_keys(n, "classic", backbone)[0]: t for n, t in network.state_dict().items()}
    torch.save(state, tmp_path / "new.pth")
    assert set(probe.identify(tmp_path / "new.pth", ContractOptions(), pictures).undecided) == OPEN


@pytest.mark.slow
@pytest.mark.parametrize(("slope", "pyramid"), [(0.0, 0.0), (0.1, 0.1), (0.0, 0.1), (0.2, 0.0)])
def test_slopes_of_backbone_and_pyramid_are_found_apart(
    trained: Callable[[float, float], Path], pictures: list[Photograph], slope: float, pyramid: float
) -> None:
    found = probe.identify(trained(slope, pyramid), ContractOptions(), pictures)
    assert (found.contract.activation_slope, found.contract.pyramid_slope) == (slope, pyramid)
    assert not {"activation_slope", "pyramid_slope"} & set(found.undecided)
    assert found.candidates[0].cost == 0.0
    assert [c.cost for c in found.candidates] == sorted(c.cost for c in found.candidates)
    loaded = detector.load(trained(slope, pyramid), found.completed(ContractOptions()))
    assert loaded.contract == found.contract


def test_what_is_stated_is_kept_and_contradicted(
    trained: Callable[[float, float], Path], pictures: list[Photograph]
) -> None:
    stated = ContractOptions(activation_slope=0.1)
    found = probe.identify(trained(0.0, 0.0), stated, pictures)
    assert found.contract.activation_slope == found.contract.pyramid_slope == 0.1
    assert {d.field for d in found.disagreements} == {"activation_slope", "pyramid_slope"}
    assert all(d.probed == 0.0 and d.stated == 0.1 and d.confidence >= 0.5 for d in found.disagreements)
    assert found.candidates[0].contract.activation_slope == 0.0
    right = probe.identify(trained(0.0, 0.0), ContractOptions(activation_slope=0.0), pictures)
    assert right.disagreements == ()


@pytest.mark.slow
def test_the_same_inputs_give_the_same_answer(
    trained: Callable[[float, float], Path], pictures: list[Photograph]
) -> None:
    texts = {json.dumps(as_plain(probe.identify(trained(0.1, 0.1), ContractOptions(), pictures))) for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.slow
def test_unusual_numbers_of_priors_need_no_option(tmp_path: Path, pictures: list[Photograph]) -> None:
    torch.manual_seed(0)
    backbone = retinaface.backbones.find("mobilenetv1")
    network = retinaface.skeleton(backbone, 8, 64, (3, 3, 3), 5, 0.1, 0.1)
    state = {retinaface.published_keys(n, "classic", backbone)[0]: t for n, t in network.state_dict().items()}
    torch.save(state, tmp_path / "three.pth")
    found = probe.identify(tmp_path / "three.pth", ContractOptions(), pictures)
    assert "min_sizes" in found.undecided
    with pytest.raises(UsageError, match="--anchors"):  # what is undecided is not used
        detector.load(tmp_path / "three.pth", found.completed(ContractOptions()))


def test_bad_input_is_refused(tmp_path: Path, seeded_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        probe.identify(tmp_path / "none.pth", ContractOptions())
    with pytest.raises(UsageError, match="--landmarks 7"):
        probe.identify(seeded_checkpoint, ContractOptions(landmarks=7))


@pytest.mark.parametrize(("count", "want"), [(3, 3), (24, 24), (1, 1), (100, 40)])
def test_photographs_are_chosen_evenly(count: int, want: int) -> None:
    found = [Photograph(path=Path(f"{i:02}.jpg"), sha256="") for i in range(40)]
    chosen = probe.chosen(found, count)
    assert len(chosen) == len({p.path for p in chosen}) == want
    if count > 1:
        assert (chosen[0], chosen[-1]) == (found[0], found[-1])


def test_every_family_can_be_probed() -> None:
    assert families.names() == sorted(families.names())
    for name in families.names():
        assert set(families.load(name).ASSUMED) <= set(detector.SETTLED)


# --- real checkpoints

TRUTH: dict[str, dict[str, Any]] = {
    "mnet025": {},
    "mnet025_relu": {"activation_slope": 0.0},
    "mnet025_relu_small_anchors": {
        "activation_slope": 0.0, "min_sizes": ((10.0, 20.0), (32.0, 64.0), (128.0, 256.0)),
    },
    "mnet025_rgb": {"channel_order": ChannelOrder.RGB},
    "mnet025_fx_keys": {},
    "mnet025_10_landmarks": {},
    "rfb": {},
    "slim": {},
    "mnetv3_small": {},
}  # fmt: skip


def truth(path: Path) -> Any:
    structure = checkpoint.recognise(path, checkpoint.read(path))
    return detector.settle(structure, ContractOptions(**TRUTH[path.stem]))[0]


def some(shared_dir: Path, count: int, seed: int, *, faces: bool = True) -> list[Photograph]:
    folder = shared_dir / "data" / "calib"
    listed = json.loads((folder / "gt.json").read_text())["images"]
    named = sorted(folder / image["file"] for image in listed if faces or not image["faces"])
    chosen = random.Random(seed).sample(named, min(count, len(named)))
    return [Photograph(path=path, sha256="") for path in chosen]


@pytest.mark.shared
@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("seed", [11, 12])
def test_real_contracts_are_found(shared_dir: Path, name: str, seed: int) -> None:
    path = shared_dir / "weights" / f"{name}.pth"
    found = probe.identify(path, ContractOptions(), some(shared_dir, 24, seed))
    assert found.contract == truth(path)
    assert found.undecided == ()
    assert found.confidence >= 0.5


@pytest.mark.shared
@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("count", [0, 1, 4])
def test_backgrounds_are_undecided_and_never_wrong(shared_dir: Path, name: str, count: int) -> None:
    path = shared_dir / "weights" / f"{name}.pth"
    found = probe.identify(path, ContractOptions(), some(shared_dir, count, 3, faces=False))
    right = truth(path)
    assert {"min_sizes", "variances"} <= set(found.undecided)
    assert all(value == getattr(right, name) for name, value in found.probed.items())


@pytest.mark.shared
@pytest.mark.parametrize("effect", ["grey", "bluish", "tiny"])
@pytest.mark.parametrize("name", ["mnet025", "mnet025_rgb", "slim"])
def test_odd_photographs_are_never_wrong(shared_dir: Path, tmp_path: Path, name: str, effect: str) -> None:
    path = shared_dir / "weights" / f"{name}.pth"
    for i, photograph in enumerate(some(shared_dir, 24, 5)):
        image = Image.open(photograph.path).convert("RGB")
        if effect == "grey":
            image = image.convert("L").convert("RGB")
        elif effect == "bluish":
            image = Image.fromarray((np.asarray(image) * (0.45, 0.8, 1.0)).astype(np.uint8))
        else:
            image.thumbnail((64, 64))
        image.save(tmp_path / f"{i}.png")
    found = probe.identify(path, ContractOptions(), photographs.find(tmp_path, option="--images"))
    right = truth(path)
    assert all(value == getattr(right, name) for name, value in found.probed.items())
    shutil.rmtree(tmp_path)


@pytest.mark.shared
def test_wrong_statements_about_a_real_checkpoint_are_found(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "mnet025_relu_small_anchors.pth"
    stated = ContractOptions(
        activation_slope=0.1, min_sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)), channel_order=ChannelOrder.RGB
    )
    found = probe.identify(path, stated, some(shared_dir, 24, 11))
    assert {d.field for d in found.disagreements} == {"activation_slope", "pyramid_slope", "min_sizes", "channel_order"}
    assert found.candidates[0].contract == truth(path)
    assert dataclasses.replace(found.contract, variances=(0.1, 0.2)).channel_order is ChannelOrder.RGB
