"""The command line: all commands, their options and their output. This file contains no maths and imports torch only inside commands."""

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
import apet.methods
import apet.models
import apet.pretraining
import apet.subspaces
import apet.tasks
from analyses import terminal as ui
from analyses.specs import PredictSpec, SliceSpec, SpectrumSpec, TrainSpec
from apet.errors import ApetError, MissingInput, UsageError, lookup
from figures import Columns, Style

app = ui.app
OUTPUT, SEARCH, WHERE = "Output", "Threshold", "Evaluation point"
# Fields without an option in intrinsic-dim: the search chooses their values, or only --set can set them.
OWN = ("method", "k", "matched", "early_stop", "readout", "test", "trajectory", "keep_end", "operations", "unit", "order", "position_seed")
RARE = ("weights", "attention", "max_length", "accumulate", "schedule", "warmup", "clip", "weight_decay", "gradient_checkpointing")
RARE += ("algorithm", "lanczos_steps", "probes", "method_option")


@ui.command("train", TrainSpec)
def train(
    given: ui.Given,
    track: Annotated[str | None, Option(help="Log the run to a tracker of accelerate, such as tensorboard.", rich_help_panel=OUTPUT)] = None,
) -> None:  # fmt: skip
    """Tune a model on a task and evaluate it on the validation split.

    Under 'accelerate launch' each process computes its share of every batch. With --dry-run the command estimates time and memory from a
    rehearsal of some seconds, unless the model is too large.
    """
    spec = given.spec(TrainSpec)
    if given.dry_run:
        inputs, note = given.inputs(spec), analyses.runs.too_large(spec, given.device)
        rehearsal = {"note": note} if note else analyses.runs.rehearse(spec.resolved(), inputs)
        return ui.print_result(analyses.runs.check(spec, inputs) | rehearsal, given.json)
    store = analyses.store.Store(given.out / "train")
    name = given.run(spec, store, track)
    if not apet.machine.is_main_process():  # the main process commits and prints
        return
    summary = analyses.results.train_summary(name, store)
    ui.print_result(summary, given.json)
    if summary["diverged"] is not None:
        raise ApetError(f"the run diverged at step {summary['diverged']}: lower the learning rate or search for one", lr=..., find_lr=True)


@ui.command("intrinsic-dim", TrainSpec, PredictSpec, without=OWN + RARE)
def intrinsic_dim(
    given: ui.Given,
    target: Annotated[str | None, Option(metavar="KIND:AMOUNT", help=f"{ui.TARGETS} \\[default: fraction:0.9]", rich_help_panel=SEARCH)] = None,
    fraction: Annotated[float | None, Option(help="Short for --target fraction:AMOUNT. \\[default: 0.9]", min=0.01, max=0.99, rich_help_panel=SEARCH)] = None,
    runs: Annotated[int | None, Option(help="Maximum number of APET runs, in rounds of 4, 3, 3, ... \\[default: 14]", min=4, rich_help_panel=SEARCH)] = None,
    k_min: Annotated[int | None, Option(help="Smallest k to try. \\[default: 4]", min=1, rich_help_panel=SEARCH)] = None,
    k_max: Annotated[int | None, Option(help="Largest k to try. \\[default: 4096]", min=1, rich_help_panel=SEARCH)] = None,
    measure: Annotated[bool, Option("--measure/--no-measure", help="Train runs over k and estimate k* by regression of their crossing of the target.", rich_help_panel=SEARCH)] = True,
    predict: Annotated[bool, Option("--predict/--no-predict", help="Predict k* without training, from the Gauss-Newton matrix at the initial point and along the linearised model's path.", rich_help_panel=SEARCH)] = True,
) -> None:  # fmt: skip
    """Measure the smallest number k* of parameters that reaches a target, with an interval, and predict k* without training.

    A search in rounds measures k* and a 95 % interval of k*. The answer has no number but a reason if no k reaches the target, if every k
    does, or if the untuned model does. A metric target is mapped to the training loss at which full fine-tuning crosses the target. All
    runs use a fixed set of training examples (128 by default, in batches of 16) without early stopping, because the prediction is about the
    minimum of the training loss. Predictions from n examples of C classes cannot exceed n (C - 1), and predictions above 30 % of this
    limit are censored. A prediction is also censored if the quadratic at the initial point does not reach the target (often at a fraction
    of .7 or more).
    """
    if not (measure or predict):
        raise UsageError("--no-measure and --no-predict leave nothing to do: give at most one of them")
    if not measure and (runs or k_min or k_max):
        raise UsageError("--runs, --k-min and --k-max have no effect with --no-measure: leave them out")
    search = analyses.studies.Search.single(ui.aim_of(target, fraction), runs, k_min, k_max)
    fields, where = given.named(TrainSpec)
    analyses.specs.spec_from(fields | {"k": 1}, where, shared=fields)  # an error in a config names its line
    fields = {"examples": 128, "batch": 16} | fields
    if given.dry_run:
        specs = analyses.thresholds.plan(fields, search, predict, measure, given.data)
        planned = [analyses.runs.check(spec, given.inputs(specs[0])) for spec in specs]
        return ui.print_result(analyses.thresholds.planned_cost(planned, search, measure), given.json)
    store, measured = analyses.store.Store(given.out / "intrinsic-dim"), analyses.thresholds.intrinsic_dim
    with ui.bar() as report:
        result, _ = measured(fields, store, search, predict, measure, given.data, given.device, report, not given.resume)
    ui.print_result(result, given.json)


