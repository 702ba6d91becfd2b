"""One thread and no network for every test, and a tiny task on disk."""

import ctypes
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
os.environ["APET_KERNELS"] = "shipped"  # no test depends on time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16"  # in half precision, one kernel per shape is kept: 200 MB over all tests


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test with a parameter `device` on the CPU, and on a GPU if one is available."""
    if "device" in metafunc.fixturenames:
        import torch

        metafunc.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Limit the threads of torch and numpy's BLAS, which may be loaded before the environment is set. Workers share the cores."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True, scope="module")
def memory_given_back() -> Iterator[None]:
    """Free models and data after each test module: tests share them only within the module."""
    yield
    for name in ("_model", "_data"):
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
    """Return a folder with 24 training and 8 validation sentences in SST-2's format."""
    root = tmp_path_factory.mktemp("sst2")
    rows = [{"sentence": text, "label": label} for label, texts in ((1, GOOD), (0, BAD)) for text in texts]
    for split, count in (("train", 3), ("validation", 1)):
        lines = [json.dumps({**row, "sentence": f"{row['sentence']} {i}"}) for i in range(count) for row in rows]
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
