"""A request to stop that comes while another is being noted."""

from __future__ import annotations

import subprocess
import sys

from tests.processes import ROOT, environment

# A signal at every line that the handler of the first one runs through.
NESTED = """
import signal, sys, threading
from flows import stopping
stopping.listen()
left = 40
def trace(frame, event, argument):
    global left
    if event == "line" and left and frame.f_code.co_filename in (threading.__file__, stopping.__file__):
        left -= 1
        signal.raise_signal(signal.SIGTERM)
    return trace
sys.settrace(trace)
signal.raise_signal(signal.SIGTERM)
sys.settrace(None)
assert left < 40
assert stopping.requested()
"""


def test_a_second_signal_inside_the_handler_of_the_first_is_no_deadlock() -> None:
    subprocess.run([sys.executable, "-c", NESTED], env=environment(), cwd=ROOT, check=True, timeout=60)