@ui.command("spectrum", SpectrumSpec)
def spectrum(
    given: ui.Given, at: ui.At = None,
    along: Annotated[bool, Option("--along", help="With --at: compute one spectrum at every recorded step of the trajectory.", rich_help_panel=WHERE)] = False,
) -> None:  # fmt: skip
    """Compute the curvature of the loss in a tuned subspace, at the initial point or at a run's final point: eigenvalues, density, N_eff.

    The spectrum of a Gauss-Newton matrix of label words is exact, at the cost of a gradient. Spectra of other matrices are exact if k
    products cost less than Lanczos. A stopped job resumes where it stopped. Under 'accelerate launch' each process computes its share of
    the batches. The default is 64 examples, or the examples of the run at --at.
    """
    store, given, defaults = given.through([at] if at else [], "spectrum")
    spec = given.spec(SpectrumSpec, **defaults)
    specs = analyses.runs.along_trajectory(spec, store) if along else [spec]
    planned = analyses.runs.check(spec, given.inputs(spec))
    if given.dry_run:
        return ui.print_result(planned, given.json)
    ui.log.print("{algorithm}: at most {products:,} products on {train_examples} examples".format(**planned), highlight=False)
    names = [given.run(one_spec, store) for one_spec in specs]
    if apet.machine.is_main_process():
        summaries = [analyses.results.spectrum_summary(name, store) for name in names]
        ui.print_result({"along": summaries} if along else summaries[0], given.json)


@ui.command("slice", SliceSpec, without=("method_option",))
def slice_(
    given: ui.Given, at: ui.At = None,
    to: Annotated[list[Path] | None, Option(metavar="RUN", help="optima: another run of the same model and task, for a line; give the option twice for a plane, and so on. Runs may have other position seeds, k and methods (full, bitfit, lora with --keep-end). The slice lies in the space that the entries of all runs span together.", rich_help_panel=WHERE)] = None,
) -> None:  # fmt: skip
    """Evaluate the loss along a line, over a plane or in more dimensions through the initial point or a run's final point.

    The loss covers training examples (64 by default) and as many validation examples, with standard errors. The result also contains the
    quadratic model of the loss at the centre. Axes are displacements of the tuned entries. A stopped job resumes where it stopped. Use
    'figures' to draw the slice.
    """
    store, given, defaults = given.through(([at] if at else []) + (to or []), "slice", methods=True)
    others = "+".join(path.resolve().name for path in to or [])
    fields = {name: value for name, value in given.fields.items() if name != "at" or at} | ({"to": others} if to else {})
    spec = replace(given, fields=fields).spec(SliceSpec, **defaults)
    plan = analyses.runs.check(spec, given.inputs(spec))
    if given.dry_run:
        return ui.print_result(plan, given.json)
    ui.log.print(f"{plan['points']:,} points on {plan['train_examples']} training and as many validation examples", highlight=False)
    ui.print_result(analyses.results.slice_summary(given.run(spec, store), store), given.json)


