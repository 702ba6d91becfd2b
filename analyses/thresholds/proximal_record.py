"""The proximal path recorded by a run of kind predict (`analyses.runs.proximal_paths`), and the position of a target on the path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.store import NoValue, statuses


@dataclass(frozen=True)
class Place:
    """The position on the path at which the envelope equals a target, between two points of the path."""

    before: int  # index of the point with the higher envelope
    after: int  # index of the point with the lower envelope
    share: float  # position between the two points on a log scale, 0..1
    kappa: float  # interpolated ridge
    part: float = 1.0  # target's share of the first point's gain, if the target lies before this point


@dataclass(frozen=True)
class Followed:
    """The arrays of a path with P points, the initial point first."""

    kappa: np.ndarray  # (P,), the ridge; infinite at the initial point
    loss: np.ndarray  # (P,)
    distance: np.ndarray  # (P,), |d|
    residual: np.ndarray  # (P,)
    nodes: np.ndarray  # (P, probes, nodes), quadrature nodes of the Gauss-Newton matrix
    weights: np.ndarray  # (P, probes, nodes)
    along: np.ndarray | None  # (P, 2, nodes), nodes and weights of the spectral measure of d
    t5: np.ndarray | None  # (P,), number of single entries that reach the point's envelope by T5

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], prefix: str = "") -> Followed | None:
        """Return the path from the arrays whose names begin with `prefix`; None if they hold no path."""
        if prefix + "path" not in arrays:
            return None
        kappa, loss, distance, residual, _ = arrays[prefix + "path"].T
        rest = (arrays.get(f"{prefix}path_{name}") for name in ("nodes", "weights", "along", "t5"))
        return cls(kappa, loss, distance, residual, *rest)  # pyright: ignore[reportArgumentType]

    @property
    def envelope(self) -> np.ndarray:
        """Loss plus penalty kappa |d|^2 / 2 at the points, (P,). The penalty is 0 at the initial point (kappa = inf, d = 0)."""
        return self.loss + np.append(0.0, self.kappa[1:] / 2 * self.distance[1:] ** 2)

    def where(self, target: float) -> Place | NoValue:
        """Return the position of the target on the path, or the reason why it lies off the path.

        The initial point has no finite ridge. Between it and the first point the gain is inversely proportional to the ridge and
        proportional to k.
        """
        envelope, kappa = self.envelope, self.kappa
        if target >= envelope[0]:
            return NoValue(statuses.BELOW, f"target {target:.6g} >= initial loss {envelope[0]:.6g}")
        if envelope.min() > target:
            return NoValue(statuses.ABOVE, f"target {target:.6g} < {envelope.min():.6g}, the lowest envelope of the path")
        after = max(1, int(np.argmax(envelope <= target)))
        before = after - 1
        if before == 0:
            part = (envelope[0] - target) / (envelope[0] - envelope[after])
            return Place(after, after, 0.0, kappa[after] / part, part)
        share = math.log(envelope[before] / target) / math.log(envelope[before] / envelope[after])
        return Place(before, after, share, math.exp((1 - share) * math.log(kappa[before]) + share * math.log(kappa[after])))

    @property
    def probes(self) -> int:
        """Number of probes of the sampled spectra, shared by all points; 0 for label words, whose spectra are exact."""
        return 0 if self.t5 is not None else self.nodes.shape[1]

    def n_eff(self, point: int, kappa: float) -> np.ndarray:
        """Return N_eff(kappa) = sum l / (l + kappa) at a point, estimated from each probe, (probes,); for an exact spectrum (1,)."""
        nodes = np.maximum(self.nodes[point], 0.0)
        return (self.weights[point] * nodes / (nodes + kappa)).sum(axis=1)

    def touching(self, point: int, ceiling: int) -> Any:
        """Return the quadratic tangent to the loss at a point, as a `landscape.GradientSpectrum`. The path must hold `along`."""
        from landscape.prediction import tangent_quadratic
        from landscape.spectra import SpectralMeasure

        assert self.along is not None
        along = SpectralMeasure(self.along[point][:1], self.along[point][1:], self.nodes.shape[2])
        return tangent_quadratic(along, self.kappa[point], self.loss[point], ceiling)
