"""The pages of SalUn: what they show is what was measured, and their code draws what they show."""

import numpy as np
import pytest
import torch
from PIL import Image

import salhub
from salhub.backbones.conditional_unet.sampling import sheet_of
from salhub.cards import read_results
from salhub.data.samples import sample_path
from salhub.entries import MODELS
from salhub.models.salun.page_salun import DIGITS, Page
from salhub.models.salun.page_salun_diffusion import DiffusionFamily
from salhub.ui.controls import UploadedPicture

NAME = "salhub/salun-resnet8-cifar10"


@pytest.fixture(scope="module")
def page():
    return Page(NAME, MODELS["salun"])


@pytest.fixture(scope="module")
def digits():
    return DiffusionFamily(DIGITS)


@pytest.mark.parametrize("forgotten", ["cat", "truck"])
def test_a_class_shows_the_numbers_of_the_results_file(page, forgotten):
    accuracies, densities, command = page.forget(forgotten)
    values = {metric.name: metric.value for metric in read_results(NAME).metrics}
    for name in page.family.class_names:
        for key in (f"original/accuracy/{name}", f"forget/{forgotten}/accuracy/{name}"):
            assert f"{100 * values[key]:.0f} %" in accuracies
    assert f"{100 * values[f'forget/{forgotten}/density/stem']:.0f} %" in densities
    assert f"forget=class:{forgotten} " in command


def test_an_unknown_class_is_refused(page):
    with pytest.raises(ValueError, match="'unicorn' is not a class; choose one of airplane"):
        page.forget("unicorn")


def test_only_a_model_that_was_unlearned_class_by_class_has_this_page():
    assert Page.serves(NAME)
    assert not Page.serves(f"{NAME}-original") and not Page.serves("somebody/else")


def test_a_cat_is_no_cat_after_forgetting(page):
    path = sample_path("cat")
    before, after = page.classify(UploadedPicture(path, path.name))
    assert max(before, key=before.get) == "cat"
    assert after["cat"] < 0.05
    assert sum(after.values()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="no picture yet"):
        page.classify(None)


def test_the_code_beside_the_digits_draws_them(digits, monkeypatch):
    import salhub

    def collect(code):
        names = {"pictures": None}
        drawn = []

        def pipeline(name):
            found = salhub_pipeline(name)
            generate = found.model.generate

            def keep(*arguments, **keywords):
                drawn.append(generate(*arguments, **keywords))
                return drawn[-1]

            monkeypatch.setattr(found.model, "generate", keep)
            return found

        salhub_pipeline = salhub.pipeline
        monkeypatch.setattr(salhub, "pipeline", pipeline, raising=False)
        exec(code, names)
        monkeypatch.undo()
        return drawn

    code = digits.sheets_code(3)
    shown = digits.sheets(3)
    for sheet, pictures in zip(shown, collect(code), strict=True):
        assert np.array_equal(np.asarray(sheet), np.asarray(sheet_of(pictures, 4, scale=3)))


def test_the_stored_sheets_are_what_their_code_draws(digits):
    """Column by column, one digit of each model, as all would take a minute."""
    assert "num_images=8, num_steps=25, seed=0" in digits.stored_sheets_code()
    for model, sheet in zip(digits.models, digits.stored_sheets(), strict=True):
        label = 5
        pictures = model.generate(
            torch.full((8,), label), num_steps=25, generator=torch.Generator().manual_seed(0)
        )
        expected = np.asarray(sheet_of(pictures, 8, scale=2)).astype(int)
        top = label * 2 * 18
        found = np.asarray(sheet).astype(int)[top : top + 32]
        # Sums are rounded otherwise on another kind of machine.
        assert np.abs(found - expected).mean() < 2
        assert isinstance(sheet, Image.Image)


def test_a_diffusion_model_of_somebodys_own_needs_no_original(tmp_path):
    copy = tmp_path / "mine"
    salhub.AutoModelForSaliency.from_pretrained(DIGITS).save_pretrained(copy)
    assert DiffusionFamily(copy).names == [str(copy)]
    copy.rename(tmp_path / "mine-original")
    assert DiffusionFamily(tmp_path / "mine-original").names == [str(tmp_path / "mine-original")]
    salhub.AutoModelForSaliency.from_pretrained(DIGITS).save_pretrained(copy)
    assert len(DiffusionFamily(copy).names) == 2
