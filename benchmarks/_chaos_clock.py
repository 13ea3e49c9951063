"""Wall clocks that jump: of the processes of a run, never of the machine."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_PYTHON = """import struct, time as _time
_real, _real_ns = _time.time, _time.time_ns
def _off():
    with open({path!r}, "rb") as file:
        return struct.unpack("q", file.read(8))[0]
_time.time = lambda: _real() + _off()
_time.time_ns = lambda: _real_ns() + _off() * 10**9
"""


class WallClock:
    """A clock that is set off by so many seconds, at once and for all processes that have its environment.

    With a C compiler a small library is loaded before the C library's, so that Python, Bytewax (Rust) and RocksDB (C++) see it; else only
    Python's time.time and time.time_ns are set off.

    Parameters
    ----------
    directory : Path
        For its files.
    """

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "clock"
        self.seconds = 0
        self._offset.write_bytes(struct.pack("q", 0))
        compiler = shutil.which("cc") or shutil.which("gcc")
        library = directory / "chaos_clock.so"
        build = [str(compiler), "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl", "-lpthread"]
        if compiler and subprocess.run(build, capture_output=True, check=False).returncode == 0:
            self.means = "clock_gettime, gettimeofday and time of the C library, by LD_PRELOAD; the monotonic clock is left alone"
            self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._offset)}
            self.path: Path | None = None
        else:
            self.means = "time.time and time.time_ns of Python alone (there is no C compiler): Bytewax and RocksDB don't see it"
            self.environment = {}
            self.path = directory / "clock-of-python"
            self.path.mkdir()
            (self.path / "sitecustomize.py").write_text(_PYTHON.format(path=str(self._offset)))

    def set(self, seconds: int) -> bool:
        """Set it off; returns whether that was a jump."""
        jumped, self.seconds = seconds != self.seconds, seconds
        with self._offset.open("r+b") as file:
            file.write(struct.pack("q", seconds))
        return jumped
