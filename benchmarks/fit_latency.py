"""Fit what work costs on each phone to its published latencies, and write facex/device_bench/phone_costs.json.

    python benchmarks/fit_latency.py

The model: a phone does one operator after another, so the latency of a network is the sum of what its work costs
(multiply-accumulates by kind, elements of activations read and written, operators). All costs are positive. Fitted is
the logarithm of the latency, robustly, with a weak pull towards equal shares, so that few figures cannot make a cost
absurd; a family counts as the root of its size. Of three choices of terms the one that best tells families that
it was fitted without is taken, as long as there are networks enough to bear it. No figure of a RetinaFace is fitted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from facex.device_bench import _phones
from facex.device_bench._phones import COSTS_PATH, FLOAT, INT8, Costs, Figure

KINDS = "million multiply-accumulates of "
CHOICES = (
    ("million multiply-accumulates", "million elements"),
    ("million multiply-accumulates", "million elements", "operator"),
    (f"{KINDS}convolutions", f"{KINDS}1x1 convolutions", f"{KINDS}depthwise convolutions", "million elements"),
)
ONLY_MACS = (("inference", "million multiply-accumulates"),)
"""Where nothing but multiply-accumulates is published of the networks."""

NETWORKS_PER_TERM = 6
"""Fewer networks do not bear more than the two terms of the first choice."""

PULL = 0.1
"""Weight of the pull towards equal shares, against residuals in natural logarithms."""

OUTLIER = 0.2
"""Residual from which on an error counts less than its square."""


def fit(figures: Sequence[Figure], terms: Sequence[str]) -> dict[str, float]:
    """Term -> milliseconds for one of it."""
    from scipy.optimize import least_squares

    amounts = np.array([[_phones.amount(f.network.work, term) for term in terms] for f in figures])
    latencies_ms = np.array([f.ms for f in figures])
    _, family, sizes = np.unique([f.network.family for f in figures], return_inverse=True, return_counts=True)
    weights = sizes[family] ** -0.25
    equal = np.log(np.median(latencies_ms[:, None] / np.maximum(amounts, 1e-6), axis=0) / len(terms))

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        errors = np.log(amounts @ np.exp(logarithms) / latencies_ms)
        return np.concatenate([weights * errors, PULL * (logarithms - equal)])

    solved = least_squares(residuals, equal, loss="soft_l1", f_scale=OUTLIER)
    return dict(zip(terms, map(float, np.exp(solved.x)), strict=True))


def held_out(figures: Sequence[Figure], terms: Sequence[str]) -> dict[str, float]:
    """Network -> estimate over figure, fitted without its family."""
    found = {}
    for family in sorted({f.network.family for f in figures}):
        ms = fit([f for f in figures if f.network.family != family], terms)
        for figure in figures:
            if figure.network.family == family:
                estimate = sum(cost * _phones.amount(figure.network.work, term) for term, cost in ms.items())
                found[figure.network.name] = estimate / figure.ms
    return found


def quality(ratios: Sequence[float]) -> tuple[float, float]:
    """Median relative error, and the factor that 90 % are within."""
    factors = np.exp(np.abs(np.log(np.asarray(ratios))))
    return float(np.median(np.abs(np.asarray(ratios) - 1))), float(np.quantile(factors, 0.9))


def chosen(figures: Sequence[Figure]) -> tuple[str, ...]:
    """The terms that tell held-out families best."""
    known = figures[0].network.work.melements is not None
    borne = [terms for terms in CHOICES if len(terms) <= max(2, len(figures) // NETWORKS_PER_TERM)]
    choices = borne if known else ONLY_MACS
    return min(choices, key=lambda terms: quality(list(held_out(figures, terms).values()))[1])


def costs(device: str, arithmetic: str, figures: Sequence[Figure]) -> Costs:
    """The costs of one phone, and how well they tell families that they were fitted without."""
    terms = chosen(figures)
    median_error, factor_90 = quality(list(held_out(figures, terms).values()))
    return Costs(
        device=device,
        arithmetic=arithmetic,
        ms={term: float(f"{ms:.4g}") for term, ms in fit(figures, terms).items()},
        networks=len(figures),
        families=len({f.network.family for f in figures}),
        median_error=round(median_error, 3),
        factor_90=round(factor_90, 3),
    )


def main() -> None:
    """Fit all, print a table and write the file."""
    found = []
    for name in _phones.names():
        phone = _phones.load(name)
        for arithmetic in (FLOAT, INT8):
            figures = phone.of(arithmetic)
            if len({f.network.family for f in figures}) < 2:
                continue
            found.append(costs(name, arithmetic, figures))
            f = found[-1]
            error = f"{f.median_error:6.1%}, 90 % within x{f.factor_90:.2f}"
            print(f"{name:20} {arithmetic:6} {f.networks:3} networks, {f.families:2} families: {error}  {f.ms}")
    lines = ",\n".join(f"    {json.dumps(asdict(f))}" for f in found)
    COSTS_PATH.write_text(f'{{\n  "schema_version": 1,\n  "costs": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