@ui.command("study")
def study(
    file: Annotated[Path, Argument(help="Study file, for instance studies/demo.yaml.")],
    jobs: Annotated[int, Option(help="Number of runs at a time, each in a separate process with one thread.", min=1)] = 1,
    shard: Annotated[str, Option(metavar="I/N", help="Compute only the I-th of N parts, for a scheduler's job array over one folder of results.")] = "1/1",
    data: Annotated[Path | None, Option(help="Folder with one folder per task (overrides the study file).")] = None,
    retry_failed: Annotated[bool, Option("--retry-failed", help="Run failed runs again.")] = False,
    flops: Annotated[float | None, Option(help="With --dry-run: plan for a device with this many operations per second, such as 3e14 (30 % of the bfloat16 peak of an H100), by arithmetic and without the models.", min=1.0)] = None,
    ray: ui.Ray = None, cpus: ui.Cpus = None, gpus: ui.Gpus = None, memory: ui.Memory = None, leases: ui.Leases = False,
    device: ui.Device = "auto", out: ui.Out = Path("results"), resume: ui.Resume = True, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Compute all unfinished runs of a study. A failed run is stored as a row with its error and does not stop other runs.

    The command can be stopped (Ctrl-C, SIGTERM) or killed at any time, started again, and started several times at once. With --dry-run
    the command prints runs, hours and memory by model, from a rehearsal of some seconds per model.
    """
    plan = analyses.studies.read_study(file)
    plan = analyses.studies.with_data(plan, data) if data is not None else plan
    store, part = analyses.store.Store(out / plan.name), analyses.studies.parse_shard(shard)
    for error, count in analyses.studies.refused(plan).items():
        ui.log.print(f"will fail (runs: {count}): {error}", highlight=False, soft_wrap=True)
    if dry_run:
        return ui.print_plan(analyses.studies.plan(plan, store, jobs, ui.on_device(device), flops), json_)
    if flops is not None:
        raise UsageError("--flops is for a plan: give --dry-run, too")
    launch = ui.launcher(ray, jobs, device, cpus, gpus, memory)
    if leases:
        store.use_leases()
    since = 0 if resume and not retry_failed else store.now()
    options = analyses.studies.Options(ui.on_device(device), part, not resume, retry_failed, jobs > 1 or ray is not None, since)
    outcome = ui.run_watched(plan, store, launch, options)
    done, failed, elsewhere = len(outcome.done), len(outcome.failed), outcome.elsewhere
    with ui.bar() as progress:
        count = analyses.thresholds.commit_thresholds(store, () if elsewhere else plan.targets, progress)
    counts = {"done": done, "failed": failed, "elsewhere": elsewhere, "thresholds": count}
    ui.print_result({"study": plan.name, "results": str(store.root), **counts}, json_)
    if elsewhere:
        ui.log.print(f"{elsewhere} runs of other shards are not done yet: start the study again for the stages that depend on them")
    if failed:
        raise ApetError(f"{failed} of {done + failed} runs failed: run them again", retry_failed=True)


@ui.command("figures")
def figures(
    results: ui.Results,
    out: Annotated[Path, Option(help="Folder for the figures (PDF, SVG, PNG), the rows that each draws (CSV), and tables (CSV, LaTeX, Markdown).")] = Path("figures/out"),
    only: Annotated[list[str] | None, Option(help="Draw only this figure (repeat for more). Findings: claims, methods (over scale), positions (F1). Rows of runs: performance, thresholds (over scale), crossing, predictions, cells (predicted against measured, all targets), paths, attribution, spectra, n_eff, scale, layers, placements, cost, quadratics. Slices: slices (the loss along lines), contours (over planes), ratios (the Hessian's over planes), surfaces (over scale, on common axes), relief (in 3-D, and an interactive page).")] = None,
    style: Annotated[Style | None, Option(help="Venue whose widths and font sizes the figures have. \\[default: 3.3 and 6.9 inches]")] = None,
    columns: Annotated[Columns | None, Option(help="half: all figures are as wide as a column (or half of the text); full: as the text. \\[default: what suits each figure]")] = None,
    target: ui.Aim = None, fraction: ui.Fraction = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Draw all figures for which a study has rows, and write tables of thresholds, claims and methods. All figures are readable in grey."""
    from figures import EVERY_TARGET, FIGURES, draw_all, page_of

    for name in only or []:
        lookup(FIGURES, name, "figure")
    rows = analyses.results.rows_of(results, ui.aim_of(target, fraction), every=bool(only) and set(only) <= set(EVERY_TARGET))
    if dry_run:
        return ui.print_result({"rows": len(rows), "out": str(out)}, json_)
    drawn = draw_all(rows, out, only, page=page_of(style, columns))
    ui.print_result(drawn.summary, json_)


@ui.command("explain")
def explain(
    results: ui.Runs,
    out: Annotated[Path | None, Option(help="Folder for the figure's PDF and PNG. \\[default: RESULTS/figures]")] = None,
    target: ui.Aim = None, fraction: ui.Fraction = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Explain how k* changes with scale: the measured change, and the predicted one split over spectrum, alignment, gap and active entries.

    The command compares neighbouring sizes of a family, and the smallest with the largest. Both models of a pair need predictions and full
    fine-tuning on the same examples. The verdict is 'not explained' if the predicted and the measured change differ in sign or have
    disjoint intervals. Rows are written to RESULTS/explain.parquet, which 'figures' reads.
    """
    from figures import draw_all

    known = analyses.results.Results.of(results, ui.aim_of(target, fraction))
    on_loss = known.on_loss()
    if dry_run:
        predictions = sum(run.spec["kind"] == PredictSpec.kind for run in known.runs)
        return ui.print_result({"runs": len(known.runs), "predictions": predictions, "target": str(on_loss)}, json_)
    table, summaries = analyses.results.explained(known, on_loss)
    drawn = draw_all(table, out or results / "figures", ["attribution"])
    figure = [str(path) for paths in drawn.written.values() for path in paths]
    if json_:
        return ui.print_result({"target": str(on_loss), "pairs": summaries, "figure": figure, "skipped": drawn.skipped}, True)
    ui.print_explanation(summaries, figure or list(drawn.skipped.values()))


@ui.command("findings")
def findings(
    results: ui.Results,
    out: Annotated[Path | None, Option(help="Parquet file for the rows. \\[default: RESULTS/findings.parquet; none for a .parquet file]")] = None,
    similar: Annotated[float, Option(help="F3: factor within which tasks need similar numbers.", min=1.01)] = 2.0,
    target: ui.Aim = None, fraction: ui.Fraction = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Test the claims about scale: F1 (positions), F2 and F3 (thresholds) of Su et al., methods, landscape and predictions.

    Each claim is supported, not supported or undecided, by a test that is corrected for all cases of the claim. A censored threshold counts as
    the interval in which it lies. An undecided claim states how much more data would decide it. 'figures' and 'report' show the verdicts.
    """
    rows = analyses.results.rows_of(results, ui.aim_of(target, fraction), every=True)
    from analyses.findings import FINDING_ROWS

    path = out or (results / FINDING_ROWS if results.is_dir() else None)
    if dry_run:
        return ui.print_result({"rows": len(rows), "out": str(path) if path else None}, json_)
    with ui.bar() as progress:
        verdicts = analyses.results.concluded(rows, similar, path, progress)
    if json_:
        return ui.print_result({"claims": verdicts, "written": str(path) if path else None}, True)
    ui.print_claims(verdicts, path)


@ui.command("report")
def report(
    results: ui.Results,
    out: Annotated[Path | None, Option(help="HTML file to write. \\[default: RESULTS/report.html]")] = None,
    target: ui.Aim = None, fraction: ui.Fraction = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Write a self-contained HTML page with findings, answers, warnings, figures and tables, and print the table of thresholds."""
    from figures.report import drawn_report
    from figures.rows import CannotDraw

    rows, facts = analyses.results.reported(results, ui.aim_of(target, fraction))
    page = out or (results.parent if results.suffix == ".parquet" else results) / "report.html"
    if dry_run:
        return ui.print_result({"rows": len(rows), "out": str(page)}, json_)
    ui.log.print(f"drawing the figures of {results}", highlight=False)
    with ui.bar() as progress:
        try:
            table, answers = drawn_report(rows, facts, page, lambda name, done, of: progress(f"drawing {name}", done, of))
        except CannotDraw as reason:
            raise ApetError(f"cannot write a report of {results}: {reason}") from None
    if json_:
        return ui.print_result({"report": str(page), "table": table, "answers": [vars(answer) for answer in answers]}, True)
    ui.print_report(table, answers, page)


@ui.command("table")
def table(
    results: ui.Runs,
    out: Annotated[Path | None, Option(help="Also write the table to this file: .csv, .parquet, .tex (booktabs) or .md.")] = None,
    split: Annotated[str | None, Option(help="Split of the scores: validation, or test for runs with --test. \\[default: validation]")] = None,
    rows: Annotated[bool, Option("--rows", help="Write every row of every run to --out instead, in the format that 'figures' reads.")] = False,
    json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Print a table of training runs with one line per model, task, method and k: scores, standard errors, chance, seeds and minutes."""
    if rows:
        return ui.print_result(analyses.results.write_rows(results, out, split, dry_run), json_)
    lines = analyses.results.table(analyses.store.Store(results), split or "validation")
    if not lines:
        raise MissingInput(f"no finished training run under {results}")
    if dry_run:
        return ui.print_result({"lines": len(lines), "out": str(out) if out else None}, json_)
    if out is not None:
        analyses.results.write_table(lines, out)
    ui.listing("table", lines if json_ else [ui.short_table_line(line, any(other["settings"] for other in lines)) for line in lines], json_)


@ui.command("export")
def export(
    run: Annotated[Path, Argument(help="Folder of a finished training run, for instance results/train/RUN_ID. Runs of other methods than apet need --keep-end.")],
    out: Annotated[Path, Argument(help="Path to write: a file for apet, a folder for the other formats.")],
    form: Annotated[str, Option("--as", help="Format. apet: the tuned values, a few kB; merged: an ordinary checkpoint; shira: tuned entries as a peft adapter (linear layers only); peft: an adapter of lora, prompt, prefix or peft:NAME.")] = "apet",
    json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Export a tuned model for use in other programs."""
    ui.print_result({"run": str(run), "form": form, "out": str(out)} if dry_run else analyses.results.export(run, form, out), json_)


@ui.command("models")
def models(json_: ui.Json = False, dry_run: ui.DryRun = False) -> None:
    """List the built-in ladder models and the aliases of Hugging Face models by family, with parameters in total and in the blocks.

    The aliases t5-* are T5 v1.1, as in the paper. (The original T5 has no xl; its largest models are google-t5/t5-3b and t5-11b.) The
    checkpoints google/t5-*-lm-adapt are T5 v1.1 with further training. Other Hugging Face ids, folders and GGUF files are valid too.
    """
    rows = apet.models.models_table()
    ui.listing("models", rows if json_ else [ui.short_model_line(row) for row in rows], json_, "family")


@ui.command("methods")
def methods(
    model: Annotated[str | None, Option(help="Also count the parameters that each method tunes in this model. Its weights are not loaded.")] = None,
    method_option: ui.HavingOption = None, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """List the tuning methods with their options, the option that --k sets, and where training starts. --json lists all options."""
    with ui.bar() as progress:
        rows = apet.methods.methods_table(model, ",".join(method_option or []), progress)
    ui.listing("methods", rows if json_ else [ui.short_method_line(row, model is not None) for row in rows], json_)


@ui.command("tasks")
def tasks(
    check: ui.CheckedTask = None, model: ui.ReadingModel = None, data: ui.TaskFolder = None, max_length: ui.MaxLength = None,
    json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """List the tasks with template, label words (label 0 first), metric and default source, or check the definition and data of one task."""
    if check is not None:
        with ui.bar():
            found = analyses.runs.task_check(check, model, data, max_length)
        return ui.print_task_check(found, json_)
    if model or data or max_length:
        raise UsageError("--model, --data and --max-length have no effect on the list of tasks: add --check TASK, or leave them out")
    rows = apet.tasks.tasks_table()
    ui.listing("tasks", rows if json_ else [ui.short_task_line(row) for row in rows], json_)


@ui.command("kernels")
def kernels(
    calibrate: Annotated[bool, Option("--calibrate", help="Measure the constants again. The machine should be idle otherwise.")] = False,
    device: ui.Device = "auto", json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Show or measure the constants (nanoseconds) that determine the choice of kernels for tuned entries on this machine.

    The first run that tunes entries measures the constants in some seconds and saves them in the user's cache folder. Every run records
    its constants in env.json. The environment variable APET_KERNELS=shipped selects the shipped constants instead.
    """
    ui.print_result(apet.subspaces.kernel_constants(ui.on_device(device), calibrate and not dry_run), json_)


@ui.command("pretrain")
def pretrain(
    corpus: Annotated[Path, Option(help="Folder of text files (.txt, .txt.xz; files valid* and test* are held out), or a folder of such folders.")],
    size: Annotated[str, Option(help="Model size: 130k, 240k, 790k, 2m, 6m for t5; 120k, 400k, 1m, 3m for bert and bloom.")] = "790k",
    family: Annotated[str, Option(help="Model family: t5 (span corruption), bert (masked language model) or bloom (next token).")] = "t5",
    source: Annotated[list[str] | None, Option(help="Use only this sub-folder of the corpus (repeat for more). \\[default: the ladder's sub-folders if they exist, otherwise all]")] = None,
    steps: Annotated[int | None, Option(help="Number of steps of 3,072 tokens. \\[default: the model's schedule]", min=2)] = None,
    seed: Annotated[int, Option(help="Seed of initial weights, order of the data and masks.", min=0)] = 0,
    minutes: Annotated[float, Option(help="Stop after this many minutes; the same command resumes later.")] = float("inf"),
    tokenizer: Annotated[Path | None, Option(help="Path of a tokenizer.json. A missing file is created by training on the corpus. \\[default: the ladder's]")] = None,
    out: Annotated[Path, Option(help="Parent folder of the model's folder.", rich_help_panel=OUTPUT)] = Path("results/pretrain"),
    device: ui.Device = "auto", resume: ui.Resume = True, json_: ui.Json = False, dry_run: ui.DryRun = False,
) -> None:  # fmt: skip
    """Pretrain a ladder model, seeded and bitwise resumable, in bf16 autocast, by Adafactor (T5) or Muon (BERT and BLOOM)."""
    recipe = (family, size, corpus, source or [], steps, seed, minutes, tokenizer)
    with ui.bar() as report:
        summary = apet.pretraining.make_ladder_model(*recipe, ui.on_device(device), out, not resume, dry_run, report)
    ui.print_result(summary, json_)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
