"""One training step of k tuned entries, compared with full fine-tuning, a dense mask, SHiRA, LoRA and the frozen floor.

The model is a T5 of 60.5 M parameters with random weights: batch 8, source 128, target 8, one thread. The floor is the frozen model's
forward pass and the gradient of its input embeddings.

- Time: interleaved rounds in one process; the median of the ratios to the floor in the same round, with a bootstrap interval.
- Memory: one process per method; the kernel's peak resident size during a step, less the size before anything was tuned.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
METHODS = ("floor", "full", "mask_k1e4", "mask_k1e6", "shira_k1e6", "lora", "k1e2", "k1e4", "k1e6")


def build() -> tuple:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(dropout_rate=0.0, decoder_start_token_id=0, attn_implementation="eager")).eval()
    ids, labels = torch.randint(5, 32000, (8, 128)), torch.randint(5, 32000, (8, 8))
    return model, {"input_ids": ids, "labels": labels}


def step_of(method: str, model, batch: dict) -> Callable[[], None]:
    """Make `model` trainable by `method` and return one step: forward, backward, AdamW."""
    import torch

    if method == "floor":
        return floor(model, batch)
    after = None
    if method == "full":
        trainable = list(model.parameters())
    elif method.startswith("mask"):
        trainable = mask(model, budget(method))
    elif method.startswith("shira"):
        trainable = shira(model, budget(method))
    elif method == "lora":
        trainable = lora(model)
    else:
        from apet.subspaces import Coordinates, ParameterSpace, random_entries

        space = ParameterSpace.of(model)
        attached = Coordinates(space, random_entries(space.size, budget(method), 0)).attach(model)
        trainable, after = [attached.z], attached.write
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        if after:
            after()

    return step


def budget(method: str) -> int:
    return int(float(method.rsplit("k", 1)[1]))


def floor(model, batch: dict) -> Callable[[], None]:
    model.requires_grad_(False)

    def step() -> None:
        embedded = model.shared(batch["input_ids"]).requires_grad_()
        model(inputs_embeds=embedded, labels=batch["labels"]).loss.backward()

    return step


def mask(model, k: int) -> list:
    """Return the trainable tensors, whose dense gradients are masked in hooks, as most code tunes a subset: every matrix outside the
    embeddings.
    """
    import torch

    model.requires_grad_(False)
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "shared" not in name]
    density = k / sum(p.numel() for p in matrices)
    for p in matrices:
        chosen = torch.rand_like(p) < density
        p.requires_grad_(True)
        p.register_hook(lambda grad, chosen=chosen: grad * chosen)
    return matrices


def shira(model, k: int) -> list:
    from peft import ShiraConfig, inject_adapter_in_model

    targets = ["q", "k", "v", "o", "wi", "wo"]
    sides = sum(sum(p.shape) for name, p in model.named_parameters() if name.endswith(tuple(f".{t}.weight" for t in targets)))
    inject_adapter_in_model(ShiraConfig(r=max(1, round(k / sides)), target_modules=targets), model)
    return [p for p in model.parameters() if p.requires_grad]


def lora(model) -> list:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=8, lora_dropout=0.0, target_modules=["q", "v"]), model)
    return [p for p in model.parameters() if p.requires_grad]


def times(rounds: int, methods: tuple[str, ...]) -> dict[str, list[float]]:
    """Return the seconds of each method's step in each round. The order is rotated from round to round."""
    model, batch = build()
    steps = {method: step_of(method, copy.deepcopy(model), batch) for method in methods}
    for step in steps.values():
        step()
    timings: dict[str, list[float]] = {method: [] for method in methods}
    for number in range(rounds):
        turn = number % len(methods)
        for method in methods[turn:] + methods[:turn]:
            start = time.perf_counter()
            steps[method]()
            timings[method].append(time.perf_counter() - start)
    return timings


def ratio(timings: dict[str, list[float]], a: str, b: str) -> tuple[float, float, float]:
    """Return the median over rounds of a / b and its 95 % bootstrap interval."""
    import numpy as np

    ratios = np.array(timings[a]) / np.array(timings[b])
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def peak_mb(method: str) -> float:
    """Return the peak memory of a step above the bare model, in MB, measured in a new process."""
    # Otherwise the allocator keeps freed tensors, which hides the memory that a step needs.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0"}
    out = subprocess.run([sys.executable, __file__, "--peak", method], env=env, check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def measure_peak(method: str) -> float:
    import gc

    model, batch = build()
    # Build the floor's graph once before, so that buffers of libraries are not counted.
    embedded = model.shared(batch["input_ids"]).detach().requires_grad_()
    model.requires_grad_(False)
    model(inputs_embeds=embedded, labels=batch["labels"]).loss.backward()
    del embedded
    model.requires_grad_(True)
    gc.collect()
    base = resident("VmRSS")
    step = step_of(method, model, batch)
    step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return resident("VmHWM") - base


def resident(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(measure_peak(options.peak)))
        return
    from machine import describe

    from apet.subspaces import costs_for_machine, using_costs

    with using_costs(costs_for_machine()[0]):  # the choice of kernels that runs make
        timings = times(1 if options.quick else 24, METHODS)
    peaked = ("floor", "k1e6") if options.quick else METHODS
    peaks = {method: peak_mb(method) for method in peaked}
    figures = {
        "step_ratio_k1e2": ratio(timings, "k1e2", "floor")[0],
        "step_ratio_k1e4": ratio(timings, "k1e4", "floor")[0],
        "step_ratio_k1e6": ratio(timings, "k1e6", "floor")[0],
        "shira_over_ours": ratio(timings, "shira_k1e6", "k1e6")[0],
        "mask_over_ours": ratio(timings, "mask_k1e6", "k1e6")[0],
        "mask_over_ours_k1e4": ratio(timings, "mask_k1e4", "k1e4")[0],
        "lora_ratio": ratio(timings, "lora", "floor")[0],
        "peak_ratio_k1e6": (peaks["k1e6"] - 16e6 / 2**20) / peaks["floor"],
    }
    if not options.json:
        print(f"{'method':12} {'seconds':>8} {'/ floor':>8}  95 % interval   peak MB over base")
        for method in METHODS:
            middle, low, high = ratio(timings, method, "floor")
            peak = f"{peaks[method]:.0f}" if method in peaks else "-"
            print(f"{method:12} {statistics.median(timings[method]):8.3f} {middle:8.3f}  [{low:.3f}, {high:.3f}]  {peak}")
    print(json.dumps({"figures": {k: round(v, 3) for k, v in figures.items()}, **describe()}))


if __name__ == "__main__":
    main()
