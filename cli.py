"""The command line: every command, its own options, and what it prints. No maths here; torch is imported inside commands only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import analyses.results
import analyses.runs
import analyses.specs
import analyses.store
import analyses.studies
import analyses.thresholds
import apet.machine
import apet.models
import apet.pretraining
import apet.subspaces
import apet.tasks
from analyses import terminal as ui
from analyses.specs import PredictSpec, SliceSpec, SpectrumSpec, TrainSpec
from apet.errors import ApetError, MissingInput, UsageError, lookup

app = ui.app
OUTPUT, SEARCH, WHERE = "Output", "Threshold", "Where"
# Fields that a search sets itself, or that --set alone sets for it.
OWN = ("method", "k", "matched", "early_stop", "readout", "test", "trajectory", "keep_end", "operations", "unit", "order", "position_seed")
RARE = ("weights", "attention", "max_length", "accumulate", "schedule", "warmup", "clip", "weight_decay", "gradient_checkpointing")
RARE += ("algorithm", "lanczos_steps", "probes")


@ui.command("train", TrainSpec)
def train(
    given: ui.Given,
    track: Annotated[str | None, Option(help="A tracker of accelerate's, such as tensorboard, that follows the run.", rich_help_panel=OUTPUT)] = None,
) -> None:  # fmt: skip
    """Tune a model on a task and evaluate it on the validation split.

    Under 'accelerate launch' each process takes its share of every batch. With --dry-run a few steps are rehearsed on this machine, unless
    the model is too large for it.
    """
    spec = given.spec(TrainSpec)
    if given.dry_run:
        shapes_only = analyses.runs.too_large(spec)
        found = analyses.runs.inputs(spec, given.data, given.device, shapes_only)
        rehearsal = {} if shapes_only else analyses.runs.rehearse(spec.resolved(), found)
        return ui.print_result(analyses.runs.check(spec, found) | rehearsal, given.json)
    store = analyses.store.Store(given.out / "train")
    name = given.run(spec, store, track)
    if not apet.machine.is_main_process():  # the main one commits, and tells
        return
    summary = analyses.results.train_summary(name, store)
    ui.print_result(summary, given.json)
    if summary["diverged"] is not None:
        raise ApetError(f"the run diverged at step {summary['diverged']}; lower the learning rate, or search for one", lr=..., find_lr=True)


@ui.command("intrinsic-dim", TrainSpec, PredictSpec, without=OWN + RARE)
def intrinsic_dim(
    given: ui.Given,
    target: Annotated[str | None, Option(metavar="KIND:AMOUNT", help=f"{ui.TARGETS} \\[default: fraction:0.9]", rich_help_panel=SEARCH)] = None,
    fraction: Annotated[float | None, Option(help="Short for --target fraction:AMOUNT. \\[default: 0.9]", min=0.01, max=0.99, rich_help_panel=SEARCH)] = None,
    runs: Annotated[int | None, Option(help="At most this many APET runs, in rounds of 4, 3, 3, ... \\[default: 14]", min=4, rich_help_panel=SEARCH)] = None,
    k_min: Annotated[int | None, Option(help="The smallest k tried. \\[default: 4]", min=1, rich_help_panel=SEARCH)] = None,
    k_max: Annotated[int | None, Option(help="The largest k tried. \\[default: 4096]", min=1, rich_help_panel=SEARCH)] = None,
    measure: Annotated[bool, Option("--measure/--no-measure", help="Train over k and regress the crossing.", rich_help_panel=SEARCH)] = True,
    predict: Annotated[bool, Option("--predict/--no-predict", help="Predict without training: from the Gauss-Newton matrix at the pretrained point and along the linearised model's path.", rich_help_panel=SEARCH)] = True,
) -> None:  # fmt: skip
    """Measure the smallest number k* of parameters that reaches a target, with an interval, and predict it without training.

    The 95 % interval is of a search in rounds; where no k reaches the target, every k does, or the untuned model meets it, the answer
    says so in place of a number. A metric target is mapped to the training loss at which full fine-tuning crosses it.
    Everything is on a fixed set of training examples (128 by default, in batches of 16) without early stop, because the prediction speaks
    of the training loss at its minimum. With n examples of C classes no prediction can exceed n (C - 1); above 30 % of that, and where the
    quadratic at the pretrained point does not reach the target (often at a fraction of .7 or more), it is censored.
    """
    if not (measure or predict):
        raise UsageError("nothing to do with both --no-measure and --no-predict")
    if not measure and (runs or k_min or k_max):
        raise UsageError("--runs, --k-min and --k-max have no effect with --no-measure: they are for the search")
    aim = analyses.studies.Search.single(ui.aim_of(target, fraction), runs, k_min, k_max)
    fields, where = given.named(TrainSpec)
    analyses.specs.spec_from(fields | {"k": 1}, where, shared=fields)  # so that an error names its line
    fields = {"examples": 128, "batch": 16, "readout": "words"} | fields
    if given.dry_run:
        specs = analyses.thresholds.plan(fields, aim, predict, measure, given.data)
        found = analyses.runs.inputs(specs[0], given.data, given.device)
        planned = [analyses.runs.check(each, found) for each in specs]
        return ui.print_result(analyses.thresholds.planned_cost(planned, aim, measure), given.json)
    store, search = analyses.store.Store(given.out / "intrinsic-dim"), analyses.thresholds.intrinsic_dim
    with ui.bar() as report:
        result, _ = search(fields, store, aim, predict, measure, given.data, given.device, report, not given.resume)
    ui.print_result(result, given.json)


@ui.command("spectrum", SpectrumSpec)
def spectrum(
    given: ui.Given, at: ui.At = None,
    along: Annotated[bool, Option("--along", help="With --at: at every step of the trajectory, one spectrum each.", rich_help_panel=WHERE)] = False,
) -> None:  # fmt: skip
    """Curvature of the loss in k random coordinates or another subspace, at the pretrained point or where a run ended: eigenvalues, density, N_eff.

    A Gauss-Newton matrix of label words is exact at the cost of a gradient; other matrices by k products where that is less than Lanczos
    takes. The job goes on where it was stopped. Under 'accelerate launch' each process takes its share of the batches. 64 examples by
    default, or those of the run at --at.
    """
    store, given, defaults = given.through([at] if at else [], "spectrum")
    spec = given.spec(SpectrumSpec, **defaults)
    specs = analyses.runs.along_trajectory(spec, store) if along else [spec]
    planned = analyses.runs.check(spec, analyses.runs.inputs(spec, given.data, given.device))
    if given.dry_run:
        return ui.print_result(planned, given.json)
    products, examples = planned["products"], planned["train_examples"]
    ui.log.print(f"{planned['algorithm']}: at most {products:,} products on {examples} examples", highlight=False)
    names = [given.run(each, store) for each in specs]
    if apet.machine.is_main_process():  # it commits, and tells
        found = [analyses.results.spectrum_summary(name, store) for name in names]
        ui.print_result({"along": found} if along else found[0], given.json)


@ui.command("slice", SliceSpec)
def slice_(
    given: ui.Given, at: ui.At = None,
    to: Annotated[list[Path] | None, Option(metavar="RUN", help="optima: another run of the same model and task, for a line; twice for a plane, and so on. Other position seeds, k and methods (full, bitfit, lora with --keep-end) may be: the slice lies in what their entries span together.", rich_help_panel=WHERE)] = None,
) -> None:  # fmt: skip
    """The loss along a line, over a plane or in more dimensions through the pretrained point, or where a run ended; 'figures' draws it.

    Training and as many validation examples (64 by default), with standard errors, beside the quadratic model of the point. Axes are true
    displacements of the tuned entries. The job goes on where it was stopped.
    """
    store, given, defaults = given.through(([at] if at else []) + (to or []), "slice", methods=True)
    others = "+".join(path.resolve().name for path in to or [])
    fields = {name: value for name, value in given.fields.items() if name != "at" or at} | ({"to": others} if to else {})
    spec = replace(given, fields=fields).spec(SliceSpec, **defaults)
    plan = analyses.runs.check(spec, analyses.runs.inputs(spec, given.data, given.device))
    if given.dry_run:
        return ui.print_result(plan, given.json)
    ui.log.print(f"{plan['points']:,} points of {plan['train_examples']} training examples and as many others", highlight=False)
    ui.print_result(analyses.results.slice_summary(given.run(spec, store), store), given.json)


@ui.command("study")
def study(
    file: Annotated[Path, Argument(help="A study file, for instance studies/demo.yaml.")],
    jobs: Annotated[int, Option(help="Runs at a time, each in a process of its own with one thread.", min=1)] = 1,
    shard: Annotated[str, Option(metavar="I/N", help="Only the I-th of N parts, for a scheduler's array of jobs over one folder of results.")] = "1/1",
    data: Annotated[Path | None, Option(help="Folder with one folder a task (overrides the file's).")] = None,
    retry_failed: Annotated[bool, Option("--retry-failed", help="Run those that failed again.")] = False,
    device: ui.Device = "auto", out: ui.Out = Path("results"), resume: ui.Resume = True, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Run all of a study that is not done yet; failed runs are kept as rows with their error and do not stop the others.

    It can be stopped (Ctrl-C, SIGTERM) or killed at any time and started again, and started several times at once. With --dry-run it
    tells runs, hours and memory by model, from a rehearsal of some seconds for each.
    """
    what = analyses.studies.read_study(file)
    what = analyses.studies.with_data(what, data) if data is not None else what
    store, part = analyses.store.Store(out / what.name), analyses.studies.parse_shard(shard)
    if dry_run:
        return ui.print_plan(analyses.studies.plan(what, store, jobs, ui.on_device(device)), json_)
    since = 0 if resume and not retry_failed else store.now()
    options = analyses.studies.Options(ui.on_device(device), part, not resume, retry_failed, jobs > 1, since)
    outcome = ui.run_watched(what, store, jobs, options)
    done, failed, elsewhere = len(outcome.done), len(outcome.failed), outcome.elsewhere
    with ui.bar() as progress:
        count = analyses.thresholds.commit_thresholds(store, () if elsewhere else what.targets, progress)
    about = {"study": what.name, "results": str(store.root)}
    ui.print_result(about | {"done": done, "failed": failed, "elsewhere": elsewhere, "thresholds": count}, json_)
    if elsewhere:
        ui.log.print(f"{elsewhere} runs of other shards are not done yet: what follows from them waits for the next start")
    if failed:
        raise ApetError(f"{failed} of {done + failed} runs failed, which can be run again", retry_failed=True)


