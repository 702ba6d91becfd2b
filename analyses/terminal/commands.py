"""Register commands. Options come from the fields of the runs that a command starts; errors become one line and an exit code."""

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
    help="Measure how many parameters of a pretrained language model must be tuned, and analyse the model's loss landscape.",
)  # fmt: skip
OUTPUT = "Output"
TARGETS = targets_help()
Device = Annotated[str, typer.Option(help="Device: auto, cpu or cuda.", rich_help_panel=OUTPUT)]
Out = Annotated[Path, typer.Option(help="Folder of results.", rich_help_panel=OUTPUT)]
Resume = Annotated[
    bool, typer.Option("--resume/--force", help="Resume from saved results, or delete them and start again.", rich_help_panel=OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout; logs go to stderr.", rich_help_panel=OUTPUT)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the planned work with its size and cost, then exit.", rich_help_panel=OUTPUT)
]

Aim = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="KIND:AMOUNT", help="Target of the thresholds, as in 'intrinsic-dim'. \\[default: the study's targets]"
    ),
]
Fraction = Annotated[float | None, typer.Option(help="Short for --target fraction:AMOUNT.", min=0.01, max=0.99)]
Runs = Annotated[Path, typer.Argument(help="Folder of a study's results, for instance results/demo.")]
Results = Annotated[Path, typer.Argument(help="Folder of a study's results, for instance results/demo, or a .parquet file of its rows.")]
CheckedTask = Annotated[str | None, typer.Option(metavar="TASK", help="Check this task instead: a YAML file, or a name of the list.")]
ReadingModel = Annotated[str | None, typer.Option(help="With --check: show examples as this model reads them. \\[default: mini-t5-790k]")]
TaskFolder = Annotated[Path | None, typer.Option(help="With --check: folder with the task's data. \\[default: the task's source]")]
MaxLength = Annotated[int | None, typer.Option(help="With --check: maximum tokens per example. \\[default: 128]", min=1)]
HavingOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="List only the methods that have this option, with this value (repeat it for more)."),
]
At = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Folder of a finished training run: evaluate at its final point, in the coordinates that it tuned. The run's method must be apet; a slice also accepts full, bitfit and lora with --keep-end.",
        rich_help_panel="Evaluation point",
    ),
]


CLUSTER = "Cluster"
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Compute the runs on a Ray cluster: auto (the cluster of this machine), HOST:PORT, or local (this machine alone).",
        rich_help_panel=CLUSTER,
    ),
]
Cpus = Annotated[
    float | None, typer.Option(help="With --ray: cores that a run reserves. \\[default: 1]", min=0.01, rich_help_panel=CLUSTER)
]
Gpus = Annotated[
    float | None,
    typer.Option(
        help="With --ray: GPUs that a run reserves; 0.25 lets four runs share one. \\[default: 0]", min=0, rich_help_panel=CLUSTER
    ),
]
Memory = Annotated[
    float | None, typer.Option(help="With --ray: memory that a run reserves, in GB. \\[default: none]", min=0, rich_help_panel=CLUSTER)
]
Leases = Annotated[
    bool,
    typer.Option(
        "--leases",
        help="Claim runs by files that their process renews, for machines that share a folder by a network. \\[default: detected]",
        rich_help_panel=CLUSTER,
    ),
]


@dataclass(frozen=True)
class Given:
    """Common options of commands that start runs: fields of specs, data, device, results folder and other settings."""

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
        """The device, determined at first use because this imports torch."""
        return on_device(self.device_name)

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """Fields from options and --set; --set takes precedence."""
        from apet.yaml_lines import read_value

        chosen = dict(self.fields)
        for assignment in self.set_:
            name, equals, value = assignment.partition("=")
            if not equals:
                raise UsageError(f"--set {assignment} is not an assignment: write --set FIELD=VALUE")
            chosen[name] = read_value(value)
        return chosen

    @property
    def seeds(self) -> dict[str, int]:
        return {} if self.seed is None else {"position_seed": self.seed, "train_seed": self.seed}

    def named(self, kind: type[Spec]) -> tuple[dict[str, Any], Callable[[str], str]]:
        """Return (fields, field -> prefix of an error). Precedence: --config < --seed < options < --set. Raise UsageError for another kind."""
        from apet.yaml_lines import Mapping, read_yaml

        content = Mapping({}, "", {}) if self.config is None else read_yaml(self.config, "config")
        fields = {**content, **self.seeds, **self.chosen}
        if fields.pop("kind", kind.kind) != kind.kind:
            raise UsageError(f"{self.config} describes another kind of run: this command starts '{kind.kind}' runs")
        return fields, lambda name: content.at(name) if name in content and name not in self.chosen else ""

    def spec(self, kind: type[Spec], **defaults: Any) -> Any:
        """Return the spec of a run of this kind. Values from `defaults` and --seed are dropped for fields that the run does not use."""
        fields, where = self.named(kind)
        shared = (defaults.keys() - fields.keys()) | (self.seeds.keys() - self.chosen.keys())
        return spec_from({**defaults, **fields, "kind": kind.kind}, where, shared)

    def inputs(self, spec: Spec) -> Any:
        """Return the inputs of a run (analyses.runs.Inputs). For a dry run of a model that is too large, the model has shapes only."""
        from analyses.runs import inputs, too_large

        return inputs(spec, self.data, self.device, shapes_only=self.dry_run and bool(too_large(spec, self.device)))

    def run(self, spec: Spec, store: Any, track: str | None = None) -> str:
        """Run `spec` with a progress bar and return the run's id."""
        from analyses.runs import run

        with bar() as report:
            return run(spec, store, self.data, self.device, report, force=not self.resume, track=track)

    def through(self, runs: list[Path], name: str, methods: bool = False) -> tuple[Any, Given, dict[str, Any]]:
        """Return (store, self with the first of `runs` as the field `at`, default fields from that run)."""
        from analyses.runs import fields_at
        from analyses.store import Store

        if not runs:
            return Store(self.out / name), self, {"examples": 64}
        runs = [path.resolve() for path in runs]
        if len({path.parent for path in runs}) > 1:
            parents = " and ".join(sorted({str(path.parent) for path in runs}))
            raise UsageError(f"the runs of a slice must be in one folder of results, but these are in {parents}")
        store = Store(runs[0].parent)
        return store, replace(self, fields={**self.fields, "at": runs[0].name}), {"examples": 64} | fields_at(store, runs[0].name, methods)


