"""How a tuned model is asked and how its answer is read, kept beside its weights so that its scores can be had again.

Label-word logits are compared after the label words' prior is subtracted (`apet.scoring.scorer`). The prior is measured on the untuned
model, so it cannot be measured again on the tuned one: it is a part of the tuned model, like its weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apet.errors import UsageError
from apet.files import atomic_path
from apet.tasks import Task

VERBALISER_FILE = "apet.json"


@dataclass(frozen=True)
class Verbaliser:
    """Template, label words (C) with their token ids (C) and prior (C), and the most tokens of a text (`max_length`).

    A classification head has a prior of zeros; a task that asks for text has no label words.
    """

    task: str
    template: str
    label_words: tuple[str, ...]
    label_ids: tuple[int, ...]
    prior: tuple[float, ...]
    max_length: int

    @classmethod
    def of(cls, scorer: Any) -> Verbaliser:
        """Return the verbaliser of a `Scorer`."""
        task, ids, prior = scorer.task, scorer.label_ids.tolist(), scorer.prior.tolist()
        return cls(task.name, task.template, tuple(task.words), tuple(ids), tuple(prior), scorer.max_length)

    @classmethod
    def read(cls, values: dict[str, Any]) -> Verbaliser:
        """Return the one that `asdict` made of it, after JSON. Raises TypeError where fields are missing or unknown."""
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**fields)

    def asks(self, task: Task) -> bool:
        """Return whether `task` is asked and answered in the same words."""
        return (self.task, self.template, self.label_words) == (task.name, task.template, tuple(task.words))

    def save(self, folder: Path) -> None:
        """Write `apet.json` into `folder`."""
        with atomic_path(folder / VERBALISER_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def saved_verbaliser(folder: Path) -> Verbaliser | None:
    """Return the verbaliser in a model's folder, None where there is none. Raises UsageError for a file that cannot be read."""
    path = folder / VERBALISER_FILE
    if not path.is_file():
        return None
    try:
        verbaliser = Verbaliser.read(json.loads(path.read_text(encoding="utf-8")))
        numbers = [float(value) for value in verbaliser.prior]
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} does not describe label words and their prior ({error}): export the run again, or remove it") from error
    if not len(numbers) == len(verbaliser.label_ids):
        raise UsageError(f"{path} has {len(verbaliser.label_ids)} label words and {len(numbers)} priors: export the run again")
    return verbaliser


CARD = """# {name}, tuned on {task}

This is an ordinary transformers checkpoint. Its label words' prior, measured on the untuned model, belongs to it: it is subtracted from
the logits of the label words, and without it the scores are not those that were measured. It stands in `apet.json` together with the
template, the label words and their token ids. Texts were cut to {max_length} tokens.

```python
{code}```
"""

_HEAD = """import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, {auto}

folder = "."
tokenizer, model = AutoTokenizer.from_pretrained(folder), {auto}.from_pretrained(folder).eval()
about = json.loads(Path(folder, "apet.json").read_text())


@torch.no_grad()
def logits(example):  # for instance {example}
"""
_CODE = {
    "encoder-decoder": """    inputs = tokenizer(about["template"].format(**example, slot={slot!r}), return_tensors="pt")
    found = model(**inputs, decoder_input_ids=torch.tensor([{prefix}])).logits[0, -1]
    return found[about["label_ids"]] - torch.tensor(about["prior"])
""",
    "causal": """    question = about["template"].partition("{{slot}}")[0].format(**example).rstrip()
    ids = [*{before}, *tokenizer(question, add_special_tokens=False).input_ids, *{stem}]
    found = model(torch.tensor([ids])).logits[0, -1]
    return found[about["label_ids"]] - torch.tensor(about["prior"])
""",
    "masked": """    inputs = tokenizer(about["template"].format(**example, slot=tokenizer.mask_token), return_tensors="pt")
    last = int((inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[-1])
    found = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits[0, last]
    return found[about["label_ids"]] - torch.tensor(about["prior"])
""",
    "head": """    return model(**tokenizer(*example.values(), return_tensors="pt")).logits[0]
""",
}
_TEXT = """# {name}, tuned on {task}

This is an ordinary transformers checkpoint. It answers in text, by greedy decoding. The template that it was asked with stands in
`apet.json`; texts were cut to {max_length} tokens.
"""


def model_card(name: str, scorer: Any, form: str, auto: str) -> str:
    """Return the README of a checkpoint of this form (`apet.models.FORMS`), which the transformers class `auto` loads: how to ask it."""
    about = {"name": name, "task": scorer.task.name, "max_length": scorer.max_length}
    if scorer.task.generates:
        return _TEXT.format(**about)
    example = dict.fromkeys(scorer.task.fields, "...")
    parts = {"slot": getattr(scorer, "slot", ""), "prefix": getattr(scorer, "prefix", [])}
    parts |= {"before": scorer.tokenizer.prefix, "stem": scorer.stem}
    return CARD.format(**about, code=_HEAD.format(auto=auto, example=example) + _CODE[form].format(**parts))
