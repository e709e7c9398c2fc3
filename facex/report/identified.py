"""What a probe of a checkpoint found: the table of `identify`, the warnings of `export`, and the JSON of both."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from facex.report.fields import OPTIONS
from facex.report.wording import encodable, plural, printable
from facex.types import SettledBy, as_plain

if TYPE_CHECKING:
    from rich.console import Console

    from facex.reference.probe import Candidate, Identification

SHOWN = 12
"""Candidates in the terminal; --json has all that are kept."""
WARNED = 4
_LONG = re.compile(r"\d+\.\d{5,}")
_STYLES = {SettledBy.PROBED: "green", SettledBy.ASSUMED: "yellow"}


def plain(found: Identification) -> dict[str, Any]:
    """The identification as the plain values that JSON knows."""
    values: dict[str, Any] = as_plain(found)
    return values


def render(found: Identification, console: Console) -> None:
    """Print the contract, how each field came about, and the candidates.

    Args:
        found: of `facex.reference.probe.identify`.
        console: colours and encoding are its own.
    """
    from rich.text import Text

    convert = encodable(console.encoding)

    def line(text: str, style: str = "") -> None:
        console.print(Text(convert(printable(text)), style=style), soft_wrap=True)

    contract = found.contract
    line(f"{found.checkpoint}: {contract.family} {contract.backbone}, sha256 {found.sha256[:12]}", "bold")
    line(f"  {_seen(found)}")
    width = max(len(OPTIONS[s.field][0]) for s in found.settled)
    values = {s.field: "its own" if s.how is SettledBy.PROVED else OPTIONS[s.field][2](contract) for s in found.settled}
    widest = max(map(len, values.values()))
    for s in found.settled:
        sure = "    " if s.confidence is None else f"{s.confidence:.2f}"
        how = "undecided" if s.how is SettledBy.ASSUMED else str(s.how)
        row = f"  {OPTIONS[s.field][0]:<{width}}  {values[s.field]:<{widest}}  {how:<9}  {sure}  {s.evidence}"
        line(row.rstrip(), _STYLES.get(s.how, ""))
    for text in warnings(found):
        line(f"WARNING  {text}", "bold red")
    if len(found.candidates) > 1:
        line("candidates, best first; from a cost of 1 on the evidence is clearly against one", "bold")
        for candidate in found.candidates[:SHOWN]:
            line(f"  {_row(candidate)}")
    line(options(found), "bold")


def warnings(found: Identification) -> Iterator[str]:
    """A line for each stated field that the evidence contradicts, and the candidates nearest to it; else nothing."""
    for d in found.disagreements:
        option, value = OPTIONS[d.field][1], OPTIONS[d.field][2]
        best = found.candidates[0].contract
        yield (
            f"{option} {value(found.contract)} was stated, but the checkpoint says {value(best)} "
            f"(confidence {d.confidence:.2f}): {d.evidence}"
        )
    if found.disagreements:
        fields = {d.field for d in found.disagreements}
        rivals = [c for c in found.candidates[1:] if fields & set(c.differs)]
        for candidate in (found.candidates[0], *rivals[: WARNED - 1]):
            yield f"  {_row(candidate)}"
        yield "the stated contract is used; leave the option out to use what was found"


def _seen(found: Identification) -> str:
    if found.detections is None:
        return "weights only; photographs of people (--images) would tell more"
    return f"{plural(found.photographs, 'photograph')}, {plural(found.detections, 'detection')} above 0.5 in them"


def _row(candidate: Candidate) -> str:
    """Cost, what is different from the best, and the signals."""
    said = ", ".join(f"{OPTIONS[n][0]} {OPTIONS[n][2](candidate.contract)}" for n in candidate.differs)
    said = _LONG.sub(lambda digits: f"{float(digits[0]):.4g}", said)
    signals = ", ".join(f"{name} {value:.3g}" for name, value in sorted(candidate.signals.items()))
    return f"{candidate.cost:6.2f}  {said or 'the best'}  ({signals})" if signals else f"{candidate.cost:6.2f}  {said}"


def options(found: Identification) -> str:
    """The contract as options of the command line, undecided fields marked."""
    left_open = [s.field for s in found.settled if s.how is not SettledBy.PROVED]
    parts = [f"{OPTIONS[name][1]} {shlex.quote(OPTIONS[name][2](found.contract))}" for name in left_open]
    text = f"as options: {' '.join(parts)}"
    if found.undecided:
        text += f"  (undecided: {', '.join(OPTIONS[name][0] for name in found.undecided)})"
    return text
