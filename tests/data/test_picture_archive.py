"""Archives of labelled pictures: all layouts, one picture at a time, and damaged files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from salhub.data.picture_archive import PictureArchive
from tests.conftest import DATA

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 2, 0], dtype=np.uint8)
IS_TEST = np.array([False, True, False, False, True, False])


def jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def jpeg_arrays() -> dict[str, np.ndarray]:
    files = [jpeg(picture) for picture in PICTURES]
    return {
        "jpeg_bytes": np.frombuffer(b"".join(files), dtype=np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": LABELS,
        "is_test": IS_TEST,
        "class_names": np.array(["cat", "dog", "fox"]),
    }


@pytest.fixture
def plain_arrays() -> dict[str, np.ndarray]:
    return {
        "train_images": PICTURES[:4, ..., 0],
        "train_labels": LABELS[:4],
        "test_images": PICTURES[4:, ..., 0],
        "test_labels": LABELS[4:],
    }


@pytest.fixture
def part_arrays() -> dict[str, np.ndarray]:
    found = {"names": np.array(["cat, house cat", "dog", "fox"])}
    for part, rows in (("train", ~IS_TEST), ("val", IS_TEST)):
        files = [jpeg(picture) for picture in PICTURES[rows]]
        found[f"{part}_bytes"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        found[f"{part}_len"] = np.array([len(file) for file in files], dtype=np.int32)
        found[f"{part}_label"] = LABELS[rows].astype(np.int16)
    return found


def saved(folder, arrays) -> PictureArchive:
    np.savez(folder / "pictures.npz", **arrays)
    return PictureArchive(folder / "pictures.npz")


def test_files_in_two_parts_are_those_for_training_and_then_those_for_testing(
    tmp_path, part_arrays
):
    archive = saved(tmp_path, part_arrays)
    assert (len(archive), archive.class_names) == (6, ["cat, house cat", "dog", "fox"])
    assert archive.labels.tolist() == [*LABELS[~IS_TEST], *LABELS[IS_TEST]]
    assert archive.is_test.tolist() == [False] * 4 + [True] * 2
    expected = np.asarray(Image.open(io.BytesIO(jpeg(PICTURES[4]))))
    np.testing.assert_array_equal(archive.images(torch.tensor([5]))[0].permute(1, 2, 0), expected)


def test_files_in_two_parts_have_as_many_bytes_as_their_lengths_say(tmp_path, part_arrays):
    part_arrays["val_len"] = part_arrays["val_len"] + 1
    with pytest.raises(ValueError, match="is damaged: val_len must give the number of"):
        saved(tmp_path, part_arrays)


def test_files_one_after_another(tmp_path, jpeg_arrays):
    archive = saved(tmp_path, jpeg_arrays)
    assert (len(archive), archive.class_names) == (6, ["cat", "dog", "fox"])
    assert archive.labels.tolist() == LABELS.tolist()
    assert archive.is_test.tolist() == IS_TEST.tolist()
    found = archive.images(torch.tensor([4, 0]))
    expected = [np.asarray(Image.open(io.BytesIO(jpeg(PICTURES[index])))) for index in (4, 0)]
    assert found.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_plain_numbers(tmp_path, plain_arrays):
    archive = saved(tmp_path, plain_arrays)
    assert archive.class_names == ["0", "1", "2"]
    assert archive.is_test.tolist() == [False] * 4 + [True] * 2
    found = archive.images(torch.tensor([5, 1, 4]))
    np.testing.assert_array_equal(found[:, 0].numpy(), PICTURES[[5, 1, 4], ..., 0])


def test_description_tells_archives_apart_and_has_no_path(tmp_path, plain_arrays):
    first = saved(tmp_path, plain_arrays).describe()
    assert first == saved(tmp_path, plain_arrays).describe()
    assert (first["name"], first["num_images"]) == ("pictures", 6)
    plain_arrays["train_images"] = 255 - plain_arrays["train_images"]
    assert saved(tmp_path, plain_arrays).describe()["fingerprint"] != first["fingerprint"]


def test_what_is_no_archive_is_refused_in_one_sentence(tmp_path, jpeg_arrays, plain_arrays):
    with pytest.raises(FileNotFoundError, match="no archive of pictures"):
        PictureArchive(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npz is not an \.npz file of plain arrays\."):
        PictureArchive(tmp_path / "text.npz")
    with pytest.raises(ValueError, match=r"is not an \.npz file of plain arrays\."):
        saved(tmp_path, {"labels": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="has labels; expected is_test, jpeg_bytes"):
        saved(tmp_path, {"labels": LABELS})
    with pytest.raises(ValueError, match="is damaged"):
        saved(tmp_path, {**plain_arrays, "train_labels": LABELS})
    with pytest.raises(ValueError, match="labels 0 to 2 but 2 class names"):
        saved(tmp_path, {**jpeg_arrays, "class_names": np.array(["cat", "dog"])})
    damaged = {**jpeg_arrays, "jpeg_bytes": np.zeros_like(jpeg_arrays["jpeg_bytes"])}
    with pytest.raises(ValueError, match="picture 3 is not a JPEG file, or is damaged"):
        saved(tmp_path, damaged).images(torch.tensor([3]))


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [
        ("cifar10/cifar10_jpeg", (3, 32, 32), (50_000, 10_000)),
        ("mnist/mnist", (1, 28, 28), (60_000, 10_000)),
    ],
)
def test_the_archives_that_recipes_train_on(name, shape, counts):
    path = DATA / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"there is no {path}; set SALHUB_DATA to the folder of the data")
    archive = PictureArchive(path)
    assert ((~archive.is_test).sum(), archive.is_test.sum()) == counts
    assert archive.images(torch.tensor([0, len(archive) - 1])).shape[1:] == shape


def test_what_is_put_on_white_is_said(tmp_path, plain_arrays, caplog):
    for name, count in (("train_images", 4), ("test_images", 2)):
        pictures = np.full((count, 8, 8, 4), 255, dtype=np.uint8)
        pictures[0, :4, :, 3] = 0
        pictures[..., 0] = 9
        plain_arrays[name] = pictures
    plain_arrays["test_images"][..., 3] = 255
    archive = saved(tmp_path, plain_arrays)
    assert "1 of 4 pictures of train_images are partly transparent and" in caplog.text
    assert "test_images" not in caplog.text
    assert archive.images(torch.tensor([0]))[0, 0, :, 0].tolist() == [255] * 4 + [9] * 4
