"""Networks whose latency on phones is published: what this host takes for them is set beside what the phone took.

Each is drawn from the tables of its paper, after batch norm was folded into the convolutions, and named as in
`phones.json`: architecture, width and side of the image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from facex.device_bench._tflite_builder import Architecture, Builder, written

CLASSES = 1000


def names() -> list[str]:
    """Networks that can be built."""
    return list(_ARCHITECTURES)


def build(name: str, *, int8: bool) -> bytes:
    """The TFLite file of a network, with random weights."""
    return written(_ARCHITECTURES[name], int8=int8)


def _rounded(channels: float, minimum: int = 8) -> int:
    """The nearest multiple of 8 that is not more than a tenth below (MobileNetV2's reference code)."""
    nearest = max(minimum, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _classified(g: Builder, x: int) -> int:
    return g.dense(g.global_pool(x), CLASSES)


def mobilenet_v1(g: Builder, width: float, side: int) -> int:
    """Howard et al. 2017 (arXiv 1704.04861), table 1."""
    x = g.conv(g.image(side), int(32 * width), 3, 2)
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for channels, stride in blocks:
        x = g.conv(g.depthwise(x, 3, stride), int(channels * width))
    return _classified(g, x)


def _inverted(g: Builder, x: int, channels: int, kernel: int, stride: int, expansion: int) -> int:
    """An inverted residual (Sandler et al. 2018)."""
    before = g.shape(x)[3]
    y = g.conv(x, before * expansion) if expansion > 1 else x
    y = g.conv(g.depthwise(y, kernel, stride), channels, activation="NONE")
    return g.add(x, y) if stride == 1 and before == channels else y


def _stages(g: Builder, x: int, stages: Sequence[tuple[int, int, int, int, int]]) -> int:
    """Stages of inverted residuals: expansion, channels, repeats, stride of the first, kernel."""
    for expansion, channels, repeats, stride, kernel in stages:
        for i in range(repeats):
            x = _inverted(g, x, channels, kernel, 1 if i else stride, expansion)
    return x


def mobilenet_v2(g: Builder, width: float, side: int) -> int:
    """Sandler et al. 2018 (arXiv 1801.04381), table 2."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    x = g.conv(g.image(side), _rounded(32 * width), 3, 2)
    x = _stages(g, x, [(e, _rounded(c * width), n, s, 3) for e, c, n, s in rows])
    return _classified(g, g.conv(x, _rounded(1280 * max(1.0, width))))


def mnasnet(g: Builder, width: float, side: int) -> int:
    """Tan et al. 2019 (arXiv 1807.11626), B1: without squeeze-and-excitation."""
    rows = [
        (3, 24, 3, 2, 3),
        (3, 40, 3, 2, 5),
        (6, 80, 3, 2, 5),
        (6, 96, 2, 1, 3),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    x = g.conv(g.image(side), _rounded(32 * width), 3, 2)
    x = g.conv(g.depthwise(x, 3), _rounded(16 * width), activation="NONE")
    x = _stages(g, x, [(e, _rounded(c * width), n, s, k) for e, c, n, s, k in rows])
    return _classified(g, g.conv(x, 1280))


def efficientnet_lite(g: Builder, width: float, depth: float, side: int) -> int:
    """Tan and Le 2019 (arXiv 1905.11946), without squeeze-and-excitation, stem and head of one width for all."""
    rows = [
        *[(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5)],
        *[(6, 192, 4, 2, 5), (6, 320, 1, 1, 3)],
    ]
    ends = (0, len(rows) - 1)
    x = g.conv(g.image(side), 32, 3, 2)
    stages = [
        (e, _rounded(c * width), n if i in ends else int(-(-n * depth // 1)), s, k)
        for i, (e, c, n, s, k) in enumerate(rows)
    ]
    return _classified(g, g.conv(_stages(g, x, stages), 1280))


def squeezenet(g: Builder, side: int) -> int:
    """Iandola et al. 2016 (arXiv 1602.07360), table 1."""

    def fire(x: int, squeezed: int, expanded: int) -> int:
        x = g.conv(x, squeezed, activation="RELU")
        return g.concat([g.conv(x, expanded, activation="RELU"), g.conv(x, expanded, 3, activation="RELU")])

    x = g.max_pool(g.conv(g.image(side), 96, 7, 2, activation="RELU", same=False), 3, 2)
    for squeezed, expanded in ((16, 64), (16, 64), (32, 128)):
        x = fire(x, squeezed, expanded)
    x = g.max_pool(x, 3, 2, same=True)
    for squeezed, expanded in ((32, 128), (48, 192), (48, 192), (64, 256)):
        x = fire(x, squeezed, expanded)
    x = fire(g.max_pool(x, 3, 2), 64, 256)
    return g.global_pool(g.conv(x, CLASSES, activation="RELU"))


_LITE = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300))
"""Width, depth and side of EfficientNet-Lite 0 to 4."""

_V2 = [("1.4", 224), ("1.3", 224)] + [(w, s) for w in ("1.0", "0.75", "0.5", "0.35") for s in (224, 192, 160, 128, 96)]
_MNASNET = [("0.50", 224), ("0.75", 224), *[("1.0", s) for s in (96, 128, 160, 192, 224)]]

_ARCHITECTURES: dict[str, Architecture] = {
    **{
        f"mobilenet_v1_{w}_{s}": functools.partial(mobilenet_v1, width=float(w), side=s)
        for w in ("0.25", "0.5", "0.75", "1.0")
        for s in (128, 160, 192, 224)
    },
    **{f"mobilenet_v2_{w}_{s}": functools.partial(mobilenet_v2, width=float(w), side=s) for w, s in _V2},
    **{f"mnasnet_{w}_{s}": functools.partial(mnasnet, width=float(w), side=s) for w, s in _MNASNET},
    **{
        f"efficientnet_lite{i}": functools.partial(efficientnet_lite, width=w, depth=d, side=s)
        for i, (w, d, s) in enumerate(_LITE)
    },
    "squeezenet_1.0_224": functools.partial(squeezenet, side=224),
}
