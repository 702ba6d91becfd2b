"""Description of the machine, which every benchmark prints."""

from __future__ import annotations

import os
from typing import Any


def describe() -> dict[str, Any]:
    import torch
    import transformers

    machine = f"{os.cpu_count()} cores, {torch.get_num_threads()} thread, {torch.backends.cpu.get_cpu_capability()}"
    return {"machine": machine, "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
