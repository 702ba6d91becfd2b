"""A study on a Ray cluster gives the rows of one process, whatever dies. The nodes of the cluster are processes of this machine."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from study_cases import rows_of, small, spec_of

from analyses.runs import identify
from analyses.store.run_store import Store
from analyses.studies import cluster
from analyses.studies.cluster import _told, run_on_cluster
from analyses.studies.cluster_worker import Request, errands, facts, room
from analyses.studies.study_file import Stage, Study
from analyses.studies.walk import work
from apet.errors import MissingInput, UsageError

ray = pytest.importorskip("ray")
SPAWN, FORK = map(multiprocessing.get_context, ("spawn", "fork"))
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def no_network():
    """Allow connections: the processes of Ray talk to each other through sockets."""


@pytest.fixture(scope="module")
def nodes():
    """A cluster of a head without cores, for the driver, and two nodes with one core each."""
    from ray.cluster_utils import Cluster

    whole = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        whole.add_node(num_cpus=1)
    yield whole
    whole.shutdown()


def study_of(folder: Path) -> Study:
    """Six runs, and curvature at the end points of two of them."""
    study = small(folder)
    variant = (("kind", "spectrum"), ("lanczos_steps", 3), ("probes", 1))
    tuned = Stage("tuned", tuple(spec_of(k=k, steps=5).resolved() for k in (4, 6)))
    return replace(study, stages=(*study.stages, tuned, Stage("curvature", (), at="tuned", variants=(variant,))), targets=())


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("whole"))
    work(study_of(folder), store)
    return store


def finished_at(store: Store) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in store.root.glob("*/DONE")}


@pytest.mark.parametrize(
    ("has", "request_", "runs"),
    [
        ({"CPU": 8.0}, Request(), 8),
        ({"CPU": 8.0}, Request(cpus=3), 2),
        ({"CPU": 8.0, "GPU": 2.0}, Request(gpus=0.5), 4),
        ({"CPU": 8.0, "GPU": 2.0}, Request(gpus=0.6), 2),
        ({"CPU": 8.0, "GPU": 2.0}, Request(gpus=2), 1),
        ({"CPU": 8.0, "GPU": 2.0, "memory": 30e9}, Request(gpus=0.25, memory=10), 3),
        ({"CPU": 8.0}, Request(gpus=0.5), 0),
        ({}, Request(), 0),
    ],
)
def test_a_node_has_room_for_as_many_runs_as_fit(has, request_, runs):
    assert room({"Resources": has}, request_) == runs


def test_a_node_without_this_program_is_told_in_one_line():
    error = _told(RuntimeError("a trace\nModuleNotFoundError: No module named 'analyses'"))
    assert isinstance(error, MissingInput)
    assert str(error).endswith("(ModuleNotFoundError: No module named 'analyses'): install it on every node")


def test_runs_of_one_model_and_task_share_an_errand():
    specs = [spec_of(k=k, model=model) for k in (1, 2, 3) for model in ("mini-t5-240k", "mini-t5-130k")]
    parts = list(errands(specs, 2))
    assert sorted(map(len, parts)) == [1, 1, 2, 2]
    assert all(len({spec.model for spec in part}) == 1 for part in parts)
    assert sorted((spec for part in parts for spec in part), key=str) == sorted(specs, key=str)


@pytest.mark.parametrize("shared", [True, False], ids=["shared folder", "no shared folder"])
def test_a_cluster_gives_the_rows_of_one_process(nodes, whole, folder, tmp_path, monkeypatch, shared):
    if not shared:  # no worker sees the driver's folder
        monkeypatch.setattr(Path, "touch", lambda path: None)
    store, events = Store(tmp_path / "here"), []
    outcome = run_on_cluster(study_of(folder), store, tell=events.append, address=nodes.address)
    assert not outcome.failed
    assert rows_of(store) == rows_of(whole)
    assert sum(event.kind == "done" for event in events) == len({event.spec for event in events if event.kind == "begin"}) == 10
    assert not list((tmp_path / "here" / ".claims").iterdir())
    command = json.loads((store.folder(outcome.done[0]) / "env.json").read_text())["command"]
    assert "default_worker" not in command  # the driver's
    before = finished_at(store)
    assert len(run_on_cluster(study_of(folder), store, address=nodes.address).done) == 10
    assert finished_at(store) == before


def workers() -> list:
    """The processes that compute errands."""
    import psutil

    return [process for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [""])[0].startswith("ray::_errand")]


def process_of(run_id: str, root: Path) -> int:
    """The living process that has claimed a run."""
    import psutil

    def claimed() -> int:
        try:
            return json.loads((root / ".claims" / run_id).read_text())["process"]
        except (OSError, ValueError):  # not yet
            return 0

    wait(lambda: claimed() and psutil.pid_exists(claimed()))
    return claimed()


def wait(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def upon_first(kind: str, act):
    """Return a receiver of events that starts act() in a thread at the first event of a kind."""
    seen = []

    def tell(event):
        if event.kind == kind and not seen:
            seen.append(event)
            threading.Thread(target=act).start()

    return tell


@pytest.mark.long
def test_the_runs_of_a_killed_worker_are_computed_elsewhere(nodes, whole, folder, tmp_path):
    killed = []

    def kill() -> None:
        killed.extend(workers()[:1])
        killed[0].kill()

    store = Store(tmp_path)
    outcome = run_on_cluster(study_of(folder), store, tell=upon_first("begin", kill), address=nodes.address)
    assert len(killed) == 1
    assert not outcome.failed
    assert rows_of(store) == rows_of(whole)


def test_a_run_that_kills_its_worker_twice_has_failed_and_the_others_are_done(nodes, folder, tmp_path):
    deadly = spec_of(k=7, steps=100_000).resolved()

    def kill(event) -> None:
        if event.kind == "begin" and event.spec == deadly:
            threading.Thread(target=lambda: os.kill(process_of(identify(deadly, folder), tmp_path), signal.SIGKILL)).start()

    study = replace(study_of(folder), stages=(Stage("runs", (deadly, spec_of(k=8).resolved())),))
    store = Store(tmp_path)
    outcome = run_on_cluster(study, store, tell=kill, address=nodes.address)
    assert len(outcome.done) == 1
    ((spec, error),) = outcome.failed
    assert spec == deadly
    assert "died 2 times in this run" in error
    assert len(store.run_ids("failed")) == 1


@pytest.mark.long
def test_a_node_may_join_and_another_leave(nodes, whole, folder, tmp_path):
    def change() -> None:
        nodes.add_node(num_cpus=1)
        nodes.remove_node(nodes.worker_nodes.copy().pop())

    store = Store(tmp_path)
    outcome = run_on_cluster(study_of(folder), store, tell=upon_first("begin", change), address=nodes.address)
    assert not outcome.failed
    assert rows_of(store) == rows_of(whole)


def drive(study: Study, root: Path, address: str) -> None:
    run_on_cluster(study, Store(root), address=address)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_ends_early_goes_on_later_and_computes_no_finished_run_again(nodes, whole, folder, tmp_path, number):
    driver = SPAWN.Process(target=drive, args=(study_of(folder), tmp_path, nodes.address))
    driver.start()
    store = Store(tmp_path)
    wait(lambda: len(finished_at(store)) >= 2)
    os.kill(driver.pid, number)
    driver.join(60)
    assert driver.exitcode not in (None, 0)
    wait(lambda: not workers())  # of the dead driver
    before = finished_at(store)
    assert 2 <= len(before) < 10
    assert len(run_on_cluster(study_of(folder), store, address=nodes.address).done) == 10
    assert rows_of(store) == rows_of(whole)
    assert before.items() <= finished_at(store).items()


@pytest.mark.long
def test_ctrl_c_saves_the_state_of_a_run(nodes, folder, tmp_path):
    study = Study("s", (Stage("runs", (spec_of(k=7, steps=1_000_000).resolved(),)),), (), {"sst2": folder})
    driver = SPAWN.Process(target=drive, args=(study, tmp_path, nodes.address))
    driver.start()
    wait(lambda: list(tmp_path.glob("*/checkpoint*.json")))  # the run has begun
    time.sleep(2)
    assert not list(tmp_path.glob("*/checkpoint.safetensors"))
    os.kill(driver.pid, signal.SIGINT)
    driver.join(30)
    assert list(tmp_path.glob("*/checkpoint.safetensors"))


def test_a_worker_with_other_versions_computes_nothing(nodes, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "facts", lambda: {**facts(), "torch": "1.0"})
    with pytest.raises(UsageError, match=r"the worker on .* has torch .* \(driver: 1.0\): install the same versions on all nodes"):
        run_on_cluster(study_of(folder), Store(tmp_path), address=nodes.address)
    assert not Store(tmp_path).run_ids()


def test_a_worker_without_the_data_says_so(nodes, folder, tmp_path):
    """The driver has read the data before they are gone."""
    data = tmp_path / "sst2"
    shutil.copytree(folder, data)
    spec = spec_of(k=7).resolved()
    identify(spec, data)
    shutil.rmtree(data)
    study = Study("s", (Stage("runs", (spec,)),), (), {"sst2": data})
    with pytest.raises(MissingInput, match=r"sst2.* \(on node [\d.]+\): models and data must be on every node"):
        run_on_cluster(study, Store(tmp_path / "store"), address=nodes.address)


@pytest.mark.long
@pytest.mark.parametrize("leased", [False, True], ids=["lock", "lease"])
def test_a_run_that_another_launch_computes_is_waited_for_and_taken_over(nodes, folder, tmp_path, monkeypatch, leased):
    monkeypatch.setattr("analyses.store.leases.EXPIRES", 3.0)
    spec, store, events = spec_of(k=7).resolved(), Store(tmp_path), []
    if leased:
        store.use_leases()
    other = FORK.Process(target=hold, args=(tmp_path, identify(spec, folder)))
    other.start()
    wait(lambda: (tmp_path / ".claims" / identify(spec, folder)).exists())

    def tell(event) -> None:
        events.append(event.kind)
        if event.kind == "held":
            other.kill()

    study = Study("s", (Stage("runs", (spec,)),), (), {"sst2": folder})
    assert len(run_on_cluster(study, store, tell=tell, address=nodes.address).done) == 1
    assert [kind for kind in events if kind != "progress"] == ["known", "begin", "held", "begin", "done"]


def hold(root: Path, run_id: str) -> None:
    with Store(root).claim(run_id):
        time.sleep(600)


def test_a_request_that_no_node_can_meet_is_refused(nodes, folder, tmp_path):
    with pytest.raises(UsageError, match=r"no node of the cluster has what a run reserves \(1 cores, 2 GPUs, 5 GB\)"):
        run_on_cluster(study_of(folder), Store(tmp_path), address=nodes.address, request=Request(gpus=2, memory=5))


@pytest.mark.parametrize(
    ("address", "error", "text"),
    [
        ("127.0.0.1:1", MissingInput, "no Ray cluster answers at 127.0.0.1:1"),
        ("here", UsageError, "--ray takes auto, local or HOST:PORT"),
        ("ray://127.0.0.1:10001", UsageError, "must run on a node of the cluster"),
    ],
)
def test_a_wrong_address_is_refused(folder, tmp_path, address, error, text):
    with pytest.raises(error, match=text):
        run_on_cluster(study_of(folder), Store(tmp_path), address=address)


def test_a_cluster_of_another_version_is_refused_in_one_line(nodes, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.__version__", "1.0")
    with pytest.raises(UsageError, match="cannot be joined: Version mismatch: .*1.0"):
        run_on_cluster(study_of(folder), Store(tmp_path), address=nodes.address)


def test_without_ray_the_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingInput, match="install the extra 'cluster'"):
        run_on_cluster(study_of(folder), Store(tmp_path))
