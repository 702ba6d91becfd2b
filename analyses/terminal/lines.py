"""Format long results as tables and sentences for the width of a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.terminal.printing import WIDTH, cell, listing, print_result


def short_table_line(line: dict[str, Any], settings: bool) -> dict[str, Any]:
    """Return a short line of the table of training runs: values with standard errors, and k with the head's parameters."""
    return {
        "task": line["task"],
        "model": line["model"],
        "method": line["method"],
        "k": f"{line['k']:,}" + (f" + {line['k_head']:,}" if line["k_head"] else ""),
        "score": f"{line['value']:.3f} +- {line['stderr']:.3f}",
        "chance": f"{line['chance']:.3f} +- {line['chance_stderr']:.3f}",
        "seeds": line["seeds"],
        "minutes": line["minutes"],
        **({"settings": line["settings"]} if settings else {}),
    }


def short_explanation(summary: dict[str, Any]) -> dict[str, str]:
    """Return a short line for a pair of models: changes of log k* from the small to the large model, with intervals."""

    def part(name: str) -> str:
        if name not in summary:
            return "-"
        value, low, high = summary[name]
        return f"{value:+.2f}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")

    parts = {"measured": "measured", "predicted": "total_by_rank"}
    parts |= {name: f"{name}_by_rank" for name in ("spectrum", "alignment", "gap", "live")}
    return {name: summary[name] for name in ("task", "subspace", "small", "large")} | {head: part(name) for head, name in parts.items()}


def short_threshold_line(row: dict[str, Any], settings: bool) -> dict[str, str]:
    """Return a short line of the table of thresholds: values with intervals or standard errors."""

    def interval(name: str) -> str:
        low, high = (cell(row[f"{name}_{end}"]) for end in ("low", "high"))
        if row[f"{name}_censored"] in ("above", "below"):
            return f"{row[f'{name}_censored']} {low if row[f'{name}_censored'] == 'above' else high}"
        return f"{cell(row[name])} [{low}, {high}]" if row[name] is not None else "-"

    def score(method: str) -> str:
        value, error = row[f"score_{method}"], row[f"score_{method}_stderr"]
        return "-" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")

    return {
        **({"setting": row["setting"]} if settings else {}),
        "model": row["model"],
        "k* measured": interval("k_star"),
        "predicted": interval("k_predicted"),
        **{method: score(method) for method in ("full", "lora", "apet")},
        "chance": cell(row["chance"]),
    }


def short_model_line(row: dict[str, Any]) -> dict[str, Any]:
    """Return a short line for a model. The held-out loss of a shipped model stands beside its source."""
    source = row["source"] if row["heldout_loss"] is None else f"{row['source']}, loss {row['heldout_loss']:.3g}"
    names = {"family": "family", "name": "name", "parameters": "parameters", "without_embeddings": "in blocks", "layers": "layers"}
    return {short: row[name] for name, short in names.items()} | {"licence": row["licence"], "source": source}


def short_method_line(row: dict[str, Any], counted: bool) -> dict[str, Any]:
    """Return a short line for a method: its k on a model if it is `counted`, else its options with numbers as defaults."""
    if counted:
        return {"name": row["name"], "k": row["k"], "--k sets": row["k_option"], "note": row["reason"]}
    numbers = ", ".join(f"{name}={value}" for name, value in row["options"].items() if value.replace(".", "").isdigit())
    start = {True: "base model", False: "elsewhere", None: "-"}[row["starts_at_base"]]
    return {
        "name": row["name"],
        "tunes": row["tunes"] or row["reason"],
        "options": numbers,
        "--k sets": row["k_option"],
        "starts at": start,
    }


def short_task_line(row: dict[str, Any]) -> dict[str, Any]:
    """Return a task as cells of two lines each."""
    row = row | {"label words": " / ".join(row["label_words"]) or "-"}
    pairs = (("name", "metric"), ("template", "source"), ("label words", "about"))
    return {f"{over}\n{under}": f"{row[over]}\n{row[under]}" for over, under in pairs} | {"type": row["type"]}


def print_task_check(check: dict[str, Any], as_json: bool) -> None:
    """Print the check of a task (`analyses.runs.task_check`): definition, splits, answers, label words, and examples with their tokens."""
    if as_json:
        return print_result(check, True)
    scalars = {name: check[name] for name in ("model", "max_length")}
    print_result({name: value for name, value in check["definition"].items() if value} | scalars, False)
    for name in ("splits", "answers", "label_words"):
        if check[name]:
            print()
            listing(name, [row | ({"tokens": " ".join(row["tokens"])} if "tokens" in row else {}) for row in check[name]])
    for number, example in enumerate(check["examples"], 1):
        read, of = len(example["tokens"]), example["untruncated"]
        print(f"\nexample {number}: {read} tokens" + (f", truncated from {of}" if of > read else ""))
        for name in ("answer", "text", "tokens"):
            value = example[name]
            text = " ".join(value) if name == "tokens" else " ".join(str(value).split())
            print(textwrap.fill(f"{name}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    "))


def print_explanation(summaries: list[dict[str, Any]], figure: Sequence[str]) -> None:
    """Print a table of the pairs of models, the verdict on each pair, and the paths in `figure`, or reasons for no figure."""
    print("fall of log k* from the small to the large model (negative: a rise), and the parts of the predicted fall")
    listing("pairs", [short_explanation(summary) for summary in summaries])
    for pair in summaries:
        print(f"{pair['small']} -> {pair['large']} on {pair['task']}, {pair['subspace']}: {pair['verdict']}: {pair['why']}")
    for path in figure:
        print(f"figure: {path}")


def print_claims(verdicts: list[dict[str, Any]], rows: Path | None) -> None:
    """Print each claim with the number of its verdicts and its figure, one sentence per case, and the path of the rows."""
    for name in dict.fromkeys(verdict["claim"] for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict["claim"] == name]
        counts = Counter(verdict["verdict"] for verdict in own)
        print(f"{name}: {own[0]['statement']}")
        print(f"  {', '.join(f'{count} {word}' for word, count in counts.items())} (figure: {own[0]['figure']})")
        for verdict in own:
            print(textwrap.fill(verdict["sentence"], WIDTH, initial_indent="  - ", subsequent_indent="    "))
    if not verdicts:
        print("no claim can be tested: the rows hold no thresholds, crossed seeds, methods, spectra or predictions")
    if rows:
        print(f"rows: {rows}")


def print_report(table: list[dict[str, Any]], answers: Sequence[Any], page: Path) -> None:
    """Print the table of thresholds, reasons for open intervals, answers to the study's questions, and the path of the page."""
    if table:
        several = len({row["setting"] for row in table}) > 1
        listing("table", [short_threshold_line(row, several) for row in table])
    for row in table:
        if row["why_open"]:
            print(f"{row['model']} on {row['setting']}: {row['why_open']}")
    for answer in answers:
        print(f"{answer.question} {answer.word.capitalize()}. {answer.sentence}")
    print(f"report: {page}")
