"""Large networks of the published tables, drawn like those of `facex.device_bench._anchors`.

They take too long to be timed beside every artifact; `latency_validation.py` holds them out.
"""

from __future__ import annotations

from collections.abc import Callable

from facex.device_bench._tflite_builder import Builder

Conv = Callable[..., int]


def _relu(g: Builder) -> Conv:
    def conv(x: int, channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1, *, same: bool = True) -> int:
        return g.conv(x, channels, kernel, stride, activation="RELU", same=same)

    return conv


def _classified(g: Builder, x: int) -> int:
    return g.dense(g.global_pool(x), 1000)


def inception_v1(g: Builder) -> int:
    """Szegedy et al. 2014 (arXiv 1409.4842), table 1; 3x3 in the place of 5x5 as in the published checkpoints."""
    conv = _relu(g)

    def block(x: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> int:
        parts = [conv(x, a), conv(conv(x, b[0]), b[1], 3), conv(conv(x, c[0]), c[1], 3)]
        return g.concat([*parts, conv(g.max_pool(x, 3, 1, same=True), d)])

    x = g.max_pool(conv(g.image(224), 64, 7, 2), 3, 2, same=True)
    x = g.max_pool(conv(conv(x, 64), 192, 3), 3, 2, same=True)
    x = block(block(x, 64, (96, 128), (16, 32), 32), 128, (128, 192), (32, 96), 64)
    x = g.max_pool(x, 3, 2, same=True)
    x = block(block(x, 192, (96, 208), (16, 48), 64), 160, (112, 224), (24, 64), 64)
    x = block(block(x, 128, (128, 256), (24, 64), 64), 112, (144, 288), (32, 64), 64)
    x = g.max_pool(block(x, 256, (160, 320), (32, 128), 128), 2, 2, same=True)
    x = block(block(x, 256, (160, 320), (32, 128), 128), 384, (192, 384), (48, 128), 128)
    return _classified(g, x)


def inception_v3(g: Builder) -> int:
    """Szegedy et al. 2015 (arXiv 1512.00567), table 1 and figures 5 to 7."""
    conv = _relu(g)
    x = conv(conv(g.image(299), 32, 3, 2, same=False), 32, 3, same=False)
    x = g.max_pool(conv(x, 64, 3), 3, 2)
    x = g.max_pool(conv(conv(x, 80), 192, 3, same=False), 3, 2)
    for pooled in (32, 64, 64):
        parts = [conv(x, 64), conv(conv(x, 48), 64, 5), conv(conv(conv(x, 64), 96, 3), 96, 3)]
        x = g.concat([*parts, conv(g.average_pool(x, 3), pooled)])
    three = conv(conv(conv(x, 64), 96, 3), 96, 3, 2, same=False)
    x = g.concat([conv(x, 384, 3, 2, same=False), three, g.max_pool(x, 3, 2)])
    for width in (128, 160, 160, 192):
        y = conv(conv(conv(x, width), width, (1, 7)), 192, (7, 1))
        z = conv(conv(conv(x, width), width, (7, 1)), width, (1, 7))
        z = conv(conv(z, width, (7, 1)), 192, (1, 7))
        x = g.concat([conv(x, 192), y, z, conv(g.average_pool(x, 3), 192)])
    y = conv(conv(x, 192), 320, 3, 2, same=False)
    z = conv(conv(conv(conv(x, 192), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, same=False)
    x = g.concat([y, z, g.max_pool(x, 3, 2)])
    for _ in range(2):
        y = conv(x, 384)
        z = conv(conv(x, 448), 384, 3)
        split = [conv(y, 384, (1, 3)), conv(y, 384, (3, 1)), conv(z, 384, (1, 3)), conv(z, 384, (3, 1))]
        x = g.concat([conv(x, 320), *split, conv(g.average_pool(x, 3), 192)])
    return _classified(g, x)


def inception_v4(g: Builder) -> int:
    """Szegedy et al. 2016 (arXiv 1602.07261), figures 3 to 9."""
    conv = _relu(g)
    x = conv(conv(conv(g.image(299), 32, 3, 2, same=False), 32, 3, same=False), 64, 3)
    x = g.concat([g.max_pool(x, 3, 2), conv(x, 96, 3, 2, same=False)])
    y = conv(conv(conv(x, 64), 64, (1, 7)), 64, (7, 1))
    x = g.concat([conv(conv(x, 64), 96, 3, same=False), conv(y, 96, 3, same=False)])
    x = g.concat([conv(x, 192, 3, 2, same=False), g.max_pool(x, 3, 2)])
    for _ in range(4):
        parts = [conv(x, 96), conv(conv(x, 64), 96, 3), conv(conv(conv(x, 64), 96, 3), 96, 3)]
        x = g.concat([*parts, conv(g.average_pool(x, 3), 96)])
    three = conv(conv(conv(x, 192), 224, 3), 256, 3, 2, same=False)
    x = g.concat([conv(x, 384, 3, 2, same=False), three, g.max_pool(x, 3, 2)])
    for _ in range(7):
        y = conv(conv(conv(x, 192), 224, (1, 7)), 256, (7, 1))
        z = conv(conv(conv(x, 192), 192, (7, 1)), 224, (1, 7))
        z = conv(conv(z, 224, (7, 1)), 256, (1, 7))
        x = g.concat([conv(x, 384), y, z, conv(g.average_pool(x, 3), 128)])
    y = conv(conv(x, 192), 192, 3, 2, same=False)
    z = conv(conv(conv(conv(x, 256), 256, (1, 7)), 320, (7, 1)), 320, 3, 2, same=False)
    x = g.concat([y, z, g.max_pool(x, 3, 2)])
    for _ in range(3):
        y = conv(x, 384)
        z = conv(conv(conv(x, 384), 448, (3, 1)), 512, (1, 3))
        split = [conv(y, 256, (1, 3)), conv(y, 256, (3, 1)), conv(z, 256, (1, 3)), conv(z, 256, (3, 1))]
        x = g.concat([conv(x, 256), *split, conv(g.average_pool(x, 3), 256)])
    return _classified(g, x)


def inception_resnet_v2(g: Builder) -> int:
    """Szegedy et al. 2016 (arXiv 1602.07261), figures 15 to 19, with the stem of Inception v3 as in the checkpoints."""
    conv = _relu(g)

    def residual(x: int, parts: list[int]) -> int:
        return g.add(x, g.conv(g.concat(parts), g.shape(x)[3], activation="NONE"), activation="RELU")

    x = conv(conv(g.image(299), 32, 3, 2, same=False), 32, 3, same=False)
    x = g.max_pool(conv(x, 64, 3), 3, 2)
    x = g.max_pool(conv(conv(x, 80), 192, 3, same=False), 3, 2)
    parts = [conv(x, 96), conv(conv(x, 48), 64, 5), conv(conv(conv(x, 64), 96, 3), 96, 3)]
    x = g.concat([*parts, conv(g.average_pool(x, 3), 64)])
    for _ in range(10):
        x = residual(x, [conv(x, 32), conv(conv(x, 32), 32, 3), conv(conv(conv(x, 32), 48, 3), 64, 3)])
    three = conv(conv(conv(x, 256), 256, 3), 384, 3, 2, same=False)
    x = g.concat([conv(x, 384, 3, 2, same=False), three, g.max_pool(x, 3, 2)])
    for _ in range(20):
        x = residual(x, [conv(x, 192), conv(conv(conv(x, 128), 160, (1, 7)), 192, (7, 1))])
    y = conv(conv(conv(x, 256), 288, 3), 320, 3, 2, same=False)
    halves = [conv(conv(x, 256), 384, 3, 2, same=False), conv(conv(x, 256), 288, 3, 2, same=False)]
    x = g.concat([*halves, y, g.max_pool(x, 3, 2)])
    for _ in range(10):
        x = residual(x, [conv(x, 192), conv(conv(conv(x, 192), 224, (1, 3)), 256, (3, 1))])
    return _classified(g, conv(x, 1536))


def resnet_v2_101(g: Builder) -> int:
    """He et al. 2016 (arXiv 1603.05027), 101 layers; activations before convolutions."""
    conv = _relu(g)
    x = g.max_pool(g.conv(g.image(299), 64, 7, 2, activation="NONE"), 3, 2, same=True)
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 23, 2), (512, 3, 2)):
        for i in range(blocks):
            step = stride if i == 0 else 1
            y = g.relu(x)
            shortcut = g.conv(y, 4 * width, 1, step, activation="NONE") if i == 0 else x
            y = g.conv(conv(conv(y, width), width, 3, step), 4 * width, activation="NONE")
            x = g.add(shortcut, y)
    return _classified(g, g.relu(x))


def nasnet_large(g: Builder) -> int:
    """Zoph et al. 2017 (arXiv 1707.07012), NASNet-A (6 @ 4032), figure 4."""

    def separable(x: int, channels: int, kernel: int, stride: int = 1) -> int:
        for step in (stride, 1):
            x = g.conv(g.depthwise(g.relu(x), kernel, step, activation="NONE"), channels, activation="NONE")
        return x

    def fitted(x: int, channels: int) -> int:
        return g.conv(g.relu(x), channels, activation="NONE")

    def adjusted(previous: int, x: int, channels: int) -> int:
        """The cell before, at the size and width of this one."""
        if g.shape(previous)[1] == g.shape(x)[1]:
            return fitted(previous, channels)
        p = g.relu(previous)
        halves = [g.conv(g.average_pool(p, 1, 2), channels // 2, activation="NONE") for _ in range(2)]
        return g.concat(halves)

    def reduction(x: int, previous: int, channels: int) -> int:
        p, h = adjusted(previous, x, channels), fitted(x, channels)
        first = g.add(separable(h, channels, 5, 2), separable(p, channels, 7, 2))
        second = g.add(g.max_pool(h, 3, 2, same=True), separable(p, channels, 7, 2))
        third = g.add(g.average_pool(h, 3, 2), separable(p, channels, 5, 2))
        fourth = g.add(g.average_pool(first, 3), second)
        fifth = g.add(separable(first, channels, 3), g.max_pool(h, 3, 2, same=True))
        return g.concat([second, third, fourth, fifth])

    def normal(x: int, previous: int, channels: int) -> int:
        p, h = adjusted(previous, x, channels), fitted(x, channels)
        first = g.add(separable(h, channels, 5), separable(p, channels, 3))
        second = g.add(separable(p, channels, 5), separable(p, channels, 3))
        third = g.add(g.average_pool(h, 3), p)
        fourth = g.add(g.average_pool(p, 3), g.average_pool(p, 3))
        fifth = g.add(separable(h, channels, 3), h)
        return g.concat([p, first, second, third, fourth, fifth])

    filters = 168
    x = previous = g.conv(g.image(331), 96, 3, 2, activation="NONE", same=False)
    x, previous = reduction(x, x, filters // 4), x
    x, previous = reduction(x, previous, filters // 2), x
    for i in range(3):
        if i:
            x, previous = reduction(x, previous, filters * 2**i), x
        for _ in range(6):
            x, previous = normal(x, previous, filters * 2**i), x
    return _classified(g, g.relu(x))


def retinaface(g: Builder, height: int = 480, width: int = 640) -> int:
    """Deng et al. 2019 (arXiv 1905.00641), MobileNetV1 of a quarter width, its heads as the network gives them.

    Never fitted to: what phones took for it is what estimates are held against.
    """

    def conv(x: int, channels: int, kernel: int = 1, stride: int = 1, activation: str = "RELU") -> int:
        return g.conv(x, channels, kernel, stride, activation=activation)

    def context(x: int) -> int:
        middle = conv(x, 16, 3)
        parts = [conv(x, 32, 3, activation="NONE"), conv(middle, 16, 3, activation="NONE")]
        return g.relu(g.concat([*parts, conv(conv(middle, 16, 3), 16, 3, activation="NONE")]))

    x = conv(g.image(height, width), 8, 3, 2)
    levels = []
    for channels, stride in [
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    ]:
        if stride == 2 and channels >= 128:
            levels.append(x)
        x = conv(g.depthwise(x, 3, stride, activation="RELU"), channels)
    top, middle, fine = (conv(level, 64) for level in (x, levels[1], levels[0]))
    middle = conv(g.add(middle, g.enlarged(top)), 64, 3)
    fine = conv(g.add(fine, g.enlarged(middle)), 64, 3)
    heads = []
    for level in map(context, (fine, middle, top)):
        heads += [conv(level, channels, activation="NONE") for channels in (4, 8, 20)]
    return heads[-1]


ARCHITECTURES = {
    "inception_v1_224": inception_v1,
    "inception_v3_299": inception_v3,
    "inception_v4_299": inception_v4,
    "inception_resnet_v2_299": inception_resnet_v2,
    "resnet_v2_101_299": resnet_v2_101,
    "nasnet_large_331": nasnet_large,
}
