"""The page as HTML."""

from __future__ import annotations

import base64
import functools
import math
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from facex.manifest import Manifest
from facex.report import goldens, outcome, runtimes
from facex.report.page import artifacts, budgets, charts, origin
from facex.report.page.exhibits import Exhibits
from facex.report.table import milliseconds
from facex.report.terminal import DEMONSTRATION
from facex.report.wording import NOTHING, choosing, plural, printable
from facex.types import Verdict, run_name

if TYPE_CHECKING:
    from facex.calibration.insight import Insight, TensorInsight

TEMPLATE = "page.html"
SHOWN_TENSORS = 12


def html(manifest: Manifest, exhibits: Exhibits) -> str:
    """The page of a run: one file, without scripts, that loads nothing.

    Args:
        manifest: the whole one, with all latencies and findings.
        exhibits: what is drawn beside it.

    Returns:
        HTML in UTF-8; the same for the same arguments.
    """
    keys = {path: f"photograph-{i}" for i, path in enumerate(exhibits.thumbnails, start=1)}
    headers, rows = artifacts.overview(manifest)
    failed = [f for f in manifest.findings if f.verdict is Verdict.FAIL]
    return _environment().get_template(TEMPLATE).render(
        manifest=manifest,
        outcome=outcome.outcome(manifest),
        compared=outcome.compared(manifest),
        demonstration=DEMONSTRATION if manifest.source.demonstration else "",
        headers=headers,
        rows=rows,
        failures=[(run_name(f.artifact, f.runtime), artifacts.check(f)) for f in failed],
        skips=outcome.skips(manifest),
        goldens=goldens.texts(manifest.findings),
        groups=budgets.groups(manifest),
        views=artifacts.views(manifest, exhibits, keys),
        beside_executor=list(runtimes.beside_executor(manifest)),
        thumbnails=[
            (keys[path], thumbnail, base64.b64encode(thumbnail.webp).decode())
            for path, thumbnail in exhibits.thumbnails.items()
        ],
        plans=[_plan(f"plan-{i}", title, seen) for i, (title, seen) in enumerate(exhibits.insights.items(), start=1)],
        facts=origin.facts(manifest),
        contract=origin.contract(manifest),
        calibration=origin.calibration(manifest.calibration) if manifest.calibration else (),
    )  # fmt: skip


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("facex.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        keep_trailing_newline=True,
    )
    environment.filters |= {"milliseconds": milliseconds, "plural": plural, "choosing": choosing}
    environment.globals["NOTHING"] = NOTHING
    return environment


def _shown(value: Any) -> Any:
    """What an expression writes: text without characters that no page may hold; it is escaped afterwards."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(str(value), keep="\n\t")


def _plan(key: str, title: str, seen: Insight | str) -> dict[str, Any]:
    """A quantization plan with its charts, and the tensors that cost the head most."""
    if isinstance(seen, str):
        return {"title": title, "reason": seen}
    worst = sorted(seen.tensors, key=lambda t: (math.isfinite(t.relative_head_error), -t.relative_head_error))
    largest = max((t.relative_head_error for t in seen.tensors if math.isfinite(t.relative_head_error)), default=0.0)
    return {
        "title": title,
        "reason": "",
        "photographs": seen.photographs,
        "heads": [(role, _decibels(value)) for role, value in seen.heads.items()],
        "ranges": charts.ranges(key, seen),
        "noise": charts.noise(key, seen),
        "tensors": [_tensor(t, largest) for t in worst[:SHOWN_TENSORS]],
        "count": len(seen.tensors),
    }


def _tensor(tensor: TensorInsight, largest: float) -> dict[str, Any]:
    error = tensor.relative_head_error
    share = error / largest if largest and math.isfinite(error) else 1.0
    return {
        "name": tensor.name,
        "operator": tensor.operator,
        "grid": f"{tensor.grid_low:.4g} to {tensor.grid_high:.4g}",
        "seen": f"{tensor.seen_low:.4g} to {tensor.seen_high:.4g}",
        "clipped": f"{tensor.clipped_fraction:.3%}",
        "sqnr": _decibels(tensor.sqnr_db),
        "head": _decibels(tensor.head_sqnr_db),
        "share": round(100 * share, 1),
    }


def _decibels(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1f} dB"
