"""How long each file takes beside the float32 file of the same target, size and head, choosing faces alike."""

from __future__ import annotations

from collections.abc import Sequence

from facex.types import Artifact, Latency, Precision, Ratio


def of(artifacts: Sequence[Artifact], latency: Sequence[Latency]) -> tuple[Ratio, ...]:
    """A ratio for every latency whose float32 file was timed on the same device with as many threads.

    Args:
        artifacts: timed files.
        latency: of them; the order is kept.
    """
    known = {artifact.name: artifact for artifact in artifacts}
    found = []
    for own in latency:
        base = _baseline(known.get(own.artifact), artifacts)
        other = next((e for e in latency if base and e.artifact == base.name and _alike(own, e)), None)
        if base is not None and other is not None:
            found.append(
                Ratio(
                    artifact=own.artifact,
                    baseline=base.name,
                    device=own.device,
                    threads=own.threads,
                    kind=own.kind,
                    low=own.low_ms / other.low_ms,
                    p50=own.p50_ms / other.p50_ms,
                    runtime=own.runtime,
                )
            )
    return tuple(found)


def ratio_of(entry: Latency, ratios: Sequence[Ratio]) -> Ratio | None:
    """The ratio that belongs to a latency."""
    return next((r for r in ratios if r.artifact == entry.artifact and _alike(entry, r)), None)


def _alike(one: Latency, other: Latency | Ratio) -> bool:
    """Whether two were taken in the same way, so that nothing but the file differs."""
    return (one.device, one.threads, one.kind, one.runtime) == (
        other.device,
        other.threads,
        other.kind,
        other.runtime,
    )


def _baseline(artifact: Artifact | None, artifacts: Sequence[Artifact]) -> Artifact | None:
    if artifact is None:
        return None
    same = (artifact.target, artifact.size, artifact.head, artifact.selection)
    return next(
        (a for a in artifacts if (a.target, a.size, a.head, a.selection) == same and a.precision is Precision.FP32),
        None,
    )
