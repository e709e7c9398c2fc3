"""What this machine can export and run, and what is missing for the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from facex import __version__, exporters


@dataclass(frozen=True, kw_only=True)
class TargetHealth:
    """One target on this machine.

    Attributes:
        exports: whether its packages are installed.
        runs: what runs a finished file here, with its version; empty when nothing does.
        packages: distribution -> installed version, or None.
        advice: what to do about what is missing; empty when nothing is.
    """

    name: str
    exports: bool
    runs: str
    packages: dict[str, str | None]
    advice: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """Everything `facex doctor` reports."""

    facex: str
    python: str
    system: str
    targets: tuple[TargetHealth, ...]


def examine() -> Health:
    """Look at installed distributions; imports none of them."""
    return Health(
        facex=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        targets=tuple(map(_target, exporters.names())),
    )


def _target(name: str) -> TargetHealth:
    info = exporters.info(name)
    packages = {p: exporters.version(p) for p in dict.fromkeys((*info.packages, *info.runtimes))}
    exports = all(packages[p] for p in info.packages)
    runtime = next((p for p in info.runtimes if packages[p]), None)
    advice = []
    if not exports:
        missing = ", ".join(p for p in info.packages if not packages[p])
        advice.append(
            f"{missing} not installed: pip install 'facex[{info.extra}]'" if info.extra else f"{missing} not installed"
        )
    if runtime is None and exports:
        advice.append(f"nothing runs its files: pip install 'facex[{info.extra}]'")
    return TargetHealth(
        name=name,
        exports=exports,
        runs=f"{runtime} {packages[runtime]}" if runtime else "",
        packages=packages,
        advice="; ".join(advice),
    )
