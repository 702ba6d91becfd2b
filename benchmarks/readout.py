"""Savings of a training step that computes only the label words' rows of the output head, and only at the blank.

Two models are measured. mini-bert-3m has 4,096 tokens in its vocabulary and its head at every position. A Llama of 2 layers has 49,152
tokens, random weights and its head at the last position. The batch has 32 sentences, k = 1,000, one thread. Each measurement is a separate
process; the processes alternate.

Peak is the memory of the step above the memory before it. The last line is {"figures": {...}} with seconds, peak MB and the MB of the
logits for both ways, and the relative difference of their gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"  # freed memory returns to the system at once
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from apet.models import Loaded, ladder_tokenizer

    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 9, "num_key_value_heads": 3}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=49152, tie_word_embeddings=True, attn_implementation="eager", **sizes)).eval()
    return Loaded("llama", model, ladder_tokenizer("bloom"), 0, 0, "", "causal")


def one(name: str, whole: bool, steps: int) -> dict[str, Any]:
    import torch

    from apet.methods import PlacementConfig, make_tunable
    from apet.models import load_model
    from apet.scoring import cross_entropy, scorer_of
    from apet.tasks import load_task

    torch.set_num_threads(1)
    loaded, data = llama() if name == "llama" else load_model("mini-bert-3m"), load_task("mini-sentiment")
    scorer = scorer_of(loaded, data.task)
    assert not scorer.whole_head
    scorer.whole_head = whole
    mounted = make_tunable("apet", loaded.model, PlacementConfig(1000))
    attached: Any = mounted.attached
    batch = next(iter(scorer.batches(data.splits["train"][:32], 32)))

    def step() -> Any:
        attached.bind(attached.z)
        loss_sum, _ = cross_entropy(scorer.logits(mounted.model, batch), batch)
        return torch.autograd.grad(loss_sum, attached.z)[0]

    gradient = step()
    peak = _peak_over_rest(step)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    positions = batch["input_ids"].shape[1] if name == "bert" else 1
    vocabulary = loaded.model.config.vocab_size
    logits = 4e-6 * len(batch["labels"]) * positions * vocabulary
    return {"seconds": statistics.median(seconds), "peak_mb": peak, "logits_mb": logits, "gradient": gradient.tolist()}


def _peak_over_rest(step: Any) -> float:
    """Return the peak memory of the process during a step above its memory before, in MB (Linux: the peak is reset)."""

    def held(name: str) -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1.024e-3

    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    step()
    return held("VmHWM") - before


def measure(steps: int, rounds: int, say: Any) -> dict[str, float]:
    figures: dict[str, float] = {}
    say(f"{'model':6} {'head':6} {'s / step':>9} {'peak MB':>8} {'logits MB':>10}")
    for name in ("bert", "llama"):
        results: dict[str, list[dict[str, Any]]] = {"whole": [], "rows": []}
        for way in [*results] * rounds:
            command = [sys.executable, __file__, "--one", name, way, "--steps", str(steps)]
            results[way].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout))
        for way, repetitions in results.items():
            medians = {key: statistics.median(repetition[key] for repetition in repetitions) for key in ("seconds", "peak_mb", "logits_mb")}
            say(f"{name:6} {way:6} {medians['seconds']:9.4f} {medians['peak_mb']:8.1f} {medians['logits_mb']:10.1f}")
            figures |= {f"{key}_{name}_{way}": round(value, 4) for key, value in medians.items() if key != "logits_mb" or way == "whole"}
        pairs = list(zip(results["whole"][0]["gradient"], results["rows"][0]["gradient"], strict=True))
        apart, size = sum((a - b) ** 2 for a, b in pairs) ** 0.5, sum(a * a for a, _ in pairs) ** 0.5
        figures[f"gradient_difference_{name}"] = apart / size
        figures[f"time_{name}"] = round(figures[f"seconds_{name}_rows"] / figures[f"seconds_{name}_whole"], 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of few steps")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=20, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], options.one[1] == "whole", options.steps)))
        return
    from machine import describe

    say = (lambda text: None) if options.json else print
    figures = measure(3 if options.quick else options.steps, 1 if options.quick else 3, say)
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
