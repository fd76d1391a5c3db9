"""The pipeline of several tasks: what goes in, what comes out, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import salhub
from salhub.cli import app
from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.models.rep_mtl.image_processing_rep_mtl import RepMTLImageProcessor
from salhub.models.rep_mtl.pipeline_rep_mtl import MultiTaskPipeline
from salhub.models.rep_mtl.result_rep_mtl import MultiTaskResult
from salhub.models.rep_mtl.sample_rooms import NUM_SAMPLES, sample_room
from salhub.models.rep_mtl.task_pictures import label_colors, task_picture
from tests.models.rep_mtl.small_tasks import EVERY_KIND
from tests.models.rep_mtl.test_modeling_rep_mtl import model_of

NAME = "salhub/rep-mtl-rooms"


@pytest.fixture(scope="module")
def see():
    return salhub.pipeline(NAME, device="cpu")


@pytest.fixture(scope="module")
def room(see):
    return see("sample:room-7")


@pytest.fixture(scope="module")
def every_kind():
    processor = RepMTLImageProcessor(size={"height": 16, "width": 16})
    return MultiTaskPipeline.from_model(model_of().eval(), image_processor=processor)


def test_a_room_has_answers_near_its_truth(room):
    truth = sample_room(7)
    np.testing.assert_array_equal(np.asarray(room.image), truth.picture)
    assert room.answers["segmentation"].shape == (64, 64) and room.saliency.shape == (3, 16, 16)
    assert room.metrics["segmentation"]["pixel_accuracy"] > 0.6
    error = np.abs(room.answers["depth"] - truth.depth).mean()
    assert room.metrics["depth"]["abs_error"] == pytest.approx(error, abs=1e-5)
    np.testing.assert_allclose(np.linalg.norm(room.answers["normals"], axis=0), 1, atol=1e-3)
    assert room.model_name == NAME and room.image_name == "room-7" and room.notes == []


def test_saliency_is_that_of_the_model(see, room):
    pixels = see.image_processor(room.image, return_tensors="pt")["pixel_values"]
    found = see.model(pixels, output_saliency=True)
    np.testing.assert_allclose(room.saliency, found.saliency[0], rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(room.dominance, found.dominance[0])
    entropy = found.entropy[0] / np.log(3)
    np.testing.assert_allclose(room.entropy, entropy, rtol=1e-4, atol=1e-6)
    assert sum(room.ruled.values()) == pytest.approx(1)
    np.testing.assert_allclose(np.diag(room.affinity), 1, atol=1e-5)


def test_a_batch_gives_what_its_pictures_give_alone(see, room):
    both = see(["sample:room-7", "sample:room"], batch_size=2)
    np.testing.assert_allclose(both[0].answers["depth"], room.answers["depth"], atol=1e-4)
    np.testing.assert_allclose(both[0].saliency, room.saliency, rtol=1e-3, atol=1e-6)
    assert both[1].image_name == "room-0"


def test_a_photo_has_no_truth_and_is_said_to_be_squeezed(see):
    result = see("sample:cat")
    assert result.truth == {} and result.metrics == {}
    assert "pixels was resized to 64 x 64, which changes its" in result.notes[0]
    assert result.plot().width > 700


def test_every_kind_of_task_is_drawn_and_said(every_kind):
    result = every_kind(Image.fromarray(sample_room(0, 16).picture))
    assert set(result.answers) == {task["name"] for task in EVERY_KIND}
    assert result.answers["scene"].sum() == pytest.approx(1, abs=1e-5)
    assert 0 <= result.answers["edges"].min() <= result.answers["edges"].max() <= 1
    for task in result.tasks:
        assert result.answer_picture(task.name).size == (16, 16)
        assert result.saliency_picture(task.name).size == (16, 16)
    assert result.summary().count(";") == len(EVERY_KIND) - 1
    assert "class " in result.to_dict()["tasks"][0]["answer"]


def test_files_hold_what_the_result_does(room, tmp_path):
    room.save(tmp_path / "all")
    found = np.load(tmp_path / "all" / "result.npz")
    np.testing.assert_array_equal(found["answer_depth"], room.answers["depth"])
    np.testing.assert_array_equal(found["truth_segmentation"], room.truth["segmentation"])
    np.testing.assert_array_equal(found["saliency"], room.saliency)
    said = json.loads((tmp_path / "all" / "result.json").read_text(encoding="utf-8"))
    assert said["saliency_of"] == "predictions" and len(said["tasks"]) == 3
    assert said["tasks"][0]["metrics"]["miou"] == room.metrics["segmentation"]["miou"]
    names = {path.name for path in (tmp_path / "all").glob("*.png")}
    assert names == {"plot.png", "answers.png", "saliency.png"}


def test_models_are_compared_on_one_picture(room, every_kind):
    assert MultiTaskResult.compare({"one": room, "other": room}).height > 900
    other = every_kind(room.image)
    with pytest.raises(
        ValueError, match="The results have different tasks; compare models with the"
    ):
        MultiTaskResult.compare({"one": room, "other": other})


def test_the_command_line_takes_rooms_and_photos(tmp_path, sample_photo):
    done = CliRunner().invoke(
        app, ["run", NAME, "sample:room-3", "-o", str(tmp_path / "room.json")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "room.json").read_text())["image"] == "room-3"
    done = CliRunner().invoke(app, ["run", NAME, str(sample_photo), "-o", str(tmp_path / "a.png")])
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "a.png").width > 700


@pytest.fixture
def sample_photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), "teal").save(path)
    return path


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        (f"sample:room-{NUM_SAMPLES}", ValueError, "from 0 to 9999"),
        ("sample:rooms", ValueError, "no sample photo"),
        (3, TypeError, "picture"),
    ],
)
def test_what_is_no_picture_is_refused(see, source, error, sentence):
    with pytest.raises(error, match=sentence):
        see(source)


def test_other_keywords_are_refused(see):
    with pytest.raises(ValueError, match="has no setting 'tasks'; it has none"):
        see("sample:room", tasks=["depth"])


def test_broken_weights_are_refused():
    model = model_of().eval()
    with torch.no_grad():
        model.heads["depth"].last.weight.fill_(float("nan"))
    processor = RepMTLImageProcessor(size={"height": 16, "width": 16})
    with pytest.raises(ValueError, match=r"heads\.depth\.last\.weight"):
        MultiTaskPipeline.from_model(model, image_processor=processor)("sample:room")


def test_colours_say_what_is_no_class():
    drawn = label_colors(np.array([[0, 1, 8, 255]]), 9)
    assert len({tuple(one) for one in drawn[0]}) == 3  # the ninth class has the first colour again
    depth = np.array([[1.0, 3.0]], dtype=np.float32)
    near, far = np.asarray(task_picture(Task("d", "depth"), depth, (2, 1)))[0].astype(int)
    assert near.sum() > far.sum()
