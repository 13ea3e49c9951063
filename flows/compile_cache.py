"""Where the machine code of compiled loops is kept between processes; numba itself isn't needed to know.

numba keys its cache by the file of the outer function alone, so a change in an inner one would leave stale code in use. The cache therefore lies in a
folder that is named by a digest of every source file with compiled code.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
_SOURCES = [_HERE / "compiled.py", *sorted((_HERE / "kernels").glob("*.py")), _HERE / "partition.py", _HERE / "ingest" / "convert.py"]


def _cache_folder() -> Path:
    digest = hashlib.blake2b(b"".join(path.read_bytes() for path in _SOURCES), digest_size=8).hexdigest()
    for base in (_HERE / "__pycache__", Path.home() / ".cache" / "tidemark"):
        folder = base / f"compiled-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    # Nowhere to keep it: compiled anew by each process.
    return Path(tempfile.mkdtemp(prefix="tidemark-compiled-"))


CACHE = _cache_folder()
