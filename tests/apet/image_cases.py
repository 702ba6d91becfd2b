"""Small idx files: a bright square for each class, in noise."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray, magic: int) -> bytes:
    return gzip.compress(struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes())


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(images (count, 28, 28), labels (count,)), every class alike."""
    images = np.random.default_rng(seed).integers(0, 60, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count) % 10
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[9 * row : 9 * row + 7, 7 * column : 7 * column + 6] = 255
    return images, labels


def image_folder(folder: Path, train: int = 60, validation: int = 20) -> Path:
    for seed, (prefix, count) in enumerate((("train", train), ("t10k", validation))):
        images, labels = drawn(count, seed)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images, 0x803))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels, 0x801))
    return folder
