"""Reading MNIST's files: every byte at its position, and errors of one line."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apet.errors import MissingInput, UsageError
from apet.tasks.task_data import load_task
from tests.apet.image_cases import drawn, idx, image_folder

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def test_examples_hold_the_bytes_and_labels_of_the_files(tmp_path: Path) -> None:
    found = load_task("mnist", image_folder(tmp_path), test=True)
    assert set(found.splits) == {"train", "validation"}
    for split, count, seed in (("train", 60, 0), ("validation", 20, 1)):
        images, labels = drawn(count, seed)
        assert [example["label"] for example in found.splits[split]] == labels.tolist()
        assert b"".join(example["image"] for example in found.splits[split]) == images.tobytes()


def test_a_fingerprint_follows_from_pixels_and_labels_alone(tmp_path: Path) -> None:
    def known() -> str:
        return load_task("mnist", tmp_path).fingerprint

    image_folder(tmp_path)
    before = known()
    (tmp_path / IMAGES).write_bytes(gzip.compress(gzip.decompress((tmp_path / IMAGES).read_bytes()), 1, mtime=1))
    assert known() == before
    images, labels = drawn(60, 0)
    images[59, 27, 27] += 1
    (tmp_path / IMAGES).write_bytes(idx(images, 0x803))
    changed = known()
    (tmp_path / LABELS).write_bytes(idx(labels[::-1], 0x801))
    assert len({before, changed, known()}) == 3


def test_repeated_images_are_counted(tmp_path: Path) -> None:
    image_folder(tmp_path)
    images, _ = drawn(60, 0)
    images[1] = images[0]
    (tmp_path / IMAGES).write_bytes(idx(images, 0x803))
    assert load_task("mnist", tmp_path).repeated == {"train": 1, "validation": 0}


ZEROS = np.zeros((60, 28, 28))
WRONG: list[tuple[str, str, Callable[[bytes], bytes]]] = [
    (IMAGES, "is not a complete gzip file", lambda old: b"no gzip"),
    (IMAGES, "is not a complete gzip file", lambda old: old[:-20]),
    (IMAGES, "is not a complete gzip file", lambda old: old[:60] + b"\xff" * 20 + old[80:]),
    (IMAGES, "ends within its header", lambda old: gzip.compress(b"\0\0\x08\x03")),
    (IMAGES, "begins with the magic number 0x801 instead of 0x803", lambda old: idx(ZEROS, 0x801)),
    (IMAGES, "holds images of 14 x 56 pixels: 28 x 28 are needed", lambda old: idx(ZEROS.reshape(60, 14, 56), 0x803)),
    (IMAGES, "holds 47,039 bytes, but its header announces 47,040", lambda old: gzip.compress(gzip.decompress(old)[:-1])),
    (IMAGES, "holds 47,041 bytes, but its header announces 47,040", lambda old: gzip.compress(gzip.decompress(old) + b"\0")),
    (IMAGES, "holds 59 images, .* 60 labels", lambda old: idx(ZEROS[:59], 0x803)),
    (LABELS, "label 10 is not in 0..9", lambda old: idx(np.arange(60) % 11, 0x801)),
    (LABELS, "begins with the magic number 0x803 instead of 0x801", lambda old: idx(ZEROS, 0x803)),
]


@pytest.mark.parametrize(("name", "message", "change"), WRONG)
def test_a_wrong_file_is_named_in_one_line(name: str, message: str, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = image_folder(tmp_path) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=message) as refused:
        load_task("mnist", tmp_path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_no_image_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no image"):
        load_task("mnist", image_folder(tmp_path, train=0))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="read from a folder with .*: use data: ..."):
        load_task("mnist")
    with pytest.raises(MissingInput, match="no data folder"):
        load_task("mnist", tmp_path / "nowhere")
    (image_folder(tmp_path) / LABELS).unlink()
    with pytest.raises(MissingInput, match=re.escape(f"no file {tmp_path / LABELS}")):
        load_task("mnist", tmp_path)
