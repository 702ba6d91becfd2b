"""Constants for the choice of kernels are measured once per machine and stored. They never stop a run and never change results."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from typer.testing import CliRunner

from analyses.runs.execute import run
from analyses.specs import TrainSpec
from analyses.store.run_store import Store
from apet.errors import ApetError, UsageError
from apet.subspaces import KERNELS, SparsityPattern
from apet.subspaces import kernel_calibration as costs
from apet.subspaces.kernel_calibration import costs_for_machine, fit, stored
from apet.subspaces.kernel_costs import SHIPPED, Costs, current_costs, using_costs
from apet.subspaces.sparsity_pattern import cheapest
from cli import app

OTHER = Costs(gather=4.3, side=2.9, sampled=0.218, dense=0.0224)  # constants of another processor


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("APET_KERNELS", "auto")


def rows(truth: Costs, noise=lambda i: 1.0) -> list[dict]:
    cases = [(kernel, m, n, k) for kernel in KERNELS for m, n in ((512, 512), (2048, 512)) for k in (100, 1000, 10_000)]
    return [
        {"kernel": kernel, "m": m, "n": n, "k": k, "tokens": 64, "sample": 64e-9 * truth.of(kernel, (m, n), k) * noise(i)}
        for i, (kernel, m, n, k) in enumerate(cases)
    ]


@pytest.mark.parametrize("truth", [SHIPPED, OTHER])
def test_the_fit_gives_back_the_constants_that_made_the_times(truth):
    assert asdict(fit(rows(truth))) == pytest.approx(asdict(truth))


def test_times_that_no_machine_has_give_no_constants():
    assert fit(rows(replace(OTHER, dense=1e-9))) is None
    assert fit(rows(replace(OTHER, side=0.0))) is None


def test_the_kernel_with_the_least_time_is_chosen():
    for shape, k in (((512, 512), 10), ((512, 512), 300), ((512, 512), 100_000), ((2048, 512), 3000)):
        for costs_in_use in (SHIPPED, OTHER):
            with using_costs(costs_in_use):
                times = {kernel: costs_in_use.of(kernel, shape, k) for kernel in KERNELS}
                assert times[cheapest(shape, k)] == min(times.values())
    with using_costs(OTHER):
        assert cheapest((512, 512), 400) == "gather"
    assert cheapest((512, 512), 400) == "sampled"


def test_a_machine_is_measured_once_and_said_so(monkeypatch):
    measured, messages = [], []
    monkeypatch.setattr(costs, "calibrate", lambda device: measured.append(device) or OTHER)
    assert stored() is None
    assert costs_for_machine("cpu", messages.append) == costs_for_machine("cpu", messages.append) == (OTHER, "measured")
    assert measured == ["cpu"]
    assert len(messages) == 1 and "measuring kernels on" in messages[0]
    assert list(json.loads(costs.cache().read_text())) == [costs.machine()]
    torch.set_num_threads(2)  # another setting is another machine
    try:
        assert stored() is None
    finally:
        torch.set_num_threads(1)
    costs.cache().write_text("{broken")
    assert stored() is None
    assert costs_for_machine("cpu", messages.append) == (OTHER, "measured")


def test_a_busy_machine_and_a_full_one_take_the_shipped_constants_and_say_so(monkeypatch, tmp_path):
    messages = []
    monkeypatch.setattr(costs, "calibrate", lambda device: None)
    assert costs_for_machine("cpu", messages.append) == (SHIPPED, "shipped")
    assert "busy" in messages[-1] and stored() is None
    with pytest.raises(ApetError, match="busy"):
        costs.measure()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert costs_for_machine("cpu", messages.append) == (SHIPPED, "shipped")
    assert "cannot write" in messages[-1]


def test_the_environment_asks_for_the_shipped_constants(monkeypatch):
    monkeypatch.setattr(costs, "calibrate", lambda device: pytest.fail("measured"))
    monkeypatch.setenv("APET_KERNELS", "shipped")
    assert costs_for_machine() == (SHIPPED, "shipped")
    monkeypatch.setenv("APET_KERNELS", "fast")
    with pytest.raises(UsageError, match="APET_KERNELS=fast is not a valid setting: write auto or shipped"):
        costs_for_machine()


def test_a_calibration_times_every_kernel(monkeypatch):
    monkeypatch.setattr(costs, "_timed", lambda call, device: 1e-9 * costs.TOKENS * OTHER.of(*_case(call)))
    assert asdict(costs.calibrate()) == pytest.approx(asdict(OTHER))


def _case(call) -> tuple:
    entries = call.args[2]
    assert isinstance(entries, SparsityPattern)
    call()
    return entries.kernel, entries.shape, entries.k


def test_a_run_notes_its_constants_and_one_that_goes_on_keeps_them(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "calibrate", lambda device: OTHER)
    spec = TrainSpec(model="mini-t5-130k", task="sst2", k=20, early_stop=False, steps=2, batch=8)
    store = Store(tmp_path / "runs")
    name = run(spec, store, folder)
    assert store.env(name)["kernels"] == asdict(OTHER) | {"from": "measured"}
    assert not list(store.folder(name).glob("checkpoint*"))
    begun = Store(tmp_path / "begun")
    begun.folder(name).mkdir(parents=True)
    (begun.folder(name) / "checkpoint.kernels.json").write_text(json.dumps(asdict(SHIPPED)))
    assert run(spec, begun, folder) == name
    assert begun.env(name)["kernels"] == asdict(SHIPPED) | {"from": "the run's beginning"}
    assert current_costs() == SHIPPED  # the constants of a run are in use only during the run
    for one, other in zip(store.rows(name), begun.rows(name), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4, abs=1e-6)


def test_the_command_shows_and_measures_them(monkeypatch):
    def shown(*options: str) -> dict:
        result = CliRunner().invoke(app, ["kernels", "--device", "cpu", "--json", *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    monkeypatch.setattr(costs, "calibrate", lambda device: OTHER)
    assert shown()["measured"] is None
    assert shown("--calibrate", "--dry-run")["measured"] is None
    assert shown("--calibrate")["measured"] == shown()["measured"] == asdict(OTHER)
    assert shown()["shipped"] == asdict(SHIPPED)
