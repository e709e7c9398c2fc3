"""What a file does: run beside the reference under every way of feeding it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facex.errors import FacexError
from facex.foreign import effective, feeds, outputs
from facex.foreign.fit import fit
from facex.parity.match import match
from facex.parity.metrics import FACE_SCORE
from facex.provenance import Behaviour, Feed, FirstConvolution, Fit, Output, Trial, Triple
from facex.reference import detector as reference
from facex.reference import geometry
from facex.reference.photographs import Photograph, letterbox, load
from facex.types import ChannelOrder, Detections, Size

if TYPE_CHECKING:
    from facex.exporters._foreign import Fed, ForeignFile, Opened
    from facex.foreign.outputs import Frame, Reading
    from facex.progress import Clock
    from facex.reference.detector import Detector
    from facex.types import FloatArray

OPEN_SIDE_PX = 320
"""Where the file takes any size."""

DRAWN = 4
"""Pictures, where there are no photographs."""

RECOGNISED_DB = 3.0
"""An output that follows the reference less than this, half of what varies, is not known to be what it seems."""

SEED = 20260725


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """The pictures and what the reference makes of them."""

    detector: Detector
    where: Frame
    pictures: tuple[NDArray[np.uint8], ...]
    expected: Mapping[str, FloatArray]
    faces: tuple[Detections, ...]
    predict: Callable[[ChannelOrder, Triple, Triple], dict[str, FloatArray]]


def observe(
    file: ForeignFile, detector: Detector, photographs: Sequence[Photograph], *, says: Feed | None,
    first: FirstConvolution | None, threads: int, clock: Clock,
) -> Behaviour:  # fmt: skip
    """Feed the file everything that is usual and see under what it follows the reference.

    Args:
        file: of any tool.
        detector: the checkpoint under its right contract.
        photographs: what to feed; without any, pictures of coloured noise are drawn.
        says: what the file says that it must be fed; differences of the mean are told against it.
        first: what the weights of the first convolution tell.
        threads: of the runtimes.
        clock: times the stages.

    Raises:
        PhotographError: a photograph cannot be decoded.
    """
    if len(file.inputs) != 1:
        return Behaviour(decided=False, reason=f"the file has {len(file.inputs)} inputs, a detector has one")
    (fed,) = file.inputs
    frame = _framed(fed)
    if frame is None:
        return Behaviour(decided=False, reason=f"its input {list(fed.shape)} is not one picture of three channels")
    size, shape, channels_last = frame
    try:
        reference.check_size(size, detector.contract)
        opened = file.open(shape)
    except FacexError as error:
        return Behaviour(decided=False, reason=f"it cannot be run here: {error}")
    with clock("reference", f"running the reference on {len(photographs) or DRAWN} pictures", named=False):
        scene = _scene(detector, size, photographs, threads)
    tried = feeds.candidates(detector.contract, fed)
    if says is not None and all((f.channel_order, f.mean, f.scale) != _key(says) for f in tried):
        tried.append(says)
    try:
        with clock("behaviour", f"feeding {len(tried)} ways", len(tried), named=False):
            ran = _ran(opened, tried, scene.pictures, channels_last, clock)
    except FacexError as error:
        return Behaviour(decided=False, reason=f"it cannot be run here: {error}", runtime=opened.runtime)
    with clock("fit", "fitting the mean", named=False):
        return _judged(tried, ran, scene, opened.runtime, says, first, bool(photographs))


def _key(feed: Feed) -> tuple[ChannelOrder, Triple, Triple]:
    return feed.channel_order, feed.mean, feed.scale


def _framed(fed: Fed) -> tuple[Size, tuple[int, ...], bool] | None:
    """Size, the whole shape, and whether channels come last, of an input that takes a picture."""
    if len(fed.shape) != 4 or fed.shape[0] > 1:
        return None
    last = fed.shape[3] == 3 and fed.shape[1] != 3
    if not last and fed.shape[1] != 3:
        return None
    height, width = (d or OPEN_SIDE_PX for d in (fed.shape[1:3] if last else fed.shape[2:4]))
    return Size(height=height, width=width), (1, height, width, 3) if last else (1, 3, height, width), last


def _scene(detector: Detector, size: Size, photographs: Sequence[Photograph], threads: int) -> _Scene:
    import torch

    from facex.calibration.simulate import torch_threads

    contract = detector.contract
    where = outputs.frame(contract, size)
    pictures = tuple(letterbox(load(p.path), size, contract.mean_rgb).pixels[None] for p in photographs)
    pictures = pictures or _drawn(size)
    stacked = np.concatenate(pictures).astype(np.float32)

    def logits(order: ChannelOrder, mean: Triple, scale: Triple) -> tuple[FloatArray, FloatArray, FloatArray]:
        feed = Feed(label="", channel_order=order, mean=mean, scale=scale)
        with torch.inference_mode(), torch_threads(threads):
            levels = detector.network(torch.from_numpy(feeds.apply(feed, stacked, channels_last=False)))
            loc, conf, landm = (t.numpy() for t in reference.flatten_logits(levels, contract.landmarks))
        return loc, conf, landm

    loc, conf, landm = logits(contract.channel_order, contract.mean, contract.scale)
    expected = outputs.truth(loc, conf, landm)
    faces = tuple(_faces(*parts, where) for parts in zip(loc, conf[..., 1] - conf[..., 0], landm, strict=True))
    return _Scene(
        detector=detector, where=where, pictures=pictures, expected=expected, faces=faces,
        predict=lambda order, mean, scale: outputs.truth(*logits(order, mean, scale)),
    )  # fmt: skip


def _drawn(size: Size) -> tuple[NDArray[np.uint8], ...]:
    """Coloured noise, coarse and fine: what a network sees is not one grey, and channels differ."""
    from PIL import Image

    random = np.random.default_rng(SEED)
    found = []
    for _ in range(DRAWN):
        values = np.zeros((size.height, size.width, 3))
        for cells, strength in ((4, 90.0), (12, 50.0), (40, 30.0)):
            coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            fine = coarse.resize((size.width, size.height), Image.Resampling.BICUBIC)
            values += (np.asarray(fine, np.float64) - 127.5) / 127.5 * strength
        found.append(np.clip(values + 127.5, 0, 255).astype(np.uint8)[None])
    return tuple(found)


def _faces(loc: FloatArray, margin: FloatArray, landm: FloatArray, where: Frame) -> Detections:
    boxes, points = geometry.decode(loc, landm, where.anchors, where.contract.variances)
    scores = (1 / (1 + np.exp(-np.clip(margin.reshape(-1), -60, 60)))).astype(np.float32)
    return geometry.detect(boxes, scores, points, score=FACE_SCORE)


_Values = list[NDArray[np.float32]]


def _ran(
    opened: Opened, tried: Sequence[Feed], pictures: Sequence[NDArray[np.uint8]], channels_last: bool, clock: Clock
) -> tuple[list[str], list[list[_Values]]]:
    """Names of the outputs, and by feed and picture their values."""
    names: list[str] = []
    ran: list[list[_Values]] = []
    for feed in tried:
        own: list[_Values] = []
        for picture in pictures:
            found = opened.run(feeds.apply(feed, picture, channels_last=channels_last))
            names = [name for name, _ in found]
            own.append([value for _, value in found])
        ran.append(own)
        clock.progress.advance()
    return names, ran


def _judged(
    tried: Sequence[Feed], ran: tuple[list[str], list[list[_Values]]], scene: _Scene, runtime: str, says: Feed | None,
    first: FirstConvolution | None, photographs: bool,
) -> Behaviour:  # fmt: skip
    names, values = ran
    # an output whose length depends on what is found, as after a suppression, is not by prior
    seen_shapes = [{value.shape for value in each} for each in zip(*(v for feed in values for v in feed), strict=True)]
    shapes = [shape.pop() if len(shape) == 1 else () for shape in seen_shapes]
    candidates = outputs.readings(shapes, scene.where)
    understood = outputs.choose(
        candidates, [by_picture[0] for by_picture in values], scene.where, scene.expected, RECOGNISED_DB
    )
    told = tuple(_output(i, name, shapes[i], understood) for i, name in enumerate(names))
    seen = functools.partial(
        Behaviour, runtime=runtime, size=scene.where.size, pictures=len(scene.pictures), photographs=photographs,
        outputs=told,
    )  # fmt: skip
    if not understood.chosen:
        listed = ", ".join(f"{o.name} {list(o.shape)}" for o in told)
        reason = f"no output follows the reference under any of {len(tried)} feeds; the file gives {listed}"
        return seen(decided=False, reason=reason)
    found = [_raw(understood.chosen, by_picture, scene.where) for by_picture in values]
    trials = [_trial(feed, got, scene, understood.chosen) for feed, got in zip(tried, found, strict=True)]
    ranked = sorted(range(len(trials)), key=lambda i: -trials[i].agreement_db)
    fits = [_fitted(tried[i], found[i], scene, understood.chosen, says, first) for i in _best_of_orders(ranked, tried)]
    decided, reason = effective.decision(fits, len(tried))
    feed, best = max(fits, key=lambda pair: pair[1].agreement_db)
    under = effective.works_under(feed, best, scene.detector) if decided else None
    return seen(
        decided=decided, reason=reason, works_under=under,
        trials=tuple(trials[i] for i in ranked), fit=best,
    )  # fmt: skip


def _output(index: int, name: str, shape: tuple[int, ...], understood: outputs.Understood) -> Output:
    own = [r for r in understood.chosen if r.output == index]
    db = min((understood.seen_db[r] for r in own), default=None)
    return Output(name=name, shape=shape, meaning="; ".join(r.meaning for r in own), agreement_db=db)


def _raw(chosen: Sequence[Reading], by_picture: Sequence[_Values], where: Frame) -> dict[str, FloatArray]:
    each = [outputs.raw(chosen, values, where) for values in by_picture]
    return {kind: np.stack([one[kind] for one in each]) for kind in each[0]}


def _agreement(expected: Mapping[str, FloatArray], found: Mapping[str, FloatArray]) -> float:
    return float(np.mean([outputs.agreement_db(expected[kind], value) for kind, value in found.items()]))


def _trial(feed: Feed, found: Mapping[str, FloatArray], scene: _Scene, chosen: Sequence[Reading]) -> Trial:
    expected = outputs.picked(chosen, scene.expected)
    return Trial(feed=feed, agreement_db=_agreement(expected, found), matched_f1=_matched_f1(found, scene))


def _matched_f1(found: Mapping[str, FloatArray], scene: _Scene) -> float | None:
    priors = len(scene.where.anchors)
    if any(kind not in found or found[kind].shape[1] != priors for kind in ("loc", "margin")):
        return None
    landm = found.get("landm", scene.expected["landm"])
    landm = landm if landm.shape[1] == priors else scene.expected["landm"]
    pairs = faces = 0
    for i, wanted in enumerate(scene.faces):
        got = _faces(found["loc"][i], found["margin"][i], landm[i], scene.where)
        pairs, faces = pairs + len(match(wanted, got)), faces + len(wanted) + len(got)
    return 2 * pairs / faces if faces else None


def _best_of_orders(ranked: Sequence[int], tried: Sequence[Feed]) -> list[int]:
    """The best feed of each channel order, the best one first."""
    return [next(i for i in ranked if tried[i].channel_order is order)
            for order in dict.fromkeys(tried[i].channel_order for i in ranked)]  # fmt: skip


def _fitted(
    feed: Feed,
    found: Mapping[str, FloatArray],
    scene: _Scene,
    chosen: Sequence[Reading],
    says: Feed | None,
    first: FirstConvolution | None,
) -> tuple[Feed, Fit]:
    """Mean and scale, in the network's channel order, under which the reference follows the file fed so."""
    contract = scene.detector.contract

    def predict(parameters: NDArray[np.float64]) -> dict[str, FloatArray]:
        mean, scale = _settings(parameters, contract.scale)
        return outputs.picked(chosen, scene.predict(contract.channel_order, mean, scale))

    solved = fit(predict, found, [np.array([*mean, 0.0]) for mean in feeds.means(contract)])
    agreement_db = _agreement(predict(solved.parameters), found)
    return feed, effective.as_fit(solved, feed, contract, says, first, agreement_db)


def _settings(parameters: NDArray[np.float64], scale: Triple) -> tuple[Triple, Triple]:
    a, b, c, log_scale = map(float, parameters)
    factor = float(np.exp(log_scale))
    return (a, b, c), (scale[0] * factor, scale[1] * factor, scale[2] * factor)
