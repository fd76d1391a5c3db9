"""Weights of the energy, learned through the runner."""

import numpy as np
import pytest
from PIL import Image

from salhub.models.active_contour.configuration_active_contour import SaliencyActiveContourConfig
from salhub.models.active_contour.contour_suite import make_contour_case
from salhub.models.active_contour.modeling_active_contour import (
    SaliencyActiveContourForSegmentation,
)
from salhub.models.active_contour.recipe_active_contour import (
    ActiveContourArguments,
    ActiveContourRecipe,
    learned_weights,
)
from salhub.runner.run import run
from tests.testers.recipe import TrainingRecipeTester


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("cells")
    for name in ("images", "masks"):
        (place / name).mkdir()
    for number in range(5):
        image, mask = make_contour_case("star", "clutter", number, size=40 + 4 * (number % 2))
        Image.fromarray((255 * image).astype(np.uint8)).save(place / f"images/{number}.png")
        Image.fromarray(mask).save(place / f"masks/{number}.png")
    return place


class TestActiveContour(TrainingRecipeTester):
    @pytest.fixture
    def make(self, folder):
        def recipe(output, **options):
            settings = {"data": str(folder), "cpu": True, "batch_size": 2, "num_train_epochs": 2}
            settings |= {"unrolled_steps": 12, "held_out": 0.2}
            return ActiveContourRecipe(
                ActiveContourArguments(output_dir=str(output), **settings | options)
            )

        return recipe


def test_the_loss_falls_and_the_weights_are_kept(folder, tmp_path):
    recipe = ActiveContourRecipe(
        ActiveContourArguments(
            output_dir=str(tmp_path / "out"),
            data=str(folder),
            cpu=True,
            held_out=0.0,
            unrolled_steps=20,
            batch_size=5,
            num_train_epochs=4,
            learning_rate=0.1,
        )
    )
    results = run(recipe)
    model = SaliencyActiveContourForSegmentation.from_pretrained(tmp_path / "out")
    assert model.config.max_iterations == 60
    assert model.alpha.item() == pytest.approx(results.metric("weight/alpha").value)
    assert model.alpha.item() != 0.5 and model.nu.item() == 0
    before, after = (results.metric(f"dice/learned/{when}").value for when in ("before", "after"))
    assert after >= before - 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 1.0}, "held_out must be"),
        ({"unrolled_steps": 0}, "unrolled_steps must be"),
        ({"gradient_steps": 0}, "gradient_steps must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ActiveContourArguments(output_dir="out", data="suite", **options)


def recipe_of(folder, output, **options):
    settings = {"data": str(folder), "cpu": True, "max_train_steps": 1, "held_out": 0.0}
    return ActiveContourRecipe(ActiveContourArguments(output_dir=str(output), **settings | options))


def test_steps_in_which_nothing_is_learned_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="unrolled_steps must be above 10, got 8"):
        run(recipe_of(folder, tmp_path / "out", unrolled_steps=8))


def test_a_model_without_saliency_stays_without(folder, tmp_path):
    run(recipe_of(folder, tmp_path / "out", preset="lif", unrolled_steps=2, batch_size=2))
    model = SaliencyActiveContourForSegmentation.from_pretrained(tmp_path / "out")
    assert model.alpha.item() == 0 and model.beta.item() != 1


@pytest.mark.parametrize(
    ("preset", "learned"),
    [
        ("tuned", ("alpha", "beta", "sigma")),
        ("lif", ("beta", "sigma")),
        ("rsf", ("beta", "nu", "mu", "sigma")),
        ("chan_vese", ("beta", "nu")),
    ],
)
def test_what_is_switched_off_is_not_learned(preset, learned):
    assert learned_weights(SaliencyActiveContourConfig.from_preset(preset)) == learned
