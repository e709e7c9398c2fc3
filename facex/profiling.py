"""Time by operator on this host, where a runtime tells it: a run apart from the latency, which it would slow down."""

from __future__ import annotations

from collections.abc import Sequence

from facex import exporters
from facex.device_bench import host
from facex.errors import MissingExtraError, SessionUnavailableError, stage
from facex.progress import Clock
from facex.runs import Run, Subject, runs_of
from facex.types import DeviceOptions, DeviceReport, DeviceRun, Profile


def on_host(subjects: Sequence[Subject], options: DeviceOptions, clock: Clock) -> DeviceReport:
    """The operators of every file with the first number of threads, one file after another.

    Args:
        subjects: files.
        options: `threads`, `warmup`, `runs` and `runtime`.
        clock: times the stage.

    Raises:
        ArtifactError: a file cannot be loaded.
        BackendError: a runtime failed; the message names the file.
    """
    runs = []
    with clock("profile", "profiling on this host", len(subjects)):
        for run in runs_of(subjects, (options.runtime,)):
            with stage(run.name):
                runs.append(_told(run, _profile(run, options)))
            clock.progress.advance()
    return DeviceReport(name=host.description(), runtime="", facts={}, runs=tuple(runs), warnings=())


def _profile(run: Run, options: DeviceOptions) -> Profile:
    from facex.parity import noise

    subject, image = run.subject, noise.picture(run.subject.size)
    try:
        return exporters.profile(
            subject.target, subject.path, image, threads=options.threads, warmup=options.warmup, runs=options.runs
        )
    except (SessionUnavailableError, MissingExtraError) as reason:
        return Profile(operators=(), note=f"no profile: {reason}")


def _told(run: Run, profile: Profile) -> DeviceRun:
    return DeviceRun(
        artifact=run.subject.name,
        load_ms=None,
        first_ms=None,
        warmup_ms=None,
        memory_mb=None,
        before=None,
        after=None,
        operators=profile.operators,
        notes=(profile.note,),
    )
