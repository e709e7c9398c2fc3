"""Try the contract probe: is it right on any photographs, and does it find every wrong contract that is stated?

    python benchmarks/probe.py --weights DIR --photographs DIR --truth truth.json [--subsets 10] [--count 24]

`truth.json` maps the file name of each checkpoint in DIR to its contract, in the words of the command line; what is
left out is what its family usually has:

    {"model.pth": {"activation": "relu", "anchors": "10,20;32,64;128,256"}, "other.pth": {"channel_order": "rgb"}}

The first table has a row for every checkpoint and random subset of the photographs: *right* when every field is decided
and right, *undecided* when some are left open and the others right, *wrong* otherwise. With a folder of photographs
without faces nothing may be wrong. The second states one wrong field at a time: which fields the probe contradicts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from facex.recipe import parse_activation, parse_anchors, parse_numbers
from facex.reference import checkpoint, detector, photographs, probe
from facex.reference.photographs import Photograph
from facex.types import ChannelOrder, Contract, ContractOptions, SettledBy

PARSERS = {
    "activation": ("activation_slope", parse_activation),
    "pyramid_activation": ("pyramid_slope", parse_activation),
    "anchors": ("min_sizes", parse_anchors),
    "variances": ("variances", lambda text: parse_numbers(text, "variances", 2)),
    "channel_order": ("channel_order", ChannelOrder),
    "mean": ("mean", lambda text: parse_numbers(text, "mean", 3)),
    "scale": ("scale", lambda text: parse_numbers(text, "scale", 3)),
}


def stated(words: Mapping[str, str]) -> ContractOptions:
    """The entry of a checkpoint in `truth.json`."""
    return ContractOptions(**{PARSERS[name][0]: PARSERS[name][1](text) for name, text in words.items()})


def verdict(found: probe.Identification, truth: Contract) -> str:
    """See the module's docstring."""
    wrong = [
        s.field for s in found.settled
        if s.how is SettledBy.PROBED and getattr(found.contract, s.field) != getattr(truth, s.field)
    ]  # fmt: skip
    if wrong:
        return f"wrong: {', '.join(wrong)}"
    return f"undecided: {', '.join(found.undecided)}" if found.undecided else "right"


def wrong_fields(truth: Contract, proved: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Contracts with one wrong field, as a user might state them."""
    for name in ("activation_slope", "pyramid_slope"):
        right = getattr(truth, name)
        if right is not None and name not in proved:
            yield from ({name: slope} for slope in (0.0, 0.1, 0.2) if slope != right)
    for factor in (0.5, 0.7, 1.4, 2.0):
        yield {"min_sizes": tuple(tuple(factor * size for size in level) for level in truth.min_sizes)}
    yield from ({"variances": v} for v in ((0.1, 0.1), (0.2, 0.2), (0.2, 0.1)) if v != truth.variances)
    other = ChannelOrder.RGB if truth.channel_order is ChannelOrder.BGR else ChannelOrder.BGR
    yield {"channel_order": other}
    yield {"channel_order": other, "mean": truth.mean[::-1]}
    yield from ({"mean": mean} for mean in ((0.0,) * 3, truth.mean[::-1], (127.5,) * 3) if mean != truth.mean)
    yield from ({"scale": (scale,) * 3} for scale in (1 / 255, 1 / 127.5, 1 / 57.5))


def matrix(path: Path, truth: Contract, proved: tuple[str, ...], chosen: list[Photograph]) -> Iterator[str]:
    """A line for every wrong contract: what was stated, and what the probe contradicts."""
    for wrong in wrong_fields(truth, proved):
        options = dataclasses.replace(ContractOptions(), **wrong)
        if "activation_slope" in wrong and truth.pyramid_slope is not None:
            options = dataclasses.replace(options, pyramid_slope=truth.pyramid_slope)
        found = probe.identify(path, options, chosen)
        contradicted = {d.field: d for d in found.disagreements}
        hits = [f"{d.field} {d.confidence:.2f}" for d in found.disagreements]
        word = "found" if set(contradicted) & set(wrong) else "MISSED"
        yield f"{path.stem:28} {word:6} {_said(wrong):62} {', '.join(hits)}"


def _said(wrong: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {value if isinstance(value, float) else str(value)[:44]}" for name, value in wrong.items()
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--subsets", type=int, default=10)
    parser.add_argument("--count", type=int, default=24, help="photographs in a subset")
    parser.add_argument("--skip-sabotage", action="store_true")
    options = parser.parse_args()
    truths = json.loads(options.truth.read_text(encoding="utf-8"))
    found = photographs.find(options.photographs, option="--photographs")
    known = {}
    for name, words in truths.items():
        path = options.weights / name
        structure = checkpoint.recognise(path, checkpoint.read(path))
        truth = detector.settle(structure, stated(words))[0]
        known[path] = truth, tuple(structure.proved)
        for seed in range(options.subsets):
            random.seed(seed)
            subset = random.sample(found, min(options.count, len(found)))
            started = time.perf_counter()
            result = probe.identify(path, ContractOptions(), subset)
            seconds = time.perf_counter() - started
            print(
                f"{path.stem:28} subset {seed:2}  {seconds:5.1f} s  {result.confidence:.2f}  {verdict(result, truth)}",
                flush=True,
            )
    if not options.skip_sabotage:
        chosen = probe.chosen(found, options.count)
        for path, (truth, proved) in known.items():
            for line in matrix(path, truth, proved, chosen):
                print(line, flush=True)


if __name__ == "__main__":
    main()
