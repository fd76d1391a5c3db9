"""Training SDL-Seg: patches and markers, interruptions, splits by patient, evaluation."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from salhub.cli import app
from salhub.metrics.segmentation import segmentation_scores
from salhub.models.sdl_seg.augmentation import changed_markers, training_patch
from salhub.models.sdl_seg.calibration import calibration_error, fitted_temperature
from salhub.models.sdl_seg.cases import (
    Case,
    CaseName,
    TrainingVolume,
    phantom_case,
    split_by_patient,
)
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.evaluation_sdl_seg import (
    evaluate,
    marker_changes,
    predicted,
    test_phantoms,
)
from salhub.models.sdl_seg.marker_detection import MarkerNotFoundError
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.recipe_sdl_seg import SDLSegArguments, SDLSegRecipe
from salhub.models.sdl_seg.saliency_map import saliency_map
from salhub.models.sdl_seg.volume import Volume
from salhub.results import Results
from salhub.runner.batches import step_batches
from salhub.runner.plan import steps_after
from salhub.runner.run import run
from tests.evaluation.sharing import check_shared
from tests.testers.recipe import TrainingRecipeTester

test_phantoms.__test__ = False  # a function of the method, and no test

COARSE = [6.0, 4.5, 4.5]
SMALL = {
    "num_patients": 3,
    "num_validation_patients": 1,
    "num_test_patients": 2,
    "num_decoys": 1,
    "target_spacing": COARSE,
    "channels": [4, 8],
    "patch_size": [8, 16, 16],
    "patches_per_volume": 2,
    "num_train_epochs": 2,
    "cpu": True,
}


def recipe_of(folder, **options) -> SDLSegRecipe:
    return SDLSegRecipe(SDLSegArguments(output_dir=str(folder), **{**SMALL, **options}))


class TestSDLSeg(TrainingRecipeTester):
    @pytest.fixture
    def make(self):
        return recipe_of


# --- patches --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume() -> TrainingVolume:
    return TrainingVolume.of(phantom_case(0, spacing=COARSE), SDLSegConfig(target_spacing=COARSE))


def test_a_patch_without_changes_is_a_part_of_the_volume(volume):
    case = phantom_case(0, spacing=COARSE)
    np.testing.assert_array_equal(volume.mask, case.mask)
    whole = saliency_map(volume.markers, volume.volume.shape, COARSE, volume.config)
    for seed in range(4):
        pixels, label = training_patch(
            volume, (6, 12, 12), np.random.default_rng(seed), augment=False, augment_markers=False
        )
        assert pixels.shape == (2, 6, 12, 12) and label.shape == (1, 6, 12, 12)
        scaled = (torch.as_tensor(case.volume).clamp(-160, 240) + 160) / 400
        windows = scaled.unfold(0, 6, 1).unfold(1, 12, 1).unfold(2, 12, 1)
        same = (windows - pixels[0]).abs().amax((3, 4, 5)) < 1e-6
        [place] = same.nonzero().tolist()
        where = tuple(slice(a, a + n) for a, n in zip(place, (6, 12, 12), strict=True))
        # The map is that of all markers, wherever they lie, but for the smoothing at the border.
        torch.testing.assert_close(pixels[1], whole[where], rtol=0, atol=0.03)
        np.testing.assert_array_equal(label[0].numpy() > 0, case.mask[where])


def test_markers_turn_with_the_volume(volume):
    """The bright clip and the highest place of the map stay together."""
    case = phantom_case(0, spacing=COARSE)
    sphere = np.stack(np.indices(case.volume.shape), -1) - np.array([6, 16, 12])
    ball = np.linalg.norm(sphere * COARSE, axis=-1) < 10
    one = TrainingVolume(
        np.where(ball, 200, -150).astype(np.float32), ball, np.array([[6.0, 16, 12]]), volume.config
    )
    flipped = set()
    for seed in range(12):
        pixels, label = training_patch(
            one, None, np.random.default_rng(seed), augment_markers=False
        )
        assert pixels.shape == (2, *one.volume.shape)
        inside = label[0] > 0
        middle = inside.nonzero().double().mean(0)
        highest = torch.as_tensor(np.unravel_index(int(pixels[1].argmax()), inside.shape))
        assert float(((middle - highest) * torch.tensor(COARSE)).abs().max()) < 5
        assert float(pixels[0][inside].mean()) > float(pixels[0][~inside].mean()) + 0.4
        flipped.add(bool(middle[2] > 16))
    assert flipped == {False, True}


def test_half_of_the_patches_show_the_target(volume):
    seen = [
        bool(training_patch(volume, (4, 8, 8), np.random.default_rng(seed))[1].any())
        for seed in range(60)
    ]
    anywhere = volume.mask.mean()
    assert anywhere < 0.05 and 0.45 < np.mean(seen) < 0.9


def test_markers_are_moved_dropped_added_and_hidden():
    markers, spacing = np.full((6, 3), 20.0), np.array([3.0, 1.5, 1.5])
    found = [changed_markers(markers, spacing, np.random.default_rng(n)) for n in range(3000)]
    hidden = np.mean([len(one) == 0 for one in found])
    assert hidden == pytest.approx(0.05, abs=0.015)
    gaps = [np.linalg.norm((one - 20) * spacing, axis=1) for one in found if len(one)]
    false = np.array([bool((gap > 13).any()) for gap in gaps])
    assert false.mean() == pytest.approx(0.15, abs=0.03)
    kept = np.array([len(gap) for gap in gaps]) - false
    assert kept.mean() == pytest.approx(0.85 * 6, abs=0.1) and kept.min() >= 2
    moves = np.concatenate([(one - 20) * spacing for one in found if len(one)])
    near = moves[np.linalg.norm(moves, axis=1) < 13]
    assert near.std() == pytest.approx(2.0, abs=0.1)
    few = [changed_markers(markers[:1], spacing, np.random.default_rng(n)) for n in range(200)]
    assert all(len(one) >= 1 for one in few if len(one))


def test_both_arms_learn_from_the_same_patches(tmp_path):
    fetched = []
    for kind in ("edt_gauss", "none"):
        recipe = recipe_of(tmp_path, saliency_kind=kind, augment_markers=False)
        recipe.build_model()
        step = next(iter(steps_after(recipe, 0)))
        [batch] = step_batches(step.rows, seed=0, step=0, epoch=0)
        fetched.append(recipe._fetch(batch))
    torch.testing.assert_close(fetched[0]["pixel_values"][:, :1], fetched[1]["pixel_values"])
    assert fetched[0]["labels"].equal(fetched[1]["labels"])


# --- splits, runs and measurements ----------------------------------------------------------------


def test_no_patient_is_on_two_sides():
    names = [CaseName(f"{p} {f}", str(p)) for p in range(29) for f in range(5)]
    parts = split_by_patient(names, (0.17, 0.17), 3)
    patients = [{one.patient for one in part} for part in parts]
    assert [len(one) for one in patients] == [19, 5, 5]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert sum(map(len, parts)) == len(names)
    with pytest.raises(ValueError, match="2 patients cannot be split into 3 parts"):
        split_by_patient(names[:10], (0.2, 0.2), 0)


def test_it_learns_and_says_what_it_learned(tmp_path):
    recipe = recipe_of(
        tmp_path, num_patients=8, num_train_epochs=8, patch_size=[], channels=[8, 16],
        learning_rate=0.01, patches_per_volume=1,
    )  # fmt: skip
    found = run(recipe)
    assert found is not None
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    overlap = [line["validation/dice"] for line in lines if "validation/dice" in line]
    assert max(overlap) > 0.3 and max(overlap) > 3 * overlap[0]
    assert found.data["train_patients"] == 8 and found.data["best_step"] > 0
    assert found.metric("as it is/dice").value > 0.25
    model = SDLSegForVolumeSegmentation.from_pretrained(tmp_path)
    assert model.dtype == torch.float32
    assert model.config.window_size == [12, 32, 32]  # a whole phantom
    [case, _] = test_phantoms(2, num_decoys=1, spacing=COARSE)
    result = predicted(model, case)
    assert segmentation_scores(result["mask"], case.mask, case.spacing)["dice"] > 0.2


def test_slices_with_context_and_other_losses_are_trained_too(tmp_path):
    options = {"spatial_dims": 2, "context_slices": 1, "loss": "focal_tversky", "num_patients": 2}
    run(recipe_of(tmp_path, max_train_steps=2, saliency_kind="hull", **options))
    model = SDLSegForVolumeSegmentation.from_pretrained(tmp_path)
    assert (model.config.in_channels, model.config.loss) == (6, "focal_tversky")
    assert model.config.size_steps == [1, 2, 2]


def test_evaluation_measures_every_change_by_patient(tmp_path):
    torch.manual_seed(0)
    config = SDLSegConfig(channels=[4, 8], target_spacing=COARSE)
    model = SDLSegForVolumeSegmentation(config).eval()
    found = evaluate(model, "phantoms", num_patients=2, fractions=2, num_decoys=0, progress=False)
    titles = [row[0] for row in found.tables[0].rows]
    assert titles == ["as it is", *marker_changes(0), "clips painted out of the CT"]
    assert found.data == {"name": "phantoms", "patients": 2, "fractions": 2, "decoys": 0}
    names = {metric.name for metric in found.metrics}
    assert {"as it is/dice", "as it is/hd95", "one clip lost/dice", "seconds a volume"} <= names
    assert Results.load(found.save(tmp_path / "results.json")).seed == 0


def test_the_command_line_measures_on_phantoms_that_are_made_for_it(tmp_path):
    words = ["evaluate", "sdl-seg-phantom", "--data", "phantoms", "num_patients=1"]
    target = tmp_path / "numbers.json"
    found = CliRunner().invoke(app, [*words, "variants=false", "-o", str(target)])
    assert found.exit_code == 0, found.output
    results = Results.load(target)
    assert results.metric("as it is/dice").value > 0.7
    assert results.command == "salhub evaluate sdl-seg-phantom --data phantoms num_patients=1 " + (
        "variants=false"
    )
    words[3] = str(tmp_path / "nothing")
    found = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "other.json")])
    assert found.exit_code != 0 and "nothing does not exist" in str(found.output) + str(
        found.exception
    )


def test_what_is_done_to_clips():
    case = phantom_case(1)
    markers = np.array(case.markers)
    changes = marker_changes(0)

    def after(title: str) -> np.ndarray:
        return changes[title](markers, case, np.random.default_rng(0))

    assert len(after("one clip lost")) == len(markers) - 1
    assert len(after("half of the clips lost")) == len(markers) - len(markers) // 2
    steps = np.linalg.norm((after("clips moved by 3 mm") - markers) * case.spacing, axis=1)
    np.testing.assert_allclose(steps, 3.0, atol=1e-9)
    moved = (after("all clips moved alike by 10 mm") - markers) * case.spacing
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:1], moved.shape), atol=1e-9)
    assert len(after("a false clip 35 mm away")) == len(markers) + 1
    assert not len(after("map hidden"))


def test_bad_options_are_refused_in_one_sentence(tmp_path):
    for options, message in (
        ({"patch_size": [8, 15, 16]}, r"divisible by \[2, 2, 2\]"),
        ({"num_patients": 0}, "num_patients must be an integer, 1 or more"),
        ({"seed": 800}, "seed must be below 800 for phantoms"),
        ({"num_patients": 501}, "at most 500 phantoms"),
        ({"saliency_kind": "edt"}, "saliency_kind must be one of"),
        ({"validation_share": 1.0}, "validation_share must be 0 or more and below 1"),
        (
            {"data": "folder", "clips_visible": False},
            "clips_visible=false only works with phantoms; leave it out",
        ),
        ({"channels": []}, "channels must have one number per level, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_of(tmp_path, **options)
    with pytest.raises(FileNotFoundError, match=r"dataset\.json"):
        run(recipe_of(tmp_path / "out", data=str(tmp_path / "nothing")))


# --- calibration ----------------------------------------------------------------------------------


def test_the_temperature_makes_probabilities_frequencies():
    draws = np.random.default_rng(0)
    honest = draws.normal(0, 2, 20_000)
    truth = draws.uniform(size=honest.size) < 1 / (1 + np.exp(-honest))
    sure = 3.0 * honest
    found = fitted_temperature(sure, truth)
    assert found == pytest.approx(3.0, rel=0.05)
    before, after = (calibration_error(1 / (1 + np.exp(-s)), truth) for s in (sure, sure / found))
    assert before > 0.08 and after < 0.01
    assert calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.arange(4) == 0) == 0


def test_probabilities_are_those_of_the_fitted_temperature(tmp_path):
    found = run(recipe_of(tmp_path))
    assert found is not None and "as it is/calibration_error" in {m.name for m in found.metrics}
    model = SDLSegForVolumeSegmentation.from_pretrained(tmp_path)
    temperature = model.config.temperature
    assert 0.2 < temperature <= 20.01 and temperature != 1
    [case] = test_phantoms(1, num_decoys=1, spacing=COARSE)
    processor = SDLSegImageProcessor(model.config)
    batch = processor(case.volume, case.spacing, markers=case.markers)
    outputs = model.predict(batch["pixel_values"])
    [result] = processor.post_process_segmentation(outputs, batch["meta"])
    expected = 1 / (1 + np.exp(-outputs.logits[0, 0].numpy() / temperature))
    np.testing.assert_allclose(result["probability"], expected, atol=1e-3)


# --- a folder of one's own ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("nibabel")
    from salhub.models.sdl_seg.nnunet_folder import write_nnunet

    place = tmp_path_factory.mktemp("data") / "Dataset001_beds"
    cases = []
    for patient in range(4):
        for fraction in range(2):
            one = phantom_case(patient, fraction, spacing=COARSE, num_decoys=0)
            volume = Volume(one.volume, one.spacing, affine=np.diag([*COARSE[::-1], 1.0]))
            cases.append((f"bed_{patient}_{fraction}", volume, one.mask, None))
    write_nnunet(place, cases)
    return place


def test_it_learns_from_a_folder_split_by_patient(folder, tmp_path):
    options = {"data": str(folder), "patient_pattern": r"bed_(\d+)_", "num_train_epochs": 1}
    recipe = recipe_of(tmp_path, **options)
    found = run(recipe)
    patients = [{one.patient for one in part} for part in recipe.parts]
    assert [len(one) for one in patients] == [2, 1, 1] and len(set.union(*patients)) == 4
    assert [len(part) for part in recipe.parts] == [4, 2, 2]
    first = phantom_case(int(recipe.parts[0][0].patient), 0, spacing=COARSE, num_decoys=0)
    np.testing.assert_allclose(recipe.train[0].volume, first.volume, atol=1)
    np.testing.assert_array_equal(recipe.train[0].mask, first.mask)
    assert found is not None
    assert (found.data["name"], found.data["test_patients"]) == ("Dataset001_beds", 1)
    assert found.metric("as it is/dice").n == 2
    assert str(folder.parent) not in (tmp_path / "README.md").read_text()
    model = SDLSegForVolumeSegmentation.from_pretrained(tmp_path)
    again = evaluate(model, folder, patient_pattern=r"bed_(\d+)_", variants=False, progress=False)
    assert again.metric("as it is/dice").n == 8


def test_a_case_without_markers_is_named():
    one = phantom_case(1, spacing=COARSE, clips_visible=False)
    case = Case("bed_7", "7", one.volume, one.spacing, one.mask)
    with pytest.raises(MarkerNotFoundError, match="Case bed_7: No markers were found"):
        TrainingVolume.of(case, SDLSegConfig(target_spacing=COARSE))
    plain = SDLSegConfig(target_spacing=COARSE, saliency_kind="none")
    assert not len(TrainingVolume.of(case, plain).markers)


def test_a_folder_that_cannot_be_split_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="1 patients cannot be split into 3 parts"):
        recipe_of(tmp_path, data=str(folder), patient_pattern="bed").build_model()
    with pytest.raises(ValueError, match=r"finds no patient in the name 'bed_0_0'"):
        recipe_of(tmp_path, data=str(folder), patient_pattern=r"case(\d)").build_model()


def test_two_jobs_measure_what_one_measures(tmp_path):
    torch.manual_seed(0)
    config = SDLSegConfig(channels=[4, 8], target_spacing=COARSE)
    model = SDLSegForVolumeSegmentation(config).eval()
    small = {"num_patients": 3, "num_decoys": 0, "variants": False, "progress": False}
    assert check_shared(lambda: evaluate(model, "phantoms", **small), tmp_path / "rows") == 2
