"""What a manifest says of the machine is what torch says of it, and only who trains pays for importing torch."""

from __future__ import annotations

import subprocess
import sys

from tests.processes import ROOT, environment


def test_it_is_what_torch_says() -> None:
    import torch

    from online_model.registry.build import build_of

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        build = build_of(7)
    finally:
        torch.set_num_threads(threads)
    assert build.torch.startswith(torch.__version__)
    assert (build.instruction_set, build.threads, build.device, build.seed) == (torch.backends.cpu.get_cpu_capability(), 1, "cpu", 7)


def test_looking_at_models_needs_no_torch() -> None:
    modules = "online_model.registry.commands.looking, online_model.registry.commands.changing, online_model.deltas.follower"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=False).returncode == 0
