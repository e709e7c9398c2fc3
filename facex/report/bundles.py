"""What `bundle` wrote, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facex.report.goldens import MEASURES, measured
from facex.report.printing import add_row, make_table, print_whole, write_line
from facex.report.wording import plural

if TYPE_CHECKING:
    from rich.console import Console


def render(found: Any, console: Console) -> None:
    """Print the folders, and for every model what it measured on the goldens beside what it is allowed."""
    for written in found.bundles:
        size_mb = written.size_bytes / 1e6
        write_line(console, f"{written.platform}: {written.folder} ({plural(written.files, 'file')}, {size_mb:.2f} MB)")
        default, *others = written.models
        write_line(console, f"  {default} is the default" + (f", beside {', '.join(others)}" if others else ""))
    write_line(console, "")
    table = make_table("model", *MEASURES, right=MEASURES)
    for entry in found.tolerances:
        seen = {f.name: f for f in found.findings if f.artifact == entry.artifact}
        cells = [measured(seen.get(f"golden.{measure}")) for measure in MEASURES]
        add_row(table, console, entry.artifact, *cells)
    print_whole(table, console)
    write_line(console, "measured on the goldens, of what is allowed; box and landmark as a share of the face's side")
    write_line(
        console,
        f"{plural(found.goldens, 'golden')} of {found.size} with {plural(found.faces, 'face')}: every model finds them "
        "from the folder that was written",
    )
