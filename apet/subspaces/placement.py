"""Placement: the tuned entries as a function of scope, unit, order and seed, and the k that whole units actually fill.

A unit is a group of entries that is chosen together: a single entry, a row, a column, a block or a whole tensor. The order ranks all
units of the space. A placement takes the first units of the ranking that fit into k entries, so placements of one order are nested in k.

The random order is a permutation of the units that is computed and not stored: a Feistel network over the smallest square domain that
holds all units. The network is applied repeatedly until the result is a valid unit ("cycle walking", Black and Rogaway 2002, "Ciphers with
arbitrary finite domains"). A placement takes O(k) memory for any size of the model. Positions do not depend on the device, the dtype, the
order of modules, k or the version of numpy: the network's keys are a hash of the seed, and the rest is integer arithmetic.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from apet.errors import UsageError, lookup
from apet.random_numbers import generator
from apet.subspaces.coordinates import Coordinates
from apet.subspaces.placement_names import ORDER_NAMES, SCORE_NAMES, UNIT_NAMES
from apet.subspaces.scope import kind_label, layer_label
from apet.subspaces.space import ParameterSpace

VERSION = 2  # of the map from seeds to positions; version 1 draws its keys by a method that numpy may change
ROUNDS = 6
BLOCK = 16  # entries per side

Scores = dict[str, np.ndarray]  # a score for every entry, by tensor


@dataclass(frozen=True)
class Placement:
    """The chosen entries. Whole units may fill fewer than the `requested` k entries."""

    coordinates: Coordinates
    requested: int
    unit: str
    order: str

    @property
    def k(self) -> int:
        return self.coordinates.k

    @property
    def index(self) -> np.ndarray:
        """Global indices of the entries, ascending: int64 (k,), computed at each access."""
        return self.coordinates.index

    @property
    def digest(self) -> str:
        """The sha256 of `index`."""
        return self.coordinates.digest


def place(
    space: ParameterSpace, k: int, seed: int, unit: str = "entry", order: str = "random", scores: Scores | None = None,
    version: int = VERSION,
) -> Placement:  # fmt: skip
    """Return the first units of `space` in `order` that fit into k entries.

    `unit` is entry, row, column, block (16 x 16) or tensor, of the tensor as stored (GPT-2 stores its matrices transposed).
    `version` is a key of KEYS. `order` is one of

    - random
    - layer, kind: random, and layers (or kinds of tensors) take turns
    - score: descending sum of `scores` over the unit; ties are broken by position
    - reference: the rule of the APET paper's code (Su et al. 2023, arXiv 2306.02320), which is not nested in k: whole tensors in random
      order, for any `unit`, taking each tensor that still fits

    Raises UsageError unless 1 <= k <= D, if `scores` are missing or not finite, and if no unit fits into k entries.
    """
    if not 1 <= k <= space.size:
        raise UsageError(f"k = {k} is outside 1..{space.size}, the number of parameters in scope")
    rank, unit = lookup(ORDERS, order, "order"), "tensor" if order == "reference" else unit
    units = _Units(space, lookup(UNITS, unit, "unit"), version)
    if order == "score":
        _check_scores(space, scores)
    if k == space.size:  # all units fit, in any order
        return Placement(Coordinates(space), k, unit, order)
    ranked = rank(units, k, seed, scores)
    index = _fill(units, ranked, k, skip=order == "reference")
    if not len(index):
        raise UsageError(f"k = {k} is too small for a {unit}: the first in this order has {int(units.sizes(ranked[:1])[0])} entries")
    return Placement(Coordinates(space, index), k, unit, order)


def _check_scores(space: ParameterSpace, scores: Scores | None) -> None:
    if scores is None:
        raise UsageError("the order 'score' needs scores of every tensor: pass `scores`")
    for name, shape in space.tensors:
        if name not in scores or tuple(scores[name].shape) != shape:
            problem = f"have the shape {tuple(scores[name].shape)}" if name in scores else "are missing"
            raise UsageError(f"the scores of {name} {problem}: they must have the shape {shape}")
        bad = int((~np.isfinite(scores[name])).sum())
        if bad:
            raise UsageError(f"{bad} scores of {name} are NaN or infinite: check that the model's loss is finite")


def random_entries(size: int, k: int, seed: int, version: int = VERSION) -> np.ndarray:
    """Return the first k numbers of the permutation of range(size) that `seed` selects: int64 (k,), distinct, nested in k."""
    if not 1 <= k <= size:
        raise UsageError(f"k = {k} is outside 1..{size}, the number of parameters in scope")
    if seed < 0:
        raise UsageError(f"the position seed must be at least 0, got {seed}")
    half = max(1, (int(size - 1).bit_length() + 1) // 2)  # bits in each half of the domain 2^(2 half) >= size
    keys = KEYS[version](seed)
    positions = _permute(np.arange(k, dtype=np.uint64), half, keys)
    outside = np.flatnonzero(positions >= size)
    while len(outside):
        positions[outside] = _permute(positions[outside], half, keys)
        outside = outside[positions[outside] >= size]
    return positions.astype(np.int64)


def _keys(seed: int) -> np.ndarray:
    """Return one key per round, uint64 (ROUNDS,): the first 8 bytes (little-endian) of the sha256 of "placement {seed} {round}"."""
    hashes = (hashlib.sha256(f"placement {seed} {number}".encode()).digest() for number in range(ROUNDS))
    return np.array([int.from_bytes(hash_bytes[:8], "little") for hash_bytes in hashes], dtype=np.uint64)


def _first_keys(seed: int) -> np.ndarray:
    return generator(seed, "PLAC").integers(0, 2**63, ROUNDS, dtype=np.uint64)


KEYS: dict[int, Callable[[int], np.ndarray]] = {1: _first_keys, 2: _keys}


def _permute(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    """Apply a bijection of [0, 2^(2 half)) to `values`: Feistel rounds over (left, right) halves of `half` bits."""
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply the finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# The size (rows, columns) of a unit. A tensor is read as a matrix (m, n): one or more matrices (height, n) stacked vertically, such as the
# experts of a mixture. A vector is one row.
UNITS: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    "entry": lambda m, n, height: (1, 1),
    "row": lambda m, n, height: (1, n),
    "column": lambda m, n, height: (height, 1),
    "block": lambda m, n, height: (BLOCK, BLOCK),
    "tensor": lambda m, n, height: (m, n),
}


class _Units:
    """All units of a space, numbered tensor by tensor, and within a tensor row by row of the grid of units."""

    def __init__(self, space: ParameterSpace, size: Callable[[int, int, int], tuple[int, int]], version: int):
        self.space, self.version = space, version
        self.matrices = [(math.prod(shape[:-1]), shape[-1]) if shape else (1, 1) for _, shape in space.tensors]
        heights = [shape[-2] if len(shape) > 1 else 1 for _, shape in space.tensors]
        tiles = (size(m, n, height) for (m, n), height in zip(self.matrices, heights, strict=True))
        self.tiles = [(max(1, a), max(1, b)) for a, b in tiles]
        self.grids = [(math.ceil(m / a), math.ceil(n / b)) for (m, n), (a, b) in zip(self.matrices, self.tiles, strict=True)]
        self.counts = np.array([rows * columns for rows, columns in self.grids], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        self.total = int(self.offsets[-1])

    @property
    def smallest(self) -> int:
        """Number of entries in the smallest unit, which is the last unit of some tensor's grid."""
        return int(min(self.sizes(self.offsets[1:][self.counts > 0] - 1)))

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return the number of entries in each of the units `numbers`."""
        tensor = np.searchsorted(self.offsets, numbers, side="right") - 1
        row, column = np.divmod(numbers - self.offsets[tensor], np.array([g[1] for g in self.grids])[tensor])
        (m, n), (a, b) = (np.array(pairs).T for pairs in (self.matrices, self.tiles))
        height = np.minimum(a[tensor], m[tensor] - row * a[tensor])
        return height * np.minimum(b[tensor], n[tensor] - column * b[tensor])

    def entries(self, number: int) -> np.ndarray:
        """Return the global indices of the entries of unit `number`, ascending."""
        i = int(np.searchsorted(self.offsets, number, side="right")) - 1
        row, column = divmod(number - int(self.offsets[i]), self.grids[i][1])
        (m, n), (a, b) = self.matrices[i], self.tiles[i]
        rows, columns = np.arange(row * a, min(m, (row + 1) * a)), np.arange(column * b, min(n, (column + 1) * b))
        return int(self.space.offsets[i]) + (rows[:, None] * n + columns).ravel()

    def scores(self, scores: Scores) -> np.ndarray:
        """Return the sum of the entries' scores in each unit."""
        return np.concatenate([self._tile_sums(i, scores[name]) for i, (name, _) in enumerate(self.space.tensors)])

    def _tile_sums(self, i: int, values: np.ndarray) -> np.ndarray:
        (m, n), (a, b) = self.matrices[i], self.tiles[i]
        by_rows = np.add.reduceat(values.reshape(m, n).astype(np.float64), np.arange(0, m, a), axis=0)
        return np.add.reduceat(by_rows, np.arange(0, n, b), axis=1).ravel()


