"""Mount a spec's method on the loaded model itself, and undo it at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from analyses.specs import Spec
from apet.subspaces import SCORE_NAMES


def mounted_for(spec: Spec, model: Any, scorer: Any, examples: list) -> Any:
    """Mount the spec's method on `model`. If the order is a score of the entries, `examples` determine the scores.

    If padding between virtual tokens and a text matters to the model, `scorer` makes batches of equal length from then on.
    """
    from apet.methods import PlacementConfig, make_tunable, method_named
    from apet.scoring import check_padding
    from apet.subspaces import score_entries

    def measured(space: Any) -> Any:
        return score_entries(spec.order, model, space, scorer, examples)

    order, score = ("score", measured) if spec.order in SCORE_NAMES else (spec.order, None)
    choice = PlacementConfig(
        spec.k, spec.matched, spec.position_seed, spec.operation_names, spec.scope, spec.unit, order, score, spec.subspace,
        spec.method_option,
    )  # fmt: skip
    mounted = make_tunable(spec.method, model, choice)
    if method_named(spec.method).virtual_tokens:
        check_padding(scorer, mounted.model)
    return mounted


@contextmanager
def tuned(spec: Spec, model: Any, scorer: Any, examples: list) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Mount the spec's method (`mounted_for`) on `model` for the duration of the block, and yield it with the values that it will change.

    Afterwards `model` is bitwise unchanged. The values belong to the trainable parameters of `model` itself: {name: tensor}.
    """
    from apet.methods import restored

    with restored(model) as keep:
        mounted = mounted_for(spec, model, scorer, examples)
        try:
            yield mounted, keep(mounted.model)
        finally:
            if mounted.attached is not None:
                mounted.attached.detach()
