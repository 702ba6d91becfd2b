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

    The token ids of a word are one id, or a tuple of ids if whole words are scored. The prior of a classification head is zero. A
    generation task has no label words. `prompt` is "plain", or "chat" for texts in a chat template. `scale` is the mean and standard
    deviation of a regression's targets, in whose units its head answers.
    """

    task: str
    template: str
    label_words: tuple[str, ...]
    label_ids: tuple[int | tuple[int, ...], ...]
    prior: tuple[float, ...]
    max_length: int
    prompt: str = "plain"
    scale: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, scorer: Any) -> Verbaliser:
        """Return the verbaliser of a `Scorer`."""
        task, prior = scorer.task, tuple(scorer.prior.tolist())
        ids = tuple(map(tuple, scorer.label_tokens)) if scorer.whole else tuple(scorer.label_ids.tolist())
        return cls(task.name, task.template, tuple(task.words), ids, prior, scorer.max_length, _prompt(scorer), scorer.scale)

    @classmethod
    def read(cls, values: dict[str, Any]) -> Verbaliser:
        """Return the verbaliser with these fields, the output of `asdict` after JSON. Raises TypeError for missing or unknown fields."""
        return cls(**{name: _tuples(value) for name, value in values.items()})

    def asks(self, task: Task, prompt: str = "plain") -> bool:
        """Return whether `task` has this verbaliser's name, template, label words and prompt."""
        return (self.task, self.template, self.label_words, self.prompt) == (task.name, task.template, tuple(task.words), prompt)

    def save(self, folder: Path) -> None:
        """Write `apet.json` into `folder`."""
        with atomic_path(folder / VERBALISER_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _prompt(scorer: Any) -> str:
    return "chat" if getattr(scorer, "chat", False) else "plain"


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
scores of the label words; otherwise they differ from the measured scores. The file `apet.json` holds the prior, the template, the label
words and their token ids. Texts were cut to {max_length} tokens.

```python
{code}```
"""
_NUMBER = """# {name}, tuned on {task}

This is a standard transformers checkpoint. Its head predicts a number in units of the standard deviation of the training targets. The file
`apet.json` holds their mean and standard deviation (`scale`). Texts were cut to {max_length} tokens.

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
def {function}(example):  # for instance {example}
"""
_QUESTION = """    text = about["template"].partition("{{slot}}")[0].format(**example).rstrip()
"""
_CHAT = """    text = tokenizer.apply_chat_template([{{"role": "user", "content": text}}], tokenize=False, add_generation_prompt=True)
"""
_CAUSAL = """    ids = [*{before}, *tokenizer(text, add_special_tokens=False).input_ids, *{stem}]
"""
_ENCODED = """    inputs = tokenizer(about["template"].format(**example, slot={slot!r}), return_tensors="pt")
"""
_PRIOR = """    return scores[about["label_ids"]] - torch.tensor(about["prior"])
"""
# the logit of the first token that the label words do not share
_FIRST = {
    "encoder-decoder": _ENCODED + """    scores = model(**inputs, decoder_input_ids=torch.tensor([{prefix}])).logits[0, -1]
""" + _PRIOR,
    "causal": _CAUSAL + """    scores = model(torch.tensor([ids])).logits[0, -1]
""" + _PRIOR,
    "masked": """    inputs = tokenizer(about["template"].format(**example, slot=tokenizer.mask_token), return_tensors="pt")
    last = int((inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[-1])
    scores = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits[0, last]
""" + _PRIOR,
}  # fmt: skip
# the mean log-probability of the tokens of a whole label word
_WORDS = """    scores = []
    for word in about["label_ids"]:
"""
_MEAN = """        scores.append(logits.log_softmax(-1).gather(1, torch.tensor(word)[:, None]).mean())
    return torch.stack(scores) - torch.tensor(about["prior"])
"""
_WHOLE = {
    "encoder-decoder": _ENCODED + _WORDS + """        decoder = torch.tensor([[*{prefix}, *word]])
        logits = model(**inputs, decoder_input_ids=decoder).logits[0, -len(word) - 1 : -1]
""" + _MEAN,
    "causal": _CAUSAL + _WORDS + """        logits = model(torch.tensor([[*ids, *word]])).logits[0, -len(word) - 1 : -1]
""" + _MEAN,
    "masked": _WORDS + """        text = about["template"].format(**example, slot=tokenizer.mask_token * len(word))
        inputs = tokenizer(text, return_tensors="pt")
        masks = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[-len(word) :, 0]
        logits = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits[0, masks]
""" + _MEAN,
}  # fmt: skip
_CLASSES = """    return model(**tokenizer(*example.values(), return_tensors="pt")).logits[0]
"""
_TARGET = """    mean, deviation = about["scale"]
    return mean + deviation * model(**tokenizer(*example.values(), return_tensors="pt")).logits[0, 0]
"""
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
    parts = {"slot": getattr(scorer, "slot", ""), "prefix": getattr(scorer, "prefix", []), "stem": scorer.stem}
    parts |= {"before": getattr(scorer, "before", []), "auto": auto, "example": example}
    parts |= {"function": "target" if scorer.task.regresses else "logits"}
    code = (_HEAD + _code(scorer, form)).format(**parts)
    return (_NUMBER if scorer.task.regresses else CARD).format(**about, code=code)


def _code(scorer: Any, form: str) -> str:
    if form == "head":
        return _TARGET if scorer.task.regresses else _CLASSES
    chat = _CHAT if _prompt(scorer) == "chat" else ""
    return (_QUESTION + chat if form == "causal" else "") + (_WHOLE if scorer.whole else _FIRST)[form]
