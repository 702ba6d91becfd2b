"""MNIST's own files, gzipped idx: read whole, checked whole.

http://yann.lecun.com/exdb/mnist/ : big-endian 32-bit words (a magic number, then the length of each dimension), then a byte a
pixel or label.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

from apet.errors import MissingInput, UsageError
from apet.tasks.examples import Example

IMAGE_SIDE = 28  # pixels
PREFIXES = {"train": "train", "validation": "t10k"}  # the published test images are what is reported, as is usual for MNIST
IMAGES, LABELS = ("images-idx3-ubyte", 0x803), ("labels-idx1-ubyte", 0x801)


def read_images(folder: Path | None, classes: int) -> dict[str, list[Example]]:
    """{split: [{"image": SIDE * SIDE bytes by rows, "label": 0..classes - 1}]} from the four files of `folder`.

    Raises MissingInput for a folder or file that is not there, UsageError for one that is not what its name says.
    """
    if folder is None:
        raise MissingInput(f"images are read from a folder with {_name('train', IMAGES[0])} and its like", data=...)
    if not folder.is_dir():
        raise MissingInput(f"no data folder {folder}")
    return {split: _examples(folder, prefix, classes) for split, prefix in PREFIXES.items()}


def _name(prefix: str, what: str) -> str:
    return f"{prefix}-{what}.gz"


def _examples(folder: Path, prefix: str, classes: int) -> list[Example]:
    images_path, labels_path = (folder / _name(prefix, what) for what, _ in (IMAGES, LABELS))
    images, labels = _read(images_path, IMAGES[1], (IMAGE_SIDE, IMAGE_SIDE)), _read(labels_path, LABELS[1], ())
    size = IMAGE_SIDE * IMAGE_SIDE
    if len(images) != size * len(labels):
        raise UsageError(f"{images_path} holds {len(images) // size} images, {labels_path} {len(labels)} labels")
    if not labels:
        raise UsageError(f"{images_path} holds no image")
    if max(labels) >= classes:
        raise UsageError(f"{labels_path}: label {max(labels)} is not in 0..{classes - 1}")
    return [{"image": images[i * size : (i + 1) * size], "label": label} for i, label in enumerate(labels)]


def _read(path: Path, magic: int, shape: tuple[int, ...]) -> bytes:
    """Return the bytes of all items, each of `shape`."""
    if not path.is_file():
        raise MissingInput(f"no file {path}: the folder must hold MNIST's four files as published")
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is no whole gzip file ({error})") from error
    head = struct.Struct(f">{2 + len(shape)}I")
    if len(content) < head.size:
        raise UsageError(f"{path} ends within its header")
    found, count, *rest = head.unpack_from(content)
    if found != magic:
        raise UsageError(f"{path} begins with the magic number {found:#x}, not {magic:#x}")
    if tuple(rest) != shape:
        raise UsageError(f"{path} holds images of {' x '.join(map(str, rest))}, not {' x '.join(map(str, shape))}")
    size = count
    for length in shape:
        size *= length
    if len(content) - head.size != size:
        raise UsageError(f"{path} announces {size:,} bytes and holds {len(content) - head.size:,}")
    return content[head.size :]
