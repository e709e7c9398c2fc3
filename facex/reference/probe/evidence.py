"""What a probe read for each field of a contract, how sure that is, and the contracts that were weighed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from facex.types import Contract, ContractOptions, Settled, SettledBy

MIN_PHOTOGRAPHS = 2
"""Fewer say more about themselves than about the network."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Values of some fields of a contract, and how far the evidence speaks against them.

    Attributes:
        values: field of the contract -> value.
        cost: distance from the reading that fits best, in units of the margin that a decision needs; 0 is the best.
        signals: name of a signal -> its figure for these values.
    """

    values: Mapping[str, Any]
    cost: float
    signals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the evidence says of one field.

    Attributes:
        field: of the contract.
        value: that fits best; None where nothing speaks for any.
        margin: by how much, in units of the margin that a decision needs; from 1 on it is decided.
        text: the evidence in a few words.
    """

    field: str
    value: Any
    margin: float
    text: str

    @property
    def decided(self) -> bool:
        """Whether the evidence is enough."""
        return self.value is not None and self.margin >= 1.0

    @property
    def confidence(self) -> float:
        """0 without evidence, 0.5 where the margin is just enough, towards 1 as it grows: margin / (1 + margin)."""
        return confidence_of(self.margin) if self.value is not None else 0.0


def confidence_of(margin: float) -> float:
    """Margin, in units of the one that a decision needs, as 0-1; a scale and not a probability."""
    if math.isinf(margin):
        return 1.0
    # two digits: the last ones of the signals differ between processors and thread counts
    return round(max(0.0, margin) / (1.0 + max(0.0, margin)), 2)


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A field that the user states and the evidence contradicts.

    Attributes:
        field: of the contract.
        stated: by the user; this is what is used.
        probed: what the evidence says.
        confidence: see `Judgement.confidence`.
        evidence: in a few words.
    """

    field: str
    stated: Any
    probed: Any
    confidence: float
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A contract that was weighed.

    Attributes:
        contract: the whole of it.
        cost: of its fields together, see `Reading`; from 1 on the evidence is clearly against it.
        differs: fields in which it is not the contract that fits best.
        signals: see `Reading`; for the best one, those of all its fields.
    """

    contract: Contract
    cost: float
    differs: tuple[str, ...]
    signals: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Identification:
    """What is known of a checkpoint's contract, and how.

    Attributes:
        checkpoint: its file name.
        sha256: of its bytes.
        photographs: how many were run.
        detections: priors that score above 0.5 in them under the contract that fits best; None without photographs.
        contract: stated fields, then what the evidence decides, then what is assumed.
        confidence: the least of those of the fields that the probe settled or left open; 1 where there are none.
        settled: a field at a time, how it came about.
        undecided: fields that nobody stated, nothing proves and the evidence does not decide.
        disagreements: stated fields that the evidence contradicts.
        candidates: best first.
    """

    checkpoint: str
    sha256: str
    photographs: int
    detections: int | None
    contract: Contract
    confidence: float
    settled: tuple[Settled, ...]
    undecided: tuple[str, ...]
    disagreements: tuple[Disagreement, ...]
    candidates: tuple[Candidate, ...]

    @property
    def probed(self) -> dict[str, Any]:
        """The fields that the evidence alone decides, with their values."""
        return {s.field: getattr(self.contract, s.field) for s in self.settled if s.how is SettledBy.PROBED}

    def completed(self, stated: ContractOptions) -> ContractOptions:
        """What the user states, with what the evidence decides of the rest."""
        found = self.probed
        if "activation_slope" in found:  # alone it would speak of every activation
            found.setdefault("pyramid_slope", self.contract.pyramid_slope)
        return dataclasses.replace(stated, **found)