def _given(
    data: Annotated[Path | None, typer.Option(help="Folder with train and validation files (.jsonl, .csv, .tsv, .parquet).", rich_help_panel="Data")] = None,
    seed: Annotated[int | None, typer.Option(help="Set both the position seed and the train seed.", rich_help_panel="Tuned parameters")] = None,
    device: Device = "auto", out: Out = Path("results"),
    config: Annotated[Path | None, typer.Option(help="YAML file with fields of the run; command-line options take precedence.", rich_help_panel=OUTPUT)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set any field, for instance --set batch=8; overrides all other settings.", rich_help_panel=OUTPUT)] = None,
    resume: Resume = True, json: Json = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Declare the options that all run-starting commands share."""


def command(name: str, *kinds: type[Spec], without: Collection[str] = ()) -> Callable:
    """Return a decorator that registers a command. Errors of the command become one line on stderr and an exit code (`apet.errors`).

    With `kinds`, the command has all fields of these kinds as options, except the fields in `without`. It receives a `Given` as its first
    argument.
    """
    fields = parameters(kinds, without) if kinds else []
    shared = list(inspect.signature(_given, eval_str=True).parameters.values()) if kinds else []

    def register(function: Callable) -> Callable:
        signature = inspect.signature(function, eval_str=True).parameters.values()
        specific = [parameter for parameter in signature if parameter.name != "given"]
        taken = {parameter.name for parameter in specific}

        @functools.wraps(function)
        def guarded(**values: Any) -> None:
            try:
                if kinds:
                    chosen = {option.name: values.pop(option.name) for option in fields if option.name not in taken}
                    common = {option.name: values.pop(option.name) for option in shared}
                    common |= {"set_": common["set_"] or [], "device_name": common.pop("device")}
                    chosen = {name: ",".join(value) if isinstance(value, list) else value for name, value in chosen.items() if value != []}
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
                log.print("interrupted: finished runs are saved; run the same command without --force to resume")
                raise typer.Exit(130) from None

        options = [option for option in fields if option.name not in taken] + specific + shared if kinds else specific
        options = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
        guarded.__signature__ = inspect.Signature(options)  # pyright: ignore[reportAttributeAccessIssue]
        guarded.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")  # typer keeps line breaks
        guarded.__annotations__ = {option.name: option.annotation for option in options}
        return app.command(name)(guarded)

    return register


def launcher(ray: str | None, jobs: int, device: str, cpus: float | None, gpus: float | None, memory: float | None) -> Any:
    """Return the function (analyses.studies.Launch) that computes the runs of a study: in processes of this machine, or on a Ray cluster."""
    from analyses.studies import Request, run_on_cluster, run_study

    asked = {name: value for name, value in (("cpus", cpus), ("gpus", gpus), ("memory", memory)) if value is not None}
    if ray is None and asked:
        raise UsageError(f"--{next(iter(asked))} is for a cluster: give --ray, too")
    if ray is None:
        return functools.partial(run_study, jobs=jobs)
    if jobs > 1 or device != "auto":
        raise UsageError("the cluster decides where runs are computed, on a GPU with --gpus: leave out --jobs and --device")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise UsageError(f"a run reserves a part of one GPU or whole GPUs (got: {gpus:g})")
    return functools.partial(run_on_cluster, address=ray, request=Request(**asked))


def on_device(name: str) -> str:
    """Return the device of this process; under torchrun each process has its own GPU. Raise UsageError for a missing device."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device '{name}': give auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device on this machine: use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # torchrun: one GPU per process


def aim_of(target: str | None, fraction: float | None) -> Any:
    """Return the target from --target or --fraction, or None if neither is given."""
    from analyses.thresholds import Target

    if target is not None and fraction is not None:
        raise UsageError("--fraction is short for --target fraction:AMOUNT: give only one of --fraction and --target")
    return Target.parse(target) if target is not None else None if fraction is None else Target("fraction", fraction)