def _fill(units: _Units, order: np.ndarray, k: int, skip: bool) -> np.ndarray:
    """Return the entries of the units that fit into k, from the front of `order`, as global indices.

    The first unit that does not fit ends the selection. With `skip`, it is left out and later units that fit are still taken.
    """
    sizes = units.sizes(order)
    if skip:
        taken, room = [], k
        for number, size in zip(order, sizes, strict=True):
            if size <= room:
                taken.append(number)
                room -= size
    else:
        taken = order[: np.searchsorted(np.cumsum(sizes), k, side="right")]
    if units.total == units.space.size:  # units are entries
        return np.asarray(taken, dtype=np.int64)
    return np.concatenate([units.entries(int(number)) for number in taken] or [np.zeros(0, np.int64)])


def _at_most(units: _Units, k: int) -> int:
    """Return an upper bound, at least 1, on the number of units that fit into k entries."""
    return max(1, min(units.total, k // units.smallest))


def _random(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
    return random_entries(units.total, _at_most(units, k), seed, units.version)


def _taking_turns(label: Callable[[ParameterSpace, int], str]) -> Callable[..., np.ndarray]:
    """Return an order in which the groups of tensors (by `label`) take turns.

    The seed determines the order of the groups, and a separate random order of the units within each group.
    """

    def rank(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
        groups: dict[str, list[int]] = {}
        for i in np.flatnonzero(units.counts):
            groups.setdefault(label(units.space, int(i)), []).append(int(i))
        shuffled = [sorted(groups)[i] for i in random_entries(len(groups), len(groups), seed, units.version)]
        offsets = [np.concatenate([[0], np.cumsum(units.counts[groups[name]])]) for name in shuffled]
        sizes = np.array([bounds[-1] for bounds in offsets])
        turns = _turns(sizes, _at_most(units, k))
        chosen, order = [], []
        for number, (name, bounds) in enumerate(zip(shuffled, offsets, strict=True)):
            inside = random_entries(int(bounds[-1]), min(turns, int(bounds[-1])), seed * len(groups) + number, units.version)
            tensor = np.searchsorted(bounds, inside, side="right") - 1
            chosen.append(units.offsets[np.array(groups[name])[tensor]] + inside - bounds[tensor])
            order.append(np.arange(len(inside)))
        return np.concatenate(chosen)[np.argsort(np.concatenate(order), kind="stable")]

    return rank


def _turns(sizes: np.ndarray, units: int) -> int:
    """Return the number of turns after which groups of these `sizes` have supplied at least this number of `units`."""
    low, high = 1, int(sizes.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if np.minimum(sizes, middle).sum() >= units else (middle + 1, high)
    return low


def _by_score(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
    assert scores is not None
    values = units.scores(scores)
    most = _at_most(units, k)
    # Only the first `most` units are sorted. Ties with the last value are broken by position.
    cut = np.partition(values, len(values) - most)[len(values) - most]
    above, ties = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    return np.concatenate([above[np.argsort(-values[above], kind="stable")], ties[: most - len(above)]])


def _reference(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
    """Return the units in the order of the paper's code, which seeds Python's shuffle with k times the seed: the sets are not nested."""
    order = list(range(units.total))
    random.Random(k * seed).shuffle(order)
    return np.array(order, dtype=np.int64)


ORDERS: dict[str, Callable[..., np.ndarray]] = {
    "random": _random,
    "layer": _taking_turns(lambda space, i: layer_label(space.tensors[i][0])),
    "kind": _taking_turns(lambda space, i: kind_label(space.roles[i])),
    "score": _by_score,
    "reference": _reference,
}
assert tuple(UNITS) == UNIT_NAMES and {*ORDERS} - {"score"} == {*ORDER_NAMES} - {*SCORE_NAMES}
