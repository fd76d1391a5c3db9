"""Labelled pictures in folders and tables: parts, classes, sizes, and files that are none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.data.labelled_pictures import PictureRows, read_labelled_pictures
from salhub.data.picture_preparation import PicturePreparation, view_box, with_image_size
from salhub.runner.image_classification import draw_split


def picture(seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    size = (20 + seed % 5, 30 - seed % 7, 3)
    return Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8))


def write(folder, classes, count=3):
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture(10 * place + index).save(folder / name / f"{index}.png")


def test_a_folder_of_classes_keeps_their_names_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, ["10", "9", "1"])
    data = read_labelled_pictures(tmp_path)
    assert data.class_names == ["1", "9", "10"] and data.labels.bincount().tolist() == [3, 3, 3]
    assert not data.is_test.any()
    first = data.picture(int((data.labels == 2).nonzero()[0, 0]))
    assert np.array_equal(np.asarray(first), np.asarray(picture(0)))
    same = read_labelled_pictures(tmp_path, class_names=["9", "10", "1"])
    assert same.class_names == ["9", "10", "1"]
    assert [same.class_names[i] for i in same.labels] == [data.class_names[i] for i in data.labels]


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("train", "test"), ("training", "dev", "test")]
)
def test_parts_are_kept_apart(tmp_path, parts):
    for part in parts:
        write(tmp_path / part, ["cat", "dog"], count=2)
    data = read_labelled_pictures(tmp_path)
    assert int(data.is_test.sum()) == 4 and len(data) == 4 * len(parts)
    assert int(data.is_validation.sum()) == 4 * (len(parts) == 3)


def test_a_picture_that_is_learned_and_held_out_is_said(tmp_path, caplog):
    for part in ("train", "val"):
        write(tmp_path / part, ["cat", "dog"], count=2)
    picture(7).save(tmp_path / "val" / "dog" / "1.png")
    arrays = np.stack([np.full((4, 4), shade, dtype=np.uint8) for shade in (1, 2)])
    labels = np.array([0, 1])
    np.savez(
        tmp_path / "a.npz", train_images=arrays, train_labels=labels, test_images=arrays[1:],
        test_labels=labels[1:],
    )  # fmt: skip
    options = SimpleNamespace(seed=0, num_train_images=None, num_test_images=None)
    for place, count in ((tmp_path, 3), (tmp_path / "a.npz", 1)):
        split = draw_split(read_labelled_pictures(place), options)
        assert split.data["num_held_out_that_are_learned"] == count
        said = f"{count} of the {len(split.test)} held-out pictures of {split.data['name']} also"
        assert said in caplog.text


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, ["car", "train"])
    data = read_labelled_pictures(tmp_path)
    assert data.class_names == ["car", "train"] and len(data) == 6


def test_pictures_that_cannot_be_read_are_named_and_left_out(tmp_path, caplog):
    write(tmp_path, ["cat", "dog"])
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog" / "page.jpg").write_text("<html>", encoding="utf-8")
    data = read_labelled_pictures(tmp_path)
    assert len(data) == 6
    assert "Left out 2 of 8 pictures that cannot be read" in caplog.text
    assert "cat/cut.png" in caplog.text and "dog/page.jpg" in caplog.text


def test_what_is_lost_of_a_picture_is_said(tmp_path, caplog):
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    moving = [Image.new("RGB", (9, 9), (shade, 0, 0)) for shade in (10, 200)]
    for name in ("a", "b"):
        (tmp_path / "odd" / name).mkdir(parents=True)
    odd = tmp_path / "odd"
    Image.new("LA", (9, 9), (9, 120)).save(odd / "a" / "grey.png")
    palette.save(odd / "a" / "palette.png", transparency=1)
    Image.new("RGBA", (9, 9), (9, 9, 9, 255)).save(odd / "a" / "opaque.png")
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(odd / "b" / "deep.png")
    moving[0].save(odd / "b" / "moving.gif", save_all=True, append_images=moving[1:])
    data = read_labelled_pictures(odd)
    said = caplog.text
    assert "are partly transparent and were placed on white" in said
    assert "have more than 8 bits per channel and were reduced to 8" in said
    assert "have several frames, of which only the first is used" in said
    [place] = [p for p in range(5) if "palette" in data._titles[p]]
    assert data.picture(place).getpixel((0, 0)) == (255, 255, 255)


def test_what_a_classifier_cannot_learn_from_is_refused(tmp_path):
    write(tmp_path / "one", ["cat"])
    with pytest.raises(ValueError, match="has 1 class, but a classifier"):
        read_labelled_pictures(tmp_path / "one")
    write(tmp_path / "odd" / "train", ["cat", "dog"])
    write(tmp_path / "odd" / "test", ["cat", "fox"])
    with pytest.raises(ValueError, match="has the class 'fox' only outside its training"):
        read_labelled_pictures(tmp_path / "odd")
    with pytest.raises(FileNotFoundError, match=r"do not exist; give a file or folder"):
        read_labelled_pictures(tmp_path / "nowhere")


def test_tables_that_datasets_has_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features(
        {"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["b", "a"])}
    )
    rows = {"photo": [picture(i) for i in range(4)], "kind": [0, 1, 1, -1]}
    saved = datasets.Dataset.from_dict(rows, features=kinds)
    saved.save_to_disk(tmp_path / "saved")
    saved.to_parquet(tmp_path / "rows.parquet")
    for name in ("saved", "rows.parquet"):
        with pytest.raises(ValueError, match="label_column: it has 'photo', 'kind'"):
            read_labelled_pictures(tmp_path / name)
        data = read_labelled_pictures(tmp_path / name, label_column="kind")
        assert data.class_names == ["b", "a"] and data.labels.tolist() == [0, 1, 1]
        assert np.array_equal(np.asarray(data.picture(2)), np.asarray(picture(2)))


def test_two_data_sets_are_told_apart_and_no_place_is_named(tmp_path):
    write(tmp_path / "a", ["cat", "dog"])
    first = read_labelled_pictures(tmp_path / "a").describe()
    assert first == read_labelled_pictures(tmp_path / "a").describe()
    picture(99).save(tmp_path / "a" / "cat" / "1.png")
    second = read_labelled_pictures(tmp_path / "a").describe()
    assert second["fingerprint"] != first["fingerprint"] and str(tmp_path) not in str(second)


def test_rows_are_what_the_image_processor_makes_of_each_file(tmp_path):
    write(tmp_path, ["cat", "dog"])
    processor = CifarResNetImageProcessor.for_image_size(12)
    data = read_labelled_pictures(tmp_path)
    rows = PictureRows(data, torch.tensor([5, 0, 3]), PicturePreparation(processor))
    expected = processor([data.picture(3), data.picture(5)], return_tensors="pt")["pixel_values"]
    assert torch.equal(rows[torch.tensor([2, 0])], expected)
    assert torch.equal(rows.subset(torch.tensor([1, 2]))[1:], expected[:1])
    with pytest.raises(ValueError, match="have several sizes; set image_size, or use the recipe"):
        data.images(torch.arange(6))
    assert data.images(torch.arange(6), 8).shape == (6, 3, 8, 8)


def test_a_view_is_a_part_of_the_picture_and_fills_the_input(tmp_path):
    write(tmp_path, ["cat", "dog"])
    preparation = PicturePreparation(CifarResNetImageProcessor.for_image_size(12))
    whole = picture(0)
    for view in torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).tolist():
        left, top, right, bottom = view_box(*whole.size, view)
        assert 0 <= left < right <= whole.width + 1e-9 and 0 <= top < bottom <= whole.height + 1e-9
        assert (right - left) * (bottom - top) > 0.15 * whole.width * whole.height
    plain, mirrored = (preparation.of_view(whole, (0.5, 0.5, 0.2, 0.3, x)) for x in (0.9, 0.1))
    assert torch.allclose(plain.flip(-1), mirrored)
    box = view_box(*whole.size, (0.5, 0.5, 0.2, 0.3))
    part = whole.resize((12, 12), preparation.image_processor.resample, box=box)
    pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)[None]
    assert torch.allclose(preparation.normalized(pixels.float() / 255)[0], plain)


def test_an_image_processor_takes_another_size():
    transformers = pytest.importorskip("transformers")
    for processor in (
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
        transformers.CLIPImageProcessor(),
        CifarResNetImageProcessor.for_image_size(8),
    ):
        changed = PicturePreparation(with_image_size(processor, 48))
        assert changed.input_size == (48, 48)


def test_folders_that_a_mac_adds_are_no_classes_and_no_parts(tmp_path):
    for part in ("train", "test"):
        for name in ("hen", "cock"):
            for folder in (tmp_path / part / name, tmp_path / "__MACOSX" / part / name):
                folder.mkdir(parents=True)
                Image.new("RGB", (4, 3)).save(folder / "x.png")
                (folder / "._x.png").write_bytes(b"\0\5\26\7")
    assert len(read_labelled_pictures(tmp_path).labels) == 4


def test_folders_of_parts_without_classes_are_refused(tmp_path):
    write(tmp_path, ["train", "test"])
    with pytest.raises(
        ValueError, match=r"are named like the parts of a data set but have no class"
    ):
        read_labelled_pictures(tmp_path)


def test_a_folder_with_only_a_part_to_measure_on_says_that_nothing_is_learned(tmp_path):
    write(tmp_path / "val", ["cat", "dog"])
    with pytest.raises(ValueError, match="has the part val but no training pictures"):
        read_labelled_pictures(tmp_path)
    assert len(read_labelled_pictures(tmp_path, to_learn=False)) == 6


def test_the_index_of_another_program_is_left_out(tmp_path, caplog):
    write(tmp_path, ["cat", "dog"])
    for content in ('{"version": 3}', '[{"page": 1}]', "[]"):
        (tmp_path / "index.json").write_text(content, encoding="utf-8")
        assert read_labelled_pictures(tmp_path).class_names == ["cat", "dog"]
    assert "Left out 1 file of another kind (index.json)" in caplog.text
    (tmp_path / "index.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not JSON"):
        read_labelled_pictures(tmp_path)


def test_pictures_that_would_stop_the_run_are_left_out_before_it(tmp_path, caplog, monkeypatch):
    write(tmp_path, ["cat", "dog"])
    wide = Image.fromarray(np.full((9, 9), 5000.0, dtype=np.float32))
    wide.save(tmp_path / "cat" / "float.tiff")
    Image.new("RGB", (50, 40)).save(tmp_path / "dog" / "large.jpg")
    monkeypatch.setattr("salhub.data.picture_decoding.MAX_PIXELS", 1000)
    data = read_labelled_pictures(tmp_path)
    assert [len(data), "Left out 2 of 8 pictures that cannot be read" in caplog.text] == [6, True]
    assert "The picture's values range from" in caplog.text
    assert "'dog/large.jpg' is too large (50 x 40 pixels)" in caplog.text
    assert [data.picture(place).mode for place in range(6)] == ["RGB"] * 6


def test_an_empty_folder_of_a_class_is_said(tmp_path, caplog):
    write(tmp_path, ["cat", "dog"])
    (tmp_path / "fox").mkdir()
    assert read_labelled_pictures(tmp_path).class_names == ["cat", "dog"]
    assert "fox of" in caplog.text and "contain no pictures, so they are not classes" in caplog.text


def test_names_are_the_same_however_their_letters_are_put_together(tmp_path):
    composed, taken_apart = "M\u00fccke", "Mu\u0308cke"
    write(tmp_path / "train", [composed, "cat"])
    write(tmp_path / "test", [taken_apart, "cat"])
    assert read_labelled_pictures(tmp_path).class_names == [composed, "cat"]
    of_model = read_labelled_pictures(tmp_path, class_names=[taken_apart, "cat"])
    assert of_model.class_names == [taken_apart, "cat"]
    assert of_model.labels.bincount().tolist() == [6, 6]
    assert of_model.is_test.sum() == 6


def test_an_archive_takes_the_order_of_a_model_with_the_same_classes(tmp_path):
    pictures = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "two.npz", train_images=pictures, train_labels=[0, 1, 1],
        test_images=pictures[:1], test_labels=[0], class_names=["dog", "cat"],
    )  # fmt: skip
    assert read_labelled_pictures(tmp_path / "two.npz").class_names == ["dog", "cat"]
    data = read_labelled_pictures(tmp_path / "two.npz", class_names=["cat", "dog"])
    assert data.class_names == ["cat", "dog"] and data.labels.tolist() == [1, 0, 0, 1]


def test_tables_are_checked_as_folders_are(tmp_path):
    datasets = pytest.importorskip("datasets")

    def saved(name, **parts):
        tables = {}
        for part, (names, labels) in parts.items():
            kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
            rows = {"image": [picture(i) for i in range(len(labels))], "label": labels}
            tables[part] = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
        datasets.DatasetDict(tables).save_to_disk(tmp_path / name)
        return tmp_path / name

    with pytest.raises(ValueError, match="one has 1 class in the column 'label', but a classifier"):
        read_labelled_pictures(saved("one", train=(["a", "b"], [0, 0])))
    odd = saved("odd", train=(["a", "b"], [0, 1]), test=(["a", "c"], [0, 1]))
    with pytest.raises(ValueError, match="odd has the class 'c' only outside its"):
        read_labelled_pictures(odd)
    few = saved("few", train=(["b", "a", "c"], [0, 1, 2]), test=(["c", "a"], [0, 1]))
    data = read_labelled_pictures(few)
    assert data.class_names == ["b", "a", "c"] and data.labels.tolist() == [0, 1, 2, 2, 1]


def test_a_file_that_is_no_data_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"photo.jpg is not labelled pictures; give a folder with"):
        read_labelled_pictures(tmp_path / "photo.jpg")
