"""On what this process computes, for a manifest: equal builds compute equal bits from equal inputs. The one module here that imports torch."""

from __future__ import annotations

import torch

from online_model.registry.manifest import Build


def build_of(seed: int, device: torch.device | str = "cpu") -> Build:
    """The build of this process, as it is set now.

    Parameters
    ----------
    seed : int
        That everything random was drawn from.
    device : torch.device or str
        Where the model was trained.
    """
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    build = f"{torch.__version__} ({(torch.version.git_version or 'unknown')[:12]})"
    return Build(build, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), name, seed)
