"""One thread and no network for every test; a tiny task on disk."""

import ctypes
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
os.environ["APET_KERNELS"] = "shipped"  # no test depends on a timing
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16"  # of half precision a kernel a shape is kept: 200 MB in all tests


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a parameter `device` runs on the CPU, and on a GPU where there is one."""
    if "device" in metafunc.fixturenames:
        import torch

        metafunc.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Of torch and of numpy's BLAS, which may have been loaded before the environment was set: workers share the cores."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True, scope="module")
def memory_given_back() -> Iterator[None]:
    """Models and data that a module's tests have loaded are shared within it alone, and their memory goes back to the system."""
    yield
    for name in ("_model", "task_data"):
        if "analyses.runs.run_inputs" in sys.modules:
            getattr(sys.modules["analyses.runs.run_inputs"], name).cache_clear()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a test reached for the network: {arguments}")

    monkeypatch.setattr("socket.socket.connect", refuse)


GOOD = ["a lovely film", "truly great fun", "a happy story", "wonderful music"]
BAD = ["a horrible film", "truly bad fun", "a sad story", "terrible music"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 validation sentences in SST-2's fields."""
    root = tmp_path_factory.mktemp("sst2")
    rows = [{"sentence": text, "label": label} for label, texts in ((1, GOOD), (0, BAD)) for text in texts]
    for split, count in (("train", 3), ("validation", 1)):
        lines = [json.dumps({**row, "sentence": f"{row['sentence']} {i}"}) for i in range(count) for row in rows]
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
