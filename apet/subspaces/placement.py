"""Which entries are tuned: scope x unit x order, and the k that it really gives.

A unit is what is chosen at once: a single entry, a row, a column, a block, a whole tensor. The order ranks all units of
the space; a placement takes them from the front while they fit into k. So the placements of one order are nested in k.

The random order is a permutation of the units that is computed, not stored: a Feistel network over the smallest square
domain that holds them, walked until it falls inside ("cycle walking", Black and Rogaway 2002, "Ciphers with arbitrary
finite domains"). Memory is O(k) at any size, and neither device, dtype, module order nor k changes a position, nor does a version of
numpy: the network's keys are a hash of the seed, and all else is arithmetic of integers.
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

VERSION = 2  # of the positions that a seed names; 1 drew its keys by a method that numpy may change
ROUNDS = 6
BLOCK = 16  # entries a side

Scores = dict[str, np.ndarray]  # a score of every entry, by tensor


@dataclass(frozen=True)
class Placement:
    """The chosen entries, for a `requested` k that whole units may not fill."""

    coordinates: Coordinates
    requested: int
    unit: str
    order: str

    @property
    def k(self) -> int:
        return self.coordinates.k

    @property
    def index(self) -> np.ndarray:
        """The entries' global integers, ascending: int64 (k,), made anew at each call."""
        return self.coordinates.index

    @property
    def digest(self) -> str:
        """sha256 of `index`."""
        return self.coordinates.digest


def place(
    space: ParameterSpace, k: int, seed: int, unit: str = "entry", order: str = "random", scores: Scores | None = None,
    version: int = VERSION,
) -> Placement:  # fmt: skip
    """Return the first units of `space` in `order` that fit into k entries.

    unit: entry, row, column, block (16 x 16), tensor, of the tensor as it is stored (GPT-2 stores its matrices transposed).
    order: random; layer or kind (random, with the layers or the kinds of tensors taking turns); score (the highest sum of
    `scores` over a unit first; ties by position); reference (whole tensors, whatever the unit, at random, each taken if it
    still fits: the rule of the paper's code, not nested in k). `version` is one of KEYS.
    Raises UsageError unless 1 <= k <= D, for scores that are missing or not finite, and where not a single unit fits.
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
        raise UsageError(f"k = {k} does not hold a single {unit}: the first in this order has {int(units.sizes(ranked[:1])[0])} entries")
    return Placement(Coordinates(space, index), k, unit, order)


def _check_scores(space: ParameterSpace, scores: Scores | None) -> None:
    if scores is None:
        raise UsageError("the order by score needs scores")
    for name, shape in space.tensors:
        if name not in scores or tuple(scores[name].shape) != shape:
            problem = f"are {tuple(scores[name].shape)}" if name in scores else "are missing"
            raise UsageError(f"the scores of {name} {problem}, not {shape}")
        bad = int((~np.isfinite(scores[name])).sum())
        if bad:
            raise UsageError(f"{bad} scores of {name} are NaN or infinite: is the model's loss finite?")


def random_entries(size: int, k: int, seed: int, version: int = VERSION) -> np.ndarray:
    """Return the first k of a permutation of range(size) named by `seed`: int64 (k,), distinct, nested in k."""
    if not 1 <= k <= size:
        raise UsageError(f"k = {k} is outside 1..{size}, the number of parameters in scope")
    if seed < 0:
        raise UsageError(f"the position seed {seed} must be at least 0")
    half = max(1, (int(size - 1).bit_length() + 1) // 2)  # bits in each half of the domain 2^(2 half) >= size
    keys = KEYS[version](seed)
    places = _permute(np.arange(k, dtype=np.uint64), half, keys)
    outside = np.flatnonzero(places >= size)
    while len(outside):
        places[outside] = _permute(places[outside], half, keys)
        outside = outside[places[outside] >= size]
    return places.astype(np.int64)


def _keys(seed: int) -> np.ndarray:
    """Return a key for every round: the first 8 bytes, little-endian, of the sha256 of "placement {seed} {round}"."""
    hashes = (hashlib.sha256(f"placement {seed} {number}".encode()).digest() for number in range(ROUNDS))
    return np.array([int.from_bytes(hash_bytes[:8], "little") for hash_bytes in hashes], dtype=np.uint64)


def _first_keys(seed: int) -> np.ndarray:
    return generator(seed, "PLAC").integers(0, 2**63, ROUNDS, dtype=np.uint64)


KEYS: dict[int, Callable[[int], np.ndarray]] = {1: _first_keys, 2: _keys}


def _permute(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    """Return a bijection of [0, 2^(2 half)): Feistel rounds over (left, right) halves."""
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """Return the finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# A unit's size, (rows, columns), within a tensor seen as a matrix (m, n) of one or more matrices (height, n) below each other, such as
# the experts' matrices in a mixture. A vector is one row.
UNITS: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    "entry": lambda m, n, height: (1, 1),
    "row": lambda m, n, height: (1, n),
    "column": lambda m, n, height: (height, 1),
    "block": lambda m, n, height: (BLOCK, BLOCK),
    "tensor": lambda m, n, height: (m, n),
}


