"""Read and check the MNIST files in their published format, gzipped idx.

The format (http://yann.lecun.com/exdb/mnist/) is a header of big-endian 32-bit words (a magic number, then the length of each dimension),
followed by one byte per pixel or label.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

from apet.errors import MissingInput, UsageError
from apet.tasks.examples import Example
from apet.tasks.row_files import check_folder

IMAGE_SIDE = 28  # pixels
PREFIXES = {"train": "train", "validation": "t10k"}  # scores are reported on the published test images, as usual
IMAGES, LABELS = ("images-idx3-ubyte", 0x803), ("labels-idx1-ubyte", 0x801)


def read_images(folder: Path | None, classes: int) -> dict[str, list[Example]]:
    """Return {split: examples} from the four files of `folder`.

    An example is {"image": IMAGE_SIDE * IMAGE_SIDE bytes in row order, "label": 0..classes - 1}. Raises MissingInput for a missing folder
    or file, and UsageError for a file whose content does not match its name.
    """
    if folder is None:
        names = [_name(prefix, kind) for prefix in PREFIXES.values() for kind, _ in (IMAGES, LABELS)]
        raise MissingInput(f"MNIST images are read from a folder with {', '.join(names)}", data=...)
    check_folder(folder)
    return {split: _examples(folder, prefix, classes) for split, prefix in PREFIXES.items()}


def _name(prefix: str, kind: str) -> str:
    return f"{prefix}-{kind}.gz"


def _examples(folder: Path, prefix: str, classes: int) -> list[Example]:
    images_path, labels_path = (folder / _name(prefix, kind) for kind, _ in (IMAGES, LABELS))
    images, labels = _read(images_path, IMAGES[1], (IMAGE_SIDE, IMAGE_SIDE)), _read(labels_path, LABELS[1], ())
    size = IMAGE_SIDE * IMAGE_SIDE
    if len(images) != size * len(labels):
        raise UsageError(
            f"{images_path} holds {len(images) // size} images, but {labels_path} holds {len(labels)} labels: use files of the same set"
        )
    if not labels:
        raise UsageError(f"{images_path} holds no image: use MNIST's files as published")
    if max(labels) >= classes:
        raise UsageError(f"{labels_path}: label {max(labels)} is not in 0..{classes - 1}")
    return [{"image": images[i * size : (i + 1) * size], "label": label} for i, label in enumerate(labels)]


def _read(path: Path, magic: int, shape: tuple[int, ...]) -> bytes:
    """Return the bytes of all items of a file. `shape` is the shape of an item."""
    if not path.is_file():
        raise MissingInput(f"no file {path}: the folder must hold MNIST's four files as published")
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is not a complete gzip file ({error}): download it again") from error
    head = struct.Struct(f">{2 + len(shape)}I")
    if len(content) < head.size:
        raise UsageError(f"{path} ends within its header: download it again")
    first_word, count, *lengths = head.unpack_from(content)
    if first_word != magic:
        raise UsageError(f"{path} begins with the magic number {first_word:#x} instead of {magic:#x}: use MNIST's file as published")
    if tuple(lengths) != shape:
        raise UsageError(f"{path} holds images of {' x '.join(map(str, lengths))} pixels: {' x '.join(map(str, shape))} are needed")
    size = count
    for length in shape:
        size *= length
    if len(content) - head.size != size:
        raise UsageError(f"{path} holds {len(content) - head.size:,} bytes, but its header announces {size:,}: download it again")
    return content[head.size :]
