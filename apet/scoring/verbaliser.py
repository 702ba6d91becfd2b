"""Save a tuned model's template, label words and prior with its weights, so that its scores can be reproduced.

The prior is subtracted from the label-word logits (`apet.scoring.scorer`). The prior is measured on the untuned model and
cannot be measured on the tuned model, so it is part of the tuned model like the weights.
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
    """The template, the label words (C) with their token ids (C) and prior (C), and the largest number of tokens per text (`max_length`).

    The prior of a classification head is zero. A generation task has no label words.
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
        """Return the verbaliser with these fields, the output of `asdict` after JSON. Raises TypeError for missing or unknown fields."""
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**fields)

    def asks(self, task: Task) -> bool:
        """Return whether `task` has this verbaliser's name, template and label words."""
        return (self.task, self.template, self.label_words) == (task.name, task.template, tuple(task.words))

    def save(self, folder: Path) -> None:
        """Write `apet.json` into `folder`."""
        with atomic_path(folder / VERBALISER_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def saved_verbaliser(folder: Path) -> Verbaliser | None:
    """Return the verbaliser in a model's folder, None if the folder does not have one. Raises UsageError if it cannot be read."""
    path = folder / VERBALISER_FILE
    if not path.is_file():
        return None
    try:
        verbaliser = Verbaliser.read(json.loads(path.read_text(encoding="utf-8")))
        numbers = [float(value) for value in verbaliser.prior]
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} does not describe label words and their prior ({error}): export the run again, or remove the file"
        ) from error
    if not len(numbers) == len(verbaliser.label_ids):
        raise UsageError(f"{path} has {len(verbaliser.label_ids)} label words but {len(numbers)} priors: export the run again")
    return verbaliser


CARD = """# {name}, tuned on {task}

This is a standard transformers checkpoint. The prior of its label words was measured on the untuned model. Subtract the prior from the
logits of the label words; otherwise the scores differ from the measured scores. The file `apet.json` holds the prior, the template, the
label words and their token ids. Texts were cut to {max_length} tokens.

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
    scores = model(**inputs, decoder_input_ids=torch.tensor([{prefix}])).logits[0, -1]
    return scores[about["label_ids"]] - torch.tensor(about["prior"])
""",
    "causal": """    question = about["template"].partition("{{slot}}")[0].format(**example).rstrip()
    ids = [*{before}, *tokenizer(question, add_special_tokens=False).input_ids, *{stem}]
    scores = model(torch.tensor([ids])).logits[0, -1]
    return scores[about["label_ids"]] - torch.tensor(about["prior"])
""",
    "masked": """    inputs = tokenizer(about["template"].format(**example, slot=tokenizer.mask_token), return_tensors="pt")
    last = int((inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[-1])
    scores = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits[0, last]
    return scores[about["label_ids"]] - torch.tensor(about["prior"])
""",
    "head": """    return model(**tokenizer(*example.values(), return_tensors="pt")).logits[0]
""",
}
_TEXT = """# {name}, tuned on {task}

This is a standard transformers checkpoint. It answers in text, by greedy decoding. The file `apet.json` holds the template of its inputs.
Texts were cut to {max_length} tokens.
"""


def model_card(name: str, scorer: Any, form: str, auto: str) -> str:
    """Return the README of a checkpoint, which shows how to compute its answers.

    `form` is a key of `apet.models.FORMS`. `auto` is the name of the transformers class that loads the checkpoint.
    """
    about = {"name": name, "task": scorer.task.name, "max_length": scorer.max_length}
    if scorer.task.generates:
        return _TEXT.format(**about)
    example = dict.fromkeys(scorer.task.fields, "...")
    parts = {"slot": getattr(scorer, "slot", ""), "prefix": getattr(scorer, "prefix", [])}
    parts |= {"before": scorer.tokenizer.prefix, "stem": scorer.stem}
    return CARD.format(**about, code=_HEAD.format(auto=auto, example=example) + _CODE[form].format(**parts))
