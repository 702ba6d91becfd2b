"""The pages of docs/reference, made from the code: `python docs/generate.py` writes them; a test checks that they are up to date."""

from __future__ import annotations

import ast
import html
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType

REFERENCE = Path(__file__).parent / "reference"
OPTIONS = """# Options and study fields

All fields of a run. A study file and `--set` use the field's name. A command has an option of the same name, with dashes. A field that a
kind of run does not have, or that a run does not use, is an error.
"""


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *(list(row) for row in rows)]
    text = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + " --- |" * len(lines[0]), *text[1:]]) + "\n"


def options() -> str:
    """Return every field of every kind of run: a table per panel of the command line's help."""
    from analyses.specs import KINDS, PANELS, options_of

    kinds: dict[str, list[str]] = {}
    for kind, spec in KINDS.items():
        for name in options_of(spec):
            kinds.setdefault(name, []).append(kind)
    parts = [OPTIONS]
    for panel in PANELS:
        names = [name for name, owners in kinds.items() if options_of(KINDS[owners[0]])[name].panel == panel]
        cells = (_field(name, kinds[name]) for name in names)
        parts.append(f"## {panel}\n\n" + table(("field", "of", "type", "default", "meaning"), cells))
    return "\n".join(parts)


def _field(name: str, owners: list[str]) -> tuple[str, ...]:
    from analyses.specs import KINDS, defaults_of, options_of, types_of

    spec = KINDS[owners[0]]
    about, types = options_of(spec)[name], [kind.__name__ for kind in types_of(spec)[name] if kind is not NoneType]
    choices = f" One of {', '.join(about.shown_choices)}." if about.choices else ""
    return f"`{name}`", ", ".join(owners), " or ".join(types), about.default or _default(defaults_of(spec)[name]), about.help + choices


