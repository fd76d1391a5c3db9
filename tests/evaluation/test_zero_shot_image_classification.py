"""Zero-shot accuracy of a CLIP: plain arithmetic, seen and unseen classes, and refusals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from salhub.data.labelled_pictures import read_labelled_pictures
from salhub.data.labelled_split import LabelledSplit
from salhub.evaluation.zero_shot_image_classification import (
    TEMPLATES,
    add_accuracies,
    evaluate,
    text_features,
)
from salhub.results import Results
from tests import small_clip
from tests.evaluation.sharing import check_shared

CLASSES = ("cat, house cat", "dog", "red_car", "sea bird", "old tree", "house")
# The pictures of the last two classes were not learned.
LEARNED = torch.arange(8)


def write_pictures(folder, name="pictures", classes=CLASSES, side=16):
    """Noise, four pictures a class, two of them for testing."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(classes)), 2)
    content = {"class_names": np.array(classes)}
    for part in ("train", "test"):
        content[f"{part}_images"] = generator.integers(
            0, 256, (len(labels), side, side, 3), dtype=np.uint8
        )
        content[f"{part}_labels"] = labels
    np.savez(folder / f"{name}.npz", **content)
    return folder / f"{name}.npz"


@pytest.fixture
def model(tmp_path):
    """A CLIP that has learned nothing, in a folder of its own."""
    return small_clip.save(tmp_path / "clip")


def loaded(folder):
    return CLIPModel.from_pretrained(folder).eval(), small_clip.processor()


def slow_logits(clip, pictures, names, templates):
    """One picture and one sentence at a time."""
    processor, rows = small_clip.processor(), []
    sums = []
    for name in names:
        directions = []
        for template in templates:
            tokens = processor(text=[template.format(name)], return_tensors="pt")
            directions.append(F.normalize(clip.get_text_features(**tokens).pooler_output[0], dim=0))
        sums.append(torch.stack(directions).mean(0))
    for picture in pictures:
        pixels = processor(images=picture, return_tensors="pt")
        found = clip.get_image_features(**pixels).pooler_output[0]
        rows.append([float(F.cosine_similarity(found, one, dim=0)) for one in sums])
    return torch.tensor(rows)


def test_accuracy_is_that_of_the_nearest_sentences(model, tmp_path):
    path = write_pictures(tmp_path, side=20)
    clip, processor = loaded(model)
    results = evaluate(clip, processor, path, templates=["a photo of a {}.", "the {}"])
    data = read_labelled_pictures(path)
    pictures = [data.picture(place) for place in data.test_places.tolist()]
    labels = data.labels[data.test_places]
    # The first of several names, with spaces.
    names = ["cat", "dog", "red car", "sea bird", "old tree", "house"]
    with torch.no_grad():
        logits = slow_logits(clip, pictures, names, ("a photo of a {}.", "the {}"))
        one = slow_logits(clip, pictures, names, ("a photo of a {}.",))
    expected = {
        "accuracy/all": (logits.argmax(1) == labels).float().mean(),
        "accuracy/one_template": (one.argmax(1) == labels).float().mean(),
        "top5/all": (logits.topk(5).indices == labels[:, None]).any(1).float().mean(),
    }
    for name, value in expected.items():
        found = results.metric(name)
        assert (found.value, found.n) == (pytest.approx(float(value)), 12)
        assert found.interval[0] <= found.value <= found.interval[1]
    assert {metric.name for metric in results.metrics} >= set(expected)
    assert "the training data of the model are unknown" in results.tables[0].note
    assert results.data["templates"] == ["a photo of a {}.", "the {}"]


def test_classes_that_were_never_learned_are_told_apart(model, tmp_path):
    path = write_pictures(tmp_path)
    data = read_labelled_pictures(path)
    split = LabelledSplit(data.describe(), LEARNED, data.test_places)
    split.save(model)
    clip, processor = loaded(model)
    results = evaluate(clip, processor, path, other_data=str(write_pictures(tmp_path, "others")))
    learned, unseen = [0, 1, 2, 3], [4, 5]
    names = [name.partition(",")[0].replace("_", " ") for name in CLASSES]
    places, labels = data.test_places, data.labels[data.test_places]
    pictures = [data.picture(place) for place in places.tolist()]
    with torch.no_grad():
        logits = slow_logits(clip, pictures, names, TEMPLATES)
    for name, classes in (("learned", learned), ("unseen", unseen)):
        own = torch.isin(labels, torch.tensor(classes))
        among = torch.tensor(classes)[logits[own][:, classes].argmax(1)]
        found = results.metric(f"accuracy/{name}")
        assert found.n == int(own.sum()) == 2 * len(classes)
        assert found.value == pytest.approx(float((among == labels[own]).float().mean()))
    assert results.metric("accuracy/unseen_among_all").n == 2 * len(unseen)
    assert results.metric("accuracy/other/others").n == 12
    table = results.tables[0]
    assert [row[0] for row in table.rows][-1] == "those of others"
    assert [row[4] for row in table.rows if row[0].startswith("unseen, among them")] == [
        f"{100 / len(unseen):.1f}"
    ]
    assert "held out of training" in table.note


def test_a_group_is_compared_with_its_own_classes(caplog):
    results = Results(model="m", command="c", seed=0)
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 1.0, 2.0, 0.0]])
    groups = {
        "unseen": torch.tensor([1, 2]),
        "rare": torch.tensor([0, 3]),
        "one": torch.tensor([1]),
    }
    rows = add_accuracies(results, logits, torch.tensor([1, 2]), groups)
    assert results.metric("accuracy/all").value == 0
    assert results.metric("accuracy/unseen").value == 1
    assert results.metric("accuracy/unseen_among_all").value == 0
    assert rows[1][:3] == ["unseen, among themselves", 2, 2] and len(rows) == 3
    assert "There are no pictures of rare classes" in caplog.text


def test_long_names_are_cut_with_a_word(caplog):
    clip, words = small_clip.network(), small_clip.tokenizer()
    names = ["cat", "a very long name of an old tree that stands beside a house by the sea"]
    found = text_features(clip, words, names, ["a photo of a {}."])
    assert found.shape == (2, 16)
    assert (
        "1 of 2 sentences were cut to 24 tokens, the limit of the" in caplog.text
        and "very long" in caplog.text
    )
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("classes", "templates", "sentence"),
    [
        (CLASSES, ["a photo"], r"templates must be sentences with one \{\} each, .*got 'a photo'"),
        (CLASSES, [], "templates must be sentences with one"),
        (("crane, bird", "crane, machine"), None, "several classes are called 'crane'"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(model, tmp_path, classes, templates, sentence):
    path = write_pictures(tmp_path, classes=classes)
    with pytest.raises(ValueError, match=sentence):
        evaluate(*loaded(model), path, templates=templates)


def test_two_jobs_measure_what_one_measures(model, tmp_path):
    path = write_pictures(tmp_path, side=20)
    clip, processor = loaded(model)
    assert (
        check_shared(lambda: evaluate(clip, processor, path, batch_size=2), tmp_path / "rows") == 2
    )