@ui.command("figures")
def figures(
    results: ui.Results,
    out: Annotated[Path, Option(help="Where the PDF and PNG files go.")] = Path("figures/out"),
    only: Annotated[list[str] | None, Option(help="Draw only these: performance, spectra, scale, layers, thresholds, crossing, predictions, cells (predicted against measured, all targets), paths, attribution, placements (F1), quadratics; slices (the loss along lines), contours (over planes), ratios (the Hessian's over planes), surfaces (over scale, on common axes), relief (in 3-D, and an interactive page).")] = None,
    target: ui.Aim = None, fraction: ui.Fraction = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Draw the figures that the rows of a study allow (PDF and PNG; of surfaces a page that can be turned, and opens offline)."""
    from figures import EVERY_TARGET, FIGURES, draw_all

    for name in only or []:
        lookup(FIGURES, name, "figure")
    rows = analyses.results.rows_of(results, ui.aim_of(target, fraction), every=bool(only) and set(only) <= set(EVERY_TARGET))
    if dry_run:
        return ui.print_result({"rows": len(rows), "out": str(out)}, json_)
    drawn = draw_all(rows, out, only)
    ui.print_result({"written": {name: [str(p) for p in paths] for name, paths in drawn.written.items()}, "skipped": drawn.skipped}, json_)


@ui.command("explain")
def explain(
    results: ui.Results,
    out: Annotated[Path | None, Option(help="Where the figure's PDF and PNG go. \\[default: RESULTS/figures]")] = None,
    target: ui.Aim = None, fraction: ui.Fraction = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Say why k* changes with scale: the predicted change split over spectrum, alignment, gap and live entries, beside the measured one.

    For each pair of neighbouring sizes of a family, and the smallest against the largest, that have predictions and full fine-tuning on
    the same examples. The verdict is 'not explained' where predicted and measured change differ in sign, or their intervals are
    disjoint. Rows go to RESULTS/explain.parquet, which 'figures' reads.
    """
    from figures import draw_all

    known = analyses.results.Results.of(results, ui.aim_of(target, fraction))
    aim = next((each for each in known.targets if each.on_loss), None)
    if aim is None:
        raise UsageError(f"{results} states no threshold of the training loss", target="fraction:0.9")
    if dry_run:
        predictions = sum(run.spec["kind"] == PredictSpec.kind for run in known.runs)
        return ui.print_result({"runs": len(known.runs), "predictions": predictions, "target": str(aim)}, json_)
    table, summaries = analyses.results.explained(known, aim)
    drawn = draw_all(table, out or results / "figures", ["attribution"])
    figure = [str(path) for paths in drawn.written.values() for path in paths]
    if json_:
        return ui.print_result({"target": str(aim), "pairs": summaries, "figure": figure, "skipped": drawn.skipped}, True)
    ui.print_explanation(summaries, figure or list(drawn.skipped.values()))


@ui.command("report")
def report(
    results: ui.Results,
    out: Annotated[Path | None, Option(help="The page to write. \\[default: RESULTS/report.html]")] = None,
    target: ui.Aim = None, fraction: ui.Fraction = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Write one self-contained page with the study's figures and tables, and print the table of thresholds."""
    from figures.report import drawn_report
    from figures.rows import CannotDraw

    rows = analyses.results.rows_of(results, ui.aim_of(target, fraction))
    page = out or (results.parent if results.suffix == ".parquet" else results) / "report.html"
    if dry_run:
        return ui.print_result({"rows": len(rows), "out": str(page)}, json_)
    with ui.bar() as progress:
        try:
            table, found = drawn_report(rows, page, f"Study {results.name}", lambda name, done, of: progress(f"drawing {name}", done, of))
        except CannotDraw as reason:
            raise ApetError(f"no report of {results}: {reason}") from None
    if json_:
        return ui.print_result({"report": str(page), "table": table, "answers": [vars(each) for each in found]}, True)
    ui.print_report(table, found, page)


@ui.command("table")
def table(
    results: ui.Results,
    out: Annotated[Path | None, Option(help="Write it to this file: .csv, .parquet, .tex (booktabs) or .md.")] = None,
    split: Annotated[str | None, Option(help="validation, or test where runs were made with --test. \\[default: validation]")] = None,
    rows: Annotated[bool, Option("--rows", help="Every row of every run instead, as 'figures' reads them, to --out.")] = False,
    json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Tabulate training runs: a line for each model, task, method and k, with standard errors, chance, seeds and minutes."""
    if rows:
        if out is None:
            raise UsageError("all rows are too many to print", out=...)
        if split is not None:
            raise UsageError("--split has no effect with --rows, which are of all splits")
        found = analyses.results.rows_of(results, None, every=True).to_dict("records")
        if not dry_run:
            analyses.results.write_table(found, out)
        return ui.print_result({"rows": len(found), "out": str(out)}, json_)
    lines = analyses.results.table(analyses.store.Store(results), split or "validation")
    if not lines:
        raise MissingInput(f"no finished training run under {results}")
    if dry_run:
        return ui.print_result({"lines": len(lines), "out": str(out) if out else None}, json_)
    if out is not None:
        analyses.results.write_table(lines, out)
    ui.listing("table", lines if json_ else [ui.short_table_line(line, any(each["settings"] for each in lines)) for line in lines], json_)


@ui.command("export")
def export(
    run: Annotated[Path, Argument(help="Folder of a finished APET run, for instance results/train/RUN_ID.")],
    out: Annotated[Path, Argument(help="What to write: a file for apet, a folder for merged and shira.")],
    form: Annotated[str, Option("--as", help="apet: the tuned values, a few kB; merged: an ordinary checkpoint; shira: a peft adapter (linear layers only).")] = "apet",
    json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Write a tuned model for use elsewhere."""
    ui.print_result({"run": str(run), "form": form, "out": str(out)} if dry_run else analyses.results.export(run, form, out), json_)


@ui.command("models")
def models(json_: ui.Json = False, dry_run: ui.DryRun = False) -> None:
    """List the shipped ladder and the aliases of Hugging Face models, with all parameters and those of the blocks alone.

    t5-* are T5 v1.1, the paper's (original T5 has no xl: its largest are google-t5/t5-3b and t5-11b); its checkpoints that were
    trained on as language models are google/t5-*-lm-adapt. Any other Hugging Face id or folder can be given as well.
    """
    rows = apet.models.models_table()
    ui.listing("models", rows if json_ else [ui.short_model_line(row) for row in rows], json_)


@ui.command("tasks")
def tasks(json_: ui.Json = False, dry_run: ui.DryRun = False) -> None:
    """List the tasks: template, label words (label 0 first), metric and where the data come from without --data."""
    rows = apet.tasks.tasks_table()
    ui.listing("tasks", rows if json_ else [ui.short_task_line(row) for row in rows], json_)


@ui.command("kernels")
def kernels(
    calibrate: Annotated[bool, Option("--calibrate", help="Measure the constants again, on an otherwise idle machine.")] = False,
    device: ui.Device = "auto", json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Show by which constants the kernels of tuned entries are chosen on this machine (nanoseconds), or measure them.

    The first run that tunes entries measures them in some seconds and keeps them in the user's cache folder; every run notes in env.json
    those that it used. The environment variable APET_KERNELS=shipped takes the shipped ones instead.
    """
    ui.print_result(apet.subspaces.kernel_constants(ui.on_device(device), calibrate and not dry_run), json_)


@ui.command("pretrain")
def pretrain(
    corpus: Annotated[Path, Option(help="Folder of text files (.txt, .txt.xz; valid* and test* are held out), or of such folders.")],
    size: Annotated[str, Option(help="A size of the family: 130k, 240k, 790k, 2m, 6m for t5; 120k, 400k, 1m, 3m for bert and bloom.")] = "790k",
    family: Annotated[str, Option(help="t5 (span corruption), bert (masked language model) or bloom (next token).")] = "t5",
    source: Annotated[list[str] | None, Option(help="Only these sub-folders of the corpus. \\[default: those the ladder was made from, where they are there, else all]")] = None,
    steps: Annotated[int | None, Option(help="Steps of 3,072 tokens. \\[default: the model's own schedule]", min=2)] = None,
    seed: Annotated[int, Option(help="Names initial weights, order and masks.", min=0)] = 0,
    minutes: Annotated[float, Option(help="Stop after this long; the same command goes on later.")] = float("inf"),
    tokenizer: Annotated[Path | None, Option(help="A tokenizer.json; trained on the corpus if it is not there. \\[default: the ladder's]")] = None,
    out: Annotated[Path, Option(help="The model's folder is written below this one.", rich_help_panel=OUTPUT)] = Path("results/pretrain"),
    device: ui.Device = "auto", resume: ui.Resume = True, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Pretrain a ladder model: seeded, resumable bitwise, bf16 autocast; Adafactor for T5, Muon for BERT and BLOOM."""
    if not minutes > 0:
        raise UsageError(f"--minutes {minutes} must be positive")
    recipe = (family, size, corpus, source or [], steps, seed, minutes, tokenizer)
    with ui.bar() as report:
        made = apet.pretraining.make_ladder_model(*recipe, ui.on_device(device), out, not resume, dry_run, report)
    ui.print_result(made, json_)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
