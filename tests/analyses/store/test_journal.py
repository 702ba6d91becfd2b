"""The journal only saves time: if it is lost, truncated, wrong or out of date, the files of the runs decide."""

import json
import os

import numpy as np
import pytest

import analyses.store.run_store
from analyses.store import Row, Store

ROWS = [Row("m", 10, "t", "loss", 0.5, "r", split="train", stderr=0.1), Row("m", 10, "t", "density", 1.0, "r", x=2.0)]


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path)
    for name in ("a", "b", "c"):
        store.commit(name, {"kind": "train"}, ROWS, {"z": np.arange(3.0)}, {"seconds": 1.0, "peak_gb": 2.0, "device": "cpu"})
    store.commit("f", {"kind": "train"}, ROWS, {}, {}, "failed")
    return store


@pytest.fixture
def verified(monkeypatch) -> list[str]:
    """Return the list of runs whose files were read to verify them."""
    names: list[str] = []
    plain = Store._verified
    monkeypatch.setattr(Store, "_verified", lambda self, name, stamp: names.append(name) or plain(self, name, stamp))
    return names


def again(store: Store) -> Store:
    return Store(store.root)


def test_a_listing_reads_no_run_that_the_journal_knows(store, verified):
    assert again(store).run_ids() == ["a", "b", "c"]
    assert again(store).run_ids("failed") == ["f"]
    assert not verified


def test_a_journal_that_is_lost_is_made_anew(store, verified):
    (store.root / "journal.jsonl").unlink()
    assert store.run_ids() == again(store).run_ids() == ["a", "b", "c"]
    assert verified == ["a", "b", "c", "f"]


@pytest.mark.parametrize("name", ["rows.jsonl", "arrays.safetensors", "spec.json"])
def test_a_file_that_has_changed_since_is_looked_at(store, verified, name):
    path = store.folder("b") / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert again(store).run_ids() == ["a", "c"]
    assert again(store).state("b") is None
    assert set(verified) == {"b"}


@pytest.mark.parametrize("name", ["rows", "arrays", "spec"])
def test_a_bit_that_flipped_behind_the_file_systems_back_is_an_error_where_it_is_read(store, name):
    (path,) = store.folder("b").glob(f"{name}.*")
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(analyses.store.run_store.Damaged, match=rf"{path.name} is damaged .* computes this run again"):
        getattr(again(store), name)("b")
    assert again(store).run_ids() == ["a", "c"]
    getattr(again(store), name)("a")


def test_a_line_that_was_cut_or_garbled_costs_its_run_a_look(store, verified):
    path = store.root / "journal.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\nf\t") + 12])  # the last process died while it wrote
    again(store).commit("d", {"kind": "train"}, ROWS, {}, {})
    assert again(store).run_ids() == ["a", "b", "c", "d"]
    assert verified == ["f"]
    path.write_bytes(path.read_bytes().replace(b'"loss"', b'"l\xffss"', 1))
    assert [name for name, _ in again(store).summaries()] == ["a", "b", "c", "d"]
    assert all(("loss", "train") in summary.scores for _, summary in again(store).summaries())


def test_a_journal_of_nonsense_harms_nothing(store):
    (store.root / "journal.jsonl").write_bytes(np.random.default_rng(0).bytes(5000) + b"\n\t\t\t\t\na\tdone\t0\t0\t{}\n")
    assert again(store).run_ids() == ["a", "b", "c"]


def test_summaries_hold_scalars_and_cost_and_no_curves(store):
    _, summary = next(iter(again(store).summaries()))
    assert summary.scores == {("loss", "train"): (0.5, 0.1)}
    assert summary.common["model"] == "m"
    assert summary.env == {"seconds": 1.0, "peak_gb": 2.0}
    (store.root / "journal.jsonl").unlink()
    assert next(iter(again(store).summaries()))[1] == summary


def test_two_stores_on_one_folder_see_each_others_runs(store, verified):
    other = again(store)
    assert other.run_ids() == ["a", "b", "c"]
    store.commit("d", {"kind": "train"}, ROWS, {}, {})
    assert other.run_ids() == ["a", "b", "c", "d"]
    assert not verified


def test_a_run_of_another_version_does_not_count_and_is_replaced(store):
    about = json.loads((store.folder("a") / "DONE").read_text())
    (store.folder("a") / "DONE").write_text(json.dumps({**about, "version": about["version"] - 1}))
    assert again(store).state("a") is None
    assert again(store).run_ids() == ["b", "c"]
    again(store).commit("a", {"kind": "train"}, ROWS, {}, {})
    assert again(store).run_ids() == ["a", "b", "c"]


def test_the_journal_speaks_for_its_own_versions_only(store, monkeypatch):
    assert again(store).run_ids() == ["a", "b", "c"]
    monkeypatch.setitem(analyses.store.run_store.VERSIONS, "train", 99)
    assert again(store).run_ids() == []


def test_a_damaged_done_is_no_run(store):
    path = store.folder("b") / "DONE"
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"{", b"[", 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(analyses.store.run_store.Damaged):
        again(store).rows("b")
    assert again(store).run_ids() == ["a", "c"]


def test_a_read_only_store_can_be_read(store, monkeypatch):
    (store.root / "journal.jsonl").unlink()

    def refuse(path, flags, *rest):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system")
        return plain(path, flags, *rest)

    plain = os.open
    monkeypatch.setattr(os, "open", refuse)
    assert again(store).run_ids() == ["a", "b", "c"]
    assert len(list(again(store).summaries())) == 3
