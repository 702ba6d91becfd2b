"""Runs with chat prompts: another identity and protocol, and points that are evaluated with the prompts of their run."""

from dataclasses import replace

import pytest
from tiny_cases import saved

from analyses.runs.evaluation_point import fields_at, point
from analyses.runs.execute import run
from analyses.runs.run_inputs import Context, inputs
from analyses.specs import SpectrumSpec, TrainSpec
from analyses.store import Store
from apet.models.ladder import ladder_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    tokenizer = ladder_tokenizer("bloom")
    tokenizer.chat_template = "{% for m in messages %}[CLS]{{ m['content'] }}[SEP]{% endfor %}"
    return str(saved("llama", tmp_path_factory.mktemp("chat"), tokenizer))


def test_a_spectrum_at_a_run_has_the_runs_prompts(model, folder, tmp_path):
    spec = TrainSpec(model=model, task="sst2", k=20, steps=5, batch=8, prompt="chat", early_stop=False)
    store = Store(tmp_path)
    name = run(spec, store, folder)
    (final,) = [row for row in store.rows(name) if (row.quantity, row.split) == ("loss", "train")]
    assert final.protocol == "all examples, chat prompts"
    assert name != run(replace(spec, prompt="plain"), store, folder)
    fields = fields_at(store, name)
    assert fields["prompt"] == "chat"
    at = SpectrumSpec(**{field: value for field, value in fields.items() if field != "weights"}, at=name)
    with point(at, inputs(at, folder), Context(store.folder("other"), lambda *_: None)) as here:
        assert here.objective.loss(here.z) == pytest.approx(final.value, rel=1e-4)