class _Units:
    """All units of a space, numbered tensor by tensor, row by row of the units' grid."""

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
        """Entries in the smallest unit: the last one of some tensor's grid."""
        return int(min(self.sizes(self.offsets[1:][self.counts > 0] - 1)))

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Entries in each of these units."""
        tensor = np.searchsorted(self.offsets, numbers, side="right") - 1
        row, column = np.divmod(numbers - self.offsets[tensor], np.array([g[1] for g in self.grids])[tensor])
        (m, n), (a, b) = (np.array(pairs).T for pairs in (self.matrices, self.tiles))
        height = np.minimum(a[tensor], m[tensor] - row * a[tensor])
        return height * np.minimum(b[tensor], n[tensor] - column * b[tensor])

    def entries(self, number: int) -> np.ndarray:
        """Return the unit's entries as global integers, ascending."""
        i = int(np.searchsorted(self.offsets, number, side="right")) - 1
        row, column = divmod(number - int(self.offsets[i]), self.grids[i][1])
        (m, n), (a, b) = self.matrices[i], self.tiles[i]
        rows, columns = np.arange(row * a, min(m, (row + 1) * a)), np.arange(column * b, min(n, (column + 1) * b))
        return int(self.space.offsets[i]) + (rows[:, None] * n + columns).ravel()

    def scores(self, scores: Scores) -> np.ndarray:
        """Sum of the entries' scores in each unit."""
        return np.concatenate([self._tile_sums(i, scores[name]) for i, (name, _) in enumerate(self.space.tensors)])

    def _tile_sums(self, i: int, values: np.ndarray) -> np.ndarray:
        (m, n), (a, b) = self.matrices[i], self.tiles[i]
        by_rows = np.add.reduceat(values.reshape(m, n).astype(np.float64), np.arange(0, m, a), axis=0)
        return np.add.reduceat(by_rows, np.arange(0, n, b), axis=1).ravel()


def _fill(units: _Units, order: np.ndarray, k: int, skip: bool) -> np.ndarray:
    """Entries of the units taken from the front of `order` while they fit; with `skip` each one that still fits."""
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
    """No more units than this can fit into k entries; at least one is tried."""
    return max(1, min(units.total, k // units.smallest))


def _random(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
    return random_entries(units.total, _at_most(units, k), seed, units.version)


def _taking_turns(label: Callable[[ParameterSpace, int], str]) -> Callable[..., np.ndarray]:
    """Groups of tensors take turns, in an order that the seed names; within each the units are in a random order of its own."""

    def rank(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
        groups: dict[str, list[int]] = {}
        for i in np.flatnonzero(units.counts):
            groups.setdefault(label(units.space, int(i)), []).append(int(i))
        shuffled = [sorted(groups)[i] for i in random_entries(len(groups), len(groups), seed, units.version)]
        offsets = [np.concatenate([[0], np.cumsum(units.counts[groups[name]])]) for name in shuffled]
        sizes = np.array([each[-1] for each in offsets])
        turns = _turns(sizes, _at_most(units, k))
        chosen, order = [], []
        for number, (name, bounds) in enumerate(zip(shuffled, offsets, strict=True)):
            inside = random_entries(int(bounds[-1]), min(turns, int(bounds[-1])), seed * len(groups) + number, units.version)
            which = np.searchsorted(bounds, inside, side="right") - 1
            chosen.append(units.offsets[np.array(groups[name])[which]] + inside - bounds[which])
            order.append(np.arange(len(inside)))
        return np.concatenate(chosen)[np.argsort(np.concatenate(order), kind="stable")]

    return rank


def _turns(sizes: np.ndarray, units: int) -> int:
    """After how many turns groups of these sizes have given so many units."""
    low, high = 1, int(sizes.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if np.minimum(sizes, middle).sum() >= units else (middle + 1, high)
    return low


def _by_score(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
    assert scores is not None
    values = units.scores(scores)
    most = _at_most(units, k)
    # Only the front is sorted; what ties with its last value is decided by position.
    cut = np.partition(values, len(values) - most)[len(values) - most]
    above, ties = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    return np.concatenate([above[np.argsort(-values[above], kind="stable")], ties[: most - len(above)]])


def _reference(units: _Units, k: int, seed: int, scores: Scores | None) -> np.ndarray:
    """Return the paper's code seeds Python's shuffle with k times the seed, so its sets are not nested."""
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