def _default(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def commands() -> str:
    """Return the help of all commands, as typer writes it."""
    cli = str(Path(__file__).parents[1] / "cli.py")
    made = [sys.executable, "-m", "typer", cli, "utils", "docs", "--name", "python cli.py", "--title", "Commands"]
    text = subprocess.run(made, check=True, capture_output=True, text=True).stdout
    return html.unescape(text).strip() + "\n"


def quantities() -> str:
    from analyses.store import quantities as registry

    parts = ["# Quantities\n", "Each row of a result holds one number. Its quantity says what the number means.\n"]
    for group in ("TRAINING", "SPECTRA", "SLICES", "PREDICTIONS", "THRESHOLDS", "FINDINGS"):
        cells = ([f"`{each.name}`", each.meaning, each.unit, each.interval, each.x] for each in getattr(registry, group))
        parts += [f"## {group.capitalize()}\n", table(("quantity", "meaning", "unit", "error or interval", "x"), cells)]
    return "\n".join(parts)


def rooms() -> str:
    """Return the purpose of each room, from the first sentence of its `__init__`."""
    root = Path(__file__).parents[1]
    parts = ["# Rooms\n", "Each package consists of rooms (subpackages). A room's `__init__.py` lists its public names.\n"]
    for package in ("apet", "landscape", "analyses", "figures"):
        inits = sorted((root / package).glob("*/__init__.py"))
        cells = ((f"`{package}/{init.parent.name}`", _first_sentence(init)) for init in inits)
        parts += [f"## {package}\n", table(("room", "purpose"), cells)]
    return "\n".join(parts)


def _first_sentence(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")


MODELS = """# Models

`--model` takes one of these names, a Hugging Face id, a folder with a checkpoint in safetensors, or a GGUF file.
[Choose a model](../howto/models.md) describes the others that load. An encoder is counted as a masked language model. The layers of T5
are the encoder's; the decoder has as many. The licence is the checkpoint's.
"""


def models() -> str:
    """Return a table of models per family."""
    from apet.models import models_table

    names = {"name": "name", "parameters": "parameters", "without_embeddings": "without embeddings", "layers": "layers",
             "licence": "licence", "source": "weights"}  # fmt: skip
    rows, parts = models_table(), [MODELS]
    for family in dict.fromkeys(row["family"] for row in rows):
        parts.append(f"## {family}\n\n" + _chosen([row for row in rows if row["family"] == family], names))
    return "\n".join(parts)


METHODS = """# Methods

`--method` takes one of these names, and `--matched` each of them except `apet`. `python cli.py methods --model NAME` counts their
parameters on a model.

`--method-option NAME=VALUE` sets an option; repeat it for more. In a study file the field is one text, `method_option: alpha=32,r=4`.
Values of a list are joined by `|`, and a text cannot contain a comma. With method `apet`, the options belong to the method in
`--matched`.

`--k K` sets the option in the column "`--k` sets" so that the number of tuned parameters is nearest to K. `--dry-run` and the result
state the option's value, the requested and the actual number.

Methods `peft:NAME` are the tuners of the installed peft with the options of their Config. They are placed on peft's own targets for the
model's type; for other types, on the projections that `lora` would choose, or on the normalisation layers (`ln_tuning`). `target_modules`
takes names joined by `|`, or `all-linear`. An option that does not fit the model is refused with peft's reason.

"Merges" says whether a run's final point is a displacement of the base model's own tensors: it can be exported as a checkpoint and appear
in slices.

A random projection (`--subspace`) of a method's parameters moves them along random lines from their initial values. The weights are linear
in z only where they are linear in the new parameters (`bitfit`, `peft:ia3`, `peft:fourierft`, `peft:shira`, ...). They are not for
products of tuned factors (`lora`, `peft:vera`, `peft:loha`, ...). Where one factor of a product starts at zero, the gradient of the other
factor is zero at the start.

"""
REFUSALS = """
## Tuners of peft that are refused

"""
ADDING = """
## Add a method

Write a file in `apet/methods` with one record `Method`: name, words and marker for figures, learning rate, and a function `build(model,
**options)` that makes the new parameters trainable and returns a `TunableModel`. List the record in `METHODS`
(`apet/methods/registry.py`). Options, the dial of `--k`, the listing and this page follow from the record.
"""


def methods() -> str:
    """Return all methods with their options, the tuners of peft that are refused, and how to add a method."""
    from apet.methods import method_named, methods_table

    rows = methods_table()
    usable = [row for row in rows if not row["reason"]]
    yes = {True: "yes", False: "no"}
    cells = (
        [f"`{row['name']}`", row["tunes"], ", ".join(f"`{name}={value}`" for name, value in row["options"].items()),
         f"`{row['k_option']}`" if row["k_option"] else "", yes[row["starts_at_base"]],
         yes[method_named(row["name"]).mergeable]]
        for row in usable
    )  # fmt: skip
    head = ("method", "tunes", "options and defaults", "`--k` sets", "starts at the base model", "merges")
    refused = ([f"`{row['name']}`", row["reason"].removeprefix("is not supported: ")] for row in rows if row["reason"])
    return METHODS + table(head, cells) + REFUSALS + table(("tuner", "reason"), refused) + ADDING


def tasks() -> str:
    from apet.tasks import KEYS, tasks_table

    head = (
        "# Tasks\n\n`--task` takes one of these names, or a [task file](#task-files). `--data` gives the folder of tasks that are read "
        "from files.\n\n## Built-in tasks\n\n"
    )
    names = {"name": "name", "classes": "classes", "metric": "metric", "template": "template", "label_words": "label words",
             "source": "source", "about": "about"}  # fmt: skip
    keys = ([f"`{key}`", meaning] for key, meaning in KEYS.items())
    files = "\n## Task files\n\nA YAML file with these keys describes a task. See [Use your own data](../howto/own-data.md).\n\n"
    return head + _chosen(tasks_table(), names) + files + table(("key", "meaning"), keys)


def _chosen(rows: list[dict], names: dict[str, str]) -> str:
    return table(names.values(), ([_shown(row[name]) for name in names] for row in rows))


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


PAGES: dict[str, Callable[[], str]] = {each.__name__: each for each in (options, commands, quantities, models, methods, tasks, rooms)}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / f"{name}.md").write_text(page(), encoding="utf-8")
