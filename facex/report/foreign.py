"""What `identify FILE --reference CHECKPOINT` found, for the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from facex.provenance import SAME, Answer, Foreign, Layer, numbers
from facex.report.identified import options
from facex.report.listing import ABSENT
from facex.report.printing import add_row, make_table, print_whole, write_fields, write_line
from facex.report.wording import plural

if TYPE_CHECKING:
    from rich.console import Console

    from facex.provenance import Behaviour, Weights
    from facex.reference.probe import Identification

SHOWN_LAYERS = 8
SHOWN_TRIALS = 6
STYLES = {Answer.YES: "green", Answer.NO: "bold red", Answer.UNDECIDED: "yellow"}
WORDS = {Answer.YES: "all is well", Answer.NO: "not as it should be", Answer.UNDECIDED: "undecided"}


def render(found: Foreign, reference: Identification, console: Console) -> None:
    """Print the conclusions, what they rest on, and the contract of the checkpoint, the measure of it all."""
    identified(found, console)
    write_line(console, f"the checkpoint {options(reference)}", "bold")


def identified(found: Foreign, console: Console) -> None:
    """Print the conclusions, and below them what they rest on."""
    write_line(console, f"{found.file} against {found.checkpoint}: {WORDS[found.sound]}", STYLES[found.sound])
    for conclusion in found.conclusions:
        write_line(console, f"  {conclusion}")
    inputs = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in found.inputs)
    says = f"{found.says.in_words()}: {found.says_source}" if found.says else "nothing of what it takes"
    write_fields(console, [("inputs", inputs), ("says", says)])
    _weights(found.weights, console)
    _behaviour(found.behaviour, console)


def _weights(found: Weights, console: Console) -> None:
    """A line for each kind of agreement, what the first convolution tells, and the layers that are not the same."""
    write_line(console, f"weights: built from it: {found.built_from}", "bold")
    for agreement, count in found.layer_counts.items():
        own = [layer for layer in found.layers if layer.agreement.value == agreement]
        least = min((layer.snr_db for layer in own if layer.snr_db is not None), default=None)
        stored = ", ".join(kind for kind, _ in Counter(layer.stored for layer in own if layer.stored).most_common())
        noise = "" if least is None else f", {least:.1f} dB and more in {stored}"
        share = found.parameter_shares[agreement]
        write_fields(console, [(agreement, f"{plural(count, 'convolution')}, {share:.1%} of the parameters{noise}")])
    if found.first is not None:
        write_fields(console, _folded(found))
    if found.unmatched:
        write_fields(console, [("in the file alone", plural(len(found.unmatched), "convolution"))])
    other = sorted((layer for layer in found.layers if layer.agreement not in SAME), key=_rank)
    if other:
        table = make_table("layer", "in the file", "agreement", "dB", right=("dB",))
        for layer in other[:SHOWN_LAYERS]:
            ratio = ABSENT if layer.snr_db is None else f"{layer.snr_db:.1f}"
            add_row(table, console, layer.name, layer.found or ABSENT, layer.agreement.value, ratio)
        print_whole(table, console)
    if len(other) > SHOWN_LAYERS:
        write_fields(console, [("", f"and {len(other) - SHOWN_LAYERS} more (--json lists all)")])


def _rank(layer: Layer) -> float:
    return -1e9 if layer.snr_db is None else layer.snr_db


def _folded(found: Weights) -> list[tuple[str, str]]:
    assert found.first is not None
    order = ", ".join(str(c + 1) for c in found.first.channels)
    fields = [("folded order", f"its channels meet those of the network in the order {order}")]
    if found.first.mean is not None:
        fields.append(("folded mean", f"{numbers(found.first.mean)}, by its own channels"))
    return fields


def _behaviour(found: Behaviour, console: Console) -> None:
    """The feeds, best first, what the outputs are, and the mean that was found."""
    write_line(console, f"behaviour: decided: {'yes' if found.decided else 'no'}", "bold")
    kind = "photograph" if found.photographs else "drawn picture"
    if found.runtime:
        write_fields(console, [("runs in", f"{found.runtime}, on {plural(found.pictures, kind)} of {found.size}")])
    write_fields(console, [("reason", found.reason)])
    for output in found.outputs:
        meaning = output.meaning or "unknown"
        ratio = "" if output.agreement_db is None else f", {output.agreement_db:.1f} dB"
        write_fields(console, [("output", f"{output.name} {list(output.shape)}: {meaning}{ratio}")])
    if found.fit is not None:
        error = f"give or take {numbers(found.fit.mean_error)}, from {found.fit.mean_from}"
        write_fields(console, [("mean, with the feed", f"{numbers(found.fit.mean)} in the network's order, {error}")])
    if found.trials:
        table = make_table("fed", "dB", "F1", right=("dB", "F1"))
        for trial in found.trials[:SHOWN_TRIALS]:
            f1 = ABSENT if trial.matched_f1 is None else f"{trial.matched_f1:.3f}"
            add_row(table, console, trial.feed.in_words(), f"{trial.agreement_db:.1f}", f1)
        print_whole(table, console)
