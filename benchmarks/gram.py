"""The Gram matrix of 16 sentences compared with their 16 backward passes, in one process.

A backward pass gives one row of the Jacobian: the gradient of one sentence's logit difference in all parameters in scope, with its forward
pass. `ratio` is the time of the Gram matrix over the time of all 16 passes; it should be at most 3. The Llama of 135 M parameters has
random weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SENTENCES = 16
LLAMA = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
    "vocab_size": 49152, "tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1,
}  # fmt: skip


def llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from apet.models import Loaded, load_model

    torch.manual_seed(0)
    tokenizer = load_model("mini-bloom-120k", random_init=True, shapes_only=True).tokenizer
    return Loaded("llama-135m", LlamaForCausalLM(LlamaConfig(**LLAMA)).eval(), tokenizer, 0, 0, "", "causal")


def measure(loaded: Any, device: str) -> dict[str, float]:
    """Return the seconds of the passes and of the Gram matrix, their ratio, and the peak memory that the Gram matrix adds, in GB."""
    import torch

    from apet.gram import gram_matrix
    from apet.scoring import scorer_of
    from apet.subspaces import ParameterSpace, all_names, only_trainable
    from apet.tasks import TASKS, generate

    model, examples = loaded.model.to(device), generate("train", SENTENCES)
    scorer, space = scorer_of(loaded, TASKS["mini-sentiment"], device=device), ParameterSpace.of(loaded.model)
    tensors = [all_names(model)[name] for name in space.names]

    def passes(count: int = SENTENCES) -> None:
        with only_trainable(model, tensors):
            for batch in list(scorer.batches(examples, 1))[:count]:
                logits = scorer.logits(model, batch)[0]
                torch.autograd.grad(logits[1] - logits[0], tensors, allow_unused=True)

    def seconds(work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    passes(2)  # warm-up
    before, first = peak_gb(device), seconds(passes)
    gram_seconds = seconds(lambda: gram_matrix(model, space, scorer, examples))
    grown, second = peak_gb(device) - before, seconds(passes)
    both = (first + second) / 2
    return {"in_scope": space.size, "passes_s": both, "gram_s": gram_seconds, "ratio": gram_seconds / both, "more_gb": grown}


def peak_gb(device: str) -> float:
    import torch

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (torch.cuda.max_memory_allocated() if device == "cuda" else most) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="built-in models only, less than 20 s on two cores")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch
    from machine import describe

    from apet.models import load_model

    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    for make in (lambda: load_model("mini-t5-790k"), lambda: load_model("mini-bert-1m"), *(() if options.quick else (llama,))):
        loaded = make()
        numbers = measure(loaded, options.device)
        figures |= {f"{loaded.name} {name}": value for name, value in numbers.items()}
        if not options.json:
            print(f"{loaded.name:14} " + "  ".join(f"{name} {value:.3g}" for name, value in numbers.items()), flush=True)
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
