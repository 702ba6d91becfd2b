"""A proximal path that a run of kind predict has followed (analyses.runs.proximal_paths), and where a target lies on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.store import NoValue, statuses


@dataclass(frozen=True)
class Place:
    """Where the envelope is a target: between two points of the path."""

    before: int
    after: int
    share: float  # of the way from one to the other, in logarithms
    kappa: float
    part: float = 1.0  # of the first point's gain, where the target lies before it


@dataclass(frozen=True)
class Followed:
    """The arrays of a path of P points, the pretrained one first."""

    kappa: np.ndarray  # (P,)
    loss: np.ndarray
    distance: np.ndarray  # |d|
    residual: np.ndarray
    nodes: np.ndarray  # (P, probes, nodes), of the Gauss-Newton matrix
    weights: np.ndarray
    along: np.ndarray | None  # (P, 2, nodes), the measure of d
    t5: np.ndarray | None  # (P,), how many single entries reach the point's envelope

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], prefix: str = "") -> Followed | None:
        """From the arrays whose names begin so; None where there are none."""
        if prefix + "path" not in arrays:
            return None
        kappa, loss, distance, residual, _ = arrays[prefix + "path"].T
        rest = (arrays.get(f"{prefix}path_{name}") for name in ("nodes", "weights", "along", "t5"))
        return cls(kappa, loss, distance, residual, *rest)  # pyright: ignore[reportArgumentType]

    @property
    def envelope(self) -> np.ndarray:
        """Loss and penalty at the points; where the path begins (kappa = inf, d = 0) there is no penalty."""
        return self.loss + np.append(0.0, self.kappa[1:] / 2 * self.distance[1:] ** 2)

    def where(self, target: float) -> Place | NoValue:
        """The target's place, or why it is off the path.

        No ridge belongs to the pretrained point: near it the gain is inverse to the ridge, and k in proportion to it.
        """
        envelope, kappa = self.envelope, self.kappa
        if target >= envelope[0]:
            return NoValue(statuses.BELOW, f"target {target:.6g} >= initial loss {envelope[0]:.6g}")
        if envelope.min() > target:
            return NoValue(statuses.ABOVE, f"target {target:.6g} < {envelope.min():.6g}, where the path ends")
        after = max(1, int(np.argmax(envelope <= target)))
        before = after - 1
        if before == 0:
            part = (envelope[0] - target) / (envelope[0] - envelope[after])
            return Place(after, after, 0.0, kappa[after] / part, part)
        share = math.log(envelope[before] / target) / math.log(envelope[before] / envelope[after])
        return Place(before, after, share, math.exp((1 - share) * math.log(kappa[before]) + share * math.log(kappa[after])))

    @property
    def probes(self) -> int:
        """How many probes the spectra were sampled with, the same ones at every point; 0 for label words, whose spectra are exact."""
        return 0 if self.t5 is not None else self.nodes.shape[1]

    def n_eff(self, point: int, kappa: float) -> np.ndarray:
        """N_eff(kappa) = sum l / (l + kappa) at a point by each probe, (probes,); of an exact spectrum the number itself, (1,)."""
        nodes = np.maximum(self.nodes[point], 0.0)
        return (self.weights[point] * nodes / (nodes + kappa)).sum(axis=1)

    def touching(self, point: int, ceiling: int) -> Any:
        """The quadratic that touches the loss at a point, as landscape.GradientSpectrum; `along` must have been kept."""
        from landscape.prediction import tangent_quadratic
        from landscape.spectra import SpectralMeasure

        assert self.along is not None
        along = SpectralMeasure(self.along[point][:1], self.along[point][1:], self.nodes.shape[2])
        return tangent_quadratic(along, self.kappa[point], self.loss[point], ceiling)
