"""Native libraries write to file descriptors, so that is where silence is tested: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NOISE = """
import ctypes, logging, os, sys, warnings
from facex.exporters._quiet import quiet
libc = ctypes.CDLL(None)
def noise():
    os.write(1, b"[native out]"); os.write(2, b"[native err]")
    print("[python out]"); print("[python err]", file=sys.stderr)
    libc.puts(b"[libc out]"); libc.fflush(None)
    logging.warning("[logged]"); warnings.warn("[warned]")
try:
    with quiet():
        noise()
        if len(sys.argv) > 1:
            raise RuntimeError("inside")
except RuntimeError as error:
    print("caught", error)
os.write(1, b"after out\\n"); os.write(2, b"after err\\n")
print("enabled" if logging.root.isEnabledFor(logging.WARNING) else "disabled")
"""


def run(*arguments: str, debug: bool) -> tuple[str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "FACEX_DEBUG"}
    environment |= {"FACEX_DEBUG": "1"} if debug else {}
    done = subprocess.run(
        [sys.executable, "-c", NOISE, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [[], ["fail"]])
def test_nothing_of_the_block_is_heard_and_everything_after_it_is(arguments):
    out, err = run(*arguments, debug=False)
    assert "[" not in out + err
    assert ("caught inside" in out) is bool(arguments)
    assert "after out" in out
    assert "after err" in err
    assert out.splitlines()[-1] == "enabled"


@pytest.mark.parametrize("arguments", [[], ["fail"]])
def test_with_debugging_it_is_heard_on_stderr_alone(arguments):
    out, err = run(*arguments, debug=True)
    assert "[" not in out
    for word in ("[native out]", "[native err]", "[python out]", "[python err]", "[libc out]"):
        assert err.count(word) == 1
    assert "after out" in out
