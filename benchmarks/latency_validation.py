"""How far estimates of phone latency are from published figures that they did not see.

    python benchmarks/latency_validation.py [--without-large] [--max-seconds 60]

Every network is told by networks of other families alone: by the host ratio, measured in this run on this machine, by
the fitted costs, and by both joined as `facex bench --device` joins them. Printed are the published figure and the
estimates over it. Last comes what was published of a RetinaFace, which was never fitted.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fit_latency import chosen, held_out, quality
from large_networks import ARCHITECTURES, retinaface

from facex.device_bench import _anchors, _host_ratio, _phones, _work, estimate
from facex.device_bench._host_ratio import HostTime
from facex.device_bench._phones import FLOAT, INT8, Figure
from facex.device_bench._tflite_builder import written
from facex.progress import Silent

CONFIGURATIONS = (("pixel-3", FLOAT), ("pixel-3", INT8), ("pixel-4", FLOAT), ("pixel-4", INT8), ("pixel-1", FLOAT))

MAX_SECONDS = 60.0
"""Of timing a configuration; overrun to reach the least number of rounds."""

RETINAFACE_MS = (("snapdragon-835", (480, 640), 130.94, "https://github.com/Charrin/RetinaFace-Cpp/issues/3"),)
"""Device, height and width, published milliseconds in float on one thread, and where."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network: what was published, and the quotients of the estimates and that."""

    network: str
    family: str
    published_ms: float
    host: float | None
    costs: float

    @property
    def joined(self) -> float:
        """The mean of both, as in `estimate.join`."""
        return self.costs if self.host is None else math.sqrt(self.host * self.costs)


def timed(figures: Sequence[Figure], arithmetic: str, *, large: bool, max_seconds: float) -> dict[str, HostTime]:
    """Times of the networks of the figures on this host."""
    files = {}
    for figure in figures:
        name = figure.network.name
        if name in _anchors.names():
            content = _anchors.build(name, int8=arithmetic == INT8)
        elif large and name in ARCHITECTURES:
            content = written(ARCHITECTURES[name], int8=arithmetic == INT8)
        else:
            continue
        files[_host_ratio.label(name, arithmetic)] = content
    return _host_ratio.times(files, Silent(), max_seconds=max_seconds)


def rows(figures: Sequence[Figure], times: Mapping[str, HostTime], arithmetic: str) -> list[Row]:
    """Both methods for every figure, its family held out."""
    ratio = _host_ratio.ratio(figures, times, arithmetic)
    by_host = dict(ratio.errors) if ratio else {}
    by_costs = held_out(figures, chosen(figures))
    return [
        Row(
            network=f.network.name,
            family=f.network.family,
            published_ms=f.ms,
            host=by_host.get(f.network.name),
            costs=by_costs[f.network.name],
        )
        for f in figures
    ]


def summary(found: Sequence[Row]) -> dict[str, tuple[int, float, float]]:
    """Method -> networks, median relative error, and the factor that 90 % are within."""
    columns = {
        "host ratio": [row.host for row in found if row.host is not None],
        "fitted costs": [row.costs for row in found],
        "joined": [row.joined for row in found],
    }
    return {name: (len(values), *quality(values)) for name, values in columns.items() if values}


def retinaface_bands() -> list[tuple[str, float, estimate.Band]]:
    """Device, published milliseconds, and the band of the fitted costs, of a RetinaFace that was never fitted."""
    found = []
    for device, (height, width), published_ms, _ in RETINAFACE_MS:
        phone, costs = _phones.load(device), _phones.costs(device, FLOAT)
        model = written(lambda g, h=height, w=width: retinaface(g, h, w), int8=False)
        work = _work.of_tflite(model, joined=phone.runtime == estimate.NCNN)
        found.append((device, published_ms, estimate.by_costs(costs, phone.unit, work)))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--without-large", action="store_true", help="leave out networks of more than 1 GMAC")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS, help="of timing a configuration")
    parser.add_argument("--device", choices=sorted({d for d, _ in CONFIGURATIONS}), help="this phone alone")
    options = parser.parse_args()
    for device, arithmetic in CONFIGURATIONS:
        if options.device in (None, device):
            figures = _phones.load(device).of(arithmetic)
            large = not options.without_large
            times = timed(figures, arithmetic, large=large, max_seconds=options.max_seconds)
            _print(f"{device}, {arithmetic}", rows(figures, times, arithmetic), times)
    for device, published_ms, band in retinaface_bands():
        inside = "inside" if band.low_ms <= published_ms <= band.high_ms else "OUTSIDE"
        print(f"RetinaFace on {device}: {published_ms} ms is {inside} {band.low_ms:.1f} to {band.high_ms:.1f} ms")


def _print(title: str, found: Sequence[Row], times: Mapping[str, HostTime]) -> None:
    noise = sorted(time.noise for time in times.values())[len(times) // 2]
    print(f"\n{title}; median over minimum on this host x{noise:.2f}")
    print(f"{'network':28} {'published ms':>12} {'host ratio':>11} {'fitted':>7} {'joined':>7}")
    for row in found:
        host = f"{row.host:11.2f}" if row.host is not None else f"{'-':>11}"
        print(f"{row.network:28} {row.published_ms:12g} {host} {row.costs:7.2f} {row.joined:7.2f}")
    for method, (count, median_error, factor_90) in summary(found).items():
        print(f"  {method:13} {count:3} networks: median error {median_error:5.1%}, 90 % within x{factor_90:.2f}")


if __name__ == "__main__":
    main()
