"""How a command is registered: its options from the fields of the runs that it starts, its errors as one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.specs import KINDS, Spec, spec_from
from analyses.studies import terminable
from analyses.terminal.parameters import as_flag, parameters
from analyses.terminal.printing import bar, log, say
from analyses.thresholds import targets_help
from apet.errors import ApetError, UsageError

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="How much of a pretrained language model must be tuned, and what its loss landscape says about it.",
)  # fmt: skip
OUTPUT = "Output"
TARGETS = targets_help()
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=OUTPUT)]
Out = Annotated[Path, typer.Option(help="Folder of results.", rich_help_panel=OUTPUT)]
Resume = Annotated[
    bool, typer.Option("--resume/--force", help="Go on from what is there, or throw it away and start again.", rich_help_panel=OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; logs go to stderr.", rich_help_panel=OUTPUT)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be run, its size and cost, and stop.", rich_help_panel=OUTPUT)]

Aim = Annotated[
    str | None,
    typer.Option("--target", metavar="KIND:AMOUNT", help="Threshold target, as in 'intrinsic-dim'. \\[default: the study's own]"),
]
Fraction = Annotated[float | None, typer.Option(help="Short for --target fraction:AMOUNT.", min=0.01, max=0.99)]
Results = Annotated[Path, typer.Argument(help="Folder of a study's results, for instance results/demo; or their rows in a .parquet file.")]
At = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Folder of a finished training run of method apet: where it ended, in the coordinates that it tuned. A slice also takes full, bitfit and lora with --keep-end.",
        rich_help_panel="Where",
    ),
]


@dataclass(frozen=True)
class Given:
    """What a command that starts runs was given, beside options of its own: fields of specs, and where and how to run."""

    fields: dict[str, Any]
    data: Path | None
    seed: int | None
    device_name: str
    out: Path
    config: Path | None
    set_: list[str]
    resume: bool
    json: bool
    dry_run: bool

    @cached_property
    def device(self) -> str:
        """The device, looked for when it is needed: that imports torch."""
        return on_device(self.device_name)

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """The fields by options < --set."""
        from analyses.studies import read_value

        chosen = dict(self.fields)
        for assignment in self.set_:
            name, equals, value = assignment.partition("=")
            if not equals:
                raise UsageError(f"--set {assignment}: write FIELD=VALUE")
            chosen[name] = read_value(value)
        return chosen

    @property
    def seeds(self) -> dict[str, int]:
        return {} if self.seed is None else {"position_seed": self.seed, "train_seed": self.seed}

    def named(self, kind: type[Spec]) -> tuple[dict[str, Any], Callable[[str], str]]:
        """(fields by --config < --seed < options < --set, what an error about a field begins with). UsageError for another `kind`."""
        from analyses.studies import Mapping, read_yaml

        content = Mapping({}, "", {}) if self.config is None else read_yaml(self.config, "config")
        fields = {**content, **self.seeds, **self.chosen}
        if fields.pop("kind", kind.kind) != kind.kind:
            raise UsageError(f"the configuration describes another kind of run: this command makes '{kind.kind}' runs")
        return fields, lambda name: content.at(name) if name in content and name not in self.chosen else ""

    def spec(self, kind: type[Spec], **defaults: Any) -> Any:
        """The spec of a run of this kind; `defaults` and --seed are of no account where the run does not use them."""
        fields, where = self.named(kind)
        shared = (defaults.keys() - fields.keys()) | (self.seeds.keys() - self.chosen.keys())
        return spec_from({**defaults, **fields, "kind": kind.kind}, where, shared)

    def run(self, spec: Spec, store: Any, track: str | None = None) -> str:
        """Run `spec` with a progress bar; the run's id."""
        from analyses.runs import run

        with bar() as report:
            return run(spec, store, self.data, self.device, report, force=not self.resume, track=track)

    def through(self, runs: list[Path], name: str, methods: bool = False) -> tuple[Any, Given, dict[str, Any]]:
        """(the store, what was given with the first of the runs as the field `at`, the fields that a run at their ends takes over)."""
        from analyses.runs import fields_at
        from analyses.store import Store

        if not runs:
            return Store(self.out / name), self, {"examples": 64}
        runs = [path.resolve() for path in runs]
        if len({path.parent for path in runs}) > 1:
            raise UsageError(
                f"the runs of a slice lie in one folder of results, these in {' and '.join(sorted({str(p.parent) for p in runs}))}"
            )
        store = Store(runs[0].parent)
        return store, replace(self, fields={**self.fields, "at": runs[0].name}), {"examples": 64} | fields_at(store, runs[0].name, methods)


def _given(
    data: Annotated[Path | None, typer.Option(help="Folder with train.jsonl and validation.jsonl in the task's field names.", rich_help_panel="Data")] = None,
    seed: Annotated[int | None, typer.Option(help="Sets both the position seed and the train seed.", rich_help_panel="What is tuned", min=0)] = None,
    device: Device = "auto", out: Out = Path("results"),
    config: Annotated[Path | None, typer.Option(help="YAML file with fields of the run; options on the command line win.", rich_help_panel=OUTPUT)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set any field of the run, for instance --set batch=8; wins over all.", rich_help_panel=OUTPUT)] = None,
    resume: Resume = True, json: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """The options that all commands share which start runs."""


def command(name: str, *kinds: type[Spec], without: Collection[str] = ()) -> Callable:
    """Register a command whose errors are one line on stderr and the contract's exit code.

    With `kinds` it takes their fields as options, but those of `without`, and gets what was given as its first argument.
    """
    fields = parameters(kinds, without) if kinds else []
    shared = list(inspect.signature(_given, eval_str=True).parameters.values()) if kinds else []

    def register(function: Callable) -> Callable:
        own = [each for each in inspect.signature(function, eval_str=True).parameters.values() if each.name != "given"]
        taken = {each.name for each in own}

        @functools.wraps(function)
        def guarded(**values: Any) -> None:
            try:
                if kinds:
                    chosen = {each.name: values.pop(each.name) for each in fields if each.name not in taken}
                    common = {each.name: values.pop(each.name) for each in shared}
                    common |= {"set_": common["set_"] or [], "device_name": common.pop("device")}
                    values["given"] = Given({name: value for name, value in chosen.items() if value is not None}, **common)
                with terminable():
                    function(**values)
            except ApetError as error:
                say(
                    "" if error.exit_code == 130 else "error:",
                    error.told(lambda field, value: as_flag(field, value, kinds or tuple(KINDS.values()))),
                )
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                log.print("interrupted; finished runs are kept, the same command (without --force) goes on from there")
                raise typer.Exit(130) from None

        options = [each for each in fields if each.name not in taken] + own + shared if kinds else own
        options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in options]
        guarded.__signature__ = inspect.Signature(options)  # pyright: ignore[reportAttributeAccessIssue]
        guarded.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")  # typer keeps line breaks
        guarded.__annotations__ = {each.name: each.annotation for each in options}
        return app.command(name)(guarded)

    return register


def on_device(name: str) -> str:
    """The device of a process: its own GPU under torchrun. UsageError for one that is not here."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device '{name}': auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device on this machine: use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # one GPU a process under torchrun


def aim_of(target: str | None, fraction: float | None) -> Any:
    """The target that --target or --fraction names, None where neither is given."""
    from analyses.thresholds import Target

    if target is not None and fraction is not None:
        raise UsageError("--fraction is short for --target fraction:AMOUNT: give one of them")
    return Target.parse(target) if target is not None else None if fraction is None else Target("fraction", fraction)
