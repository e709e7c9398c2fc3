"""Published latencies of known networks on phones (`phones.json`), and the costs fitted to them (`phone_costs.json`).

Both are small tables of our own; every row of the first has the address it was read from. `benchmarks/fit_latency.py`
writes the second.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facex.device_bench._work import Work

FIGURES_PATH = Path(__file__).with_name("phones.json")
COSTS_PATH = Path(__file__).with_name("phone_costs.json")

INT8 = "int8"
FLOAT = "float"

_AMOUNTS: dict[str, Callable[[Work], float | None]] = {
    "inference": lambda work: 1.0,
    "operator": lambda work: work.operators,
    "million elements": lambda work: work.melements,
    "million multiply-accumulates": lambda work: work.mmacs,
    "million multiply-accumulates of convolutions": lambda work: work.conv_mmacs,
    "million multiply-accumulates of 1x1 convolutions": lambda work: work.pointwise_mmacs,
    "million multiply-accumulates of depthwise convolutions": lambda work: work.depthwise_mmacs,
}
TERMS = tuple(_AMOUNTS)
"""What can have a cost."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A published network.

    Attributes:
        family: networks of one kind, which are held out together.
        source: address of what its work was counted from.
    """

    name: str
    family: str
    work: Work
    source: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published latency.

    Attributes:
        precision: what the phone computed in: fp32, fp16 or int8.
        years: when it was taken, as far as its page tells.
        source: address of that page.
    """

    network: Network
    precision: str
    ms: float
    years: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Phone:
    """A device of the table; all its figures have these in common.

    Attributes:
        name: the word a user types.
        unit: what computes: CPU, GPU, NPU or Neural Engine.
        threads: of the CPU; None elsewhere.
    """

    name: str
    title: str
    unit: str
    threads: int | None
    runtime: str
    figures: tuple[Figure, ...]

    def of(self, arithmetic: str) -> tuple[Figure, ...]:
        """The figures on integers, or those on floats."""
        return tuple(f for f in self.figures if (f.precision == INT8) == (arithmetic == INT8))


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the work of a network costs on a phone.

    Attributes:
        arithmetic: `float` or `int8`.
        ms: term of `TERMS` -> milliseconds for one of it.
        networks: how many were fitted.
        families: of how many kinds they are.
        median_error: of the families, each fitted without itself; 0.1 is 10 %.
        factor_90: 90 % of the networks of such families are within this factor.
    """

    device: str
    arithmetic: str
    ms: Mapping[str, float]
    networks: int
    families: int
    median_error: float
    factor_90: float

    def latency_ms(self, work: Work) -> float:
        """Milliseconds for one inference: the sum of what its work costs.

        Raises:
            ValueError: the work of a term is not known.
        """
        return sum(cost * amount(work, term) for term, cost in self.ms.items())


def amount(work: Work, term: str) -> float:
    """How much of a term there is in one inference.

    Raises:
        ValueError: it is not known.
    """
    value = _AMOUNTS[term](work)
    if value is None:
        raise ValueError(f"the number of {term}s is not known")
    return value


@functools.cache
def _table() -> Any:
    return json.loads(FIGURES_PATH.read_text(encoding="utf-8"))


def names() -> list[str]:
    """Words for the phones, in the order of the table."""
    return [device["name"] for device in _table()["devices"]]


def load(name: str) -> Phone:
    """A phone with its figures.

    Raises:
        KeyError: it is not in the table.
    """
    titles = {device["name"]: device["title"] for device in _table()["devices"]}
    title = titles[name]
    networks = {plain["name"]: _network(plain) for plain in _table()["networks"]}
    rows = [row for row in _table()["figures"] if row["device"] == name]
    keys = ("precision", "ms", "years", "source")
    figures = [Figure(network=networks[row["network"]], **{key: row[key] for key in keys}) for row in rows]
    common = {key: rows[0][key] for key in ("unit", "threads", "runtime")}
    return Phone(name=name, title=title, figures=tuple(figures), **common)


def _network(plain: Mapping[str, Any]) -> Network:
    work = {key: value for key, value in plain.items() if key not in ("name", "family", "source")}
    return Network(name=plain["name"], family=plain["family"], work=Work(**work), source=plain["source"])


@functools.cache
def _costs() -> dict[tuple[str, str], Costs]:
    found = [Costs(**plain) for plain in json.loads(COSTS_PATH.read_text(encoding="utf-8"))["costs"]]
    return {(costs.device, costs.arithmetic): costs for costs in found}


def costs(name: str, arithmetic: str) -> Costs | None:
    """What was fitted to the figures of a phone; None where too few are published."""
    return _costs().get((name, arithmetic))


def years(figures: Iterable[Figure]) -> str:
    """When figures were taken, e.g. `2019-2020, 2020`."""
    return ", ".join(sorted({figure.years for figure in figures}))
