"""The evaluation of salient relevance on a network whose right answers are known."""

import math

import pytest
import torch

from salhub import SalientRelevanceForImageSaliency
from salhub.models.salient_relevance.evaluation_relevance import VARIANTS, with_settings
from salhub.models.salient_relevance.evaluation_salient_relevance import SALIENT, evaluate
from salhub.models.salient_relevance.rules import PRESETS
from salhub.results import Results
from tests.evaluation.coloured_squares import DeepColourNet, SquareProcessor, make_folder
from tests.evaluation.sharing import check_shared

SMALL = {
    "num_mosaics": 2,
    "num_images": 3,
    "num_rule_mosaics": 1,
    "num_rule_images": 2,
    "num_audit_images": 2,
    "num_deletion_images": 2,
    "num_random_images": 2,
    "min_probability": 0.5,
    "progress": False,
}


def make_model(**settings):
    bounds = {"input_low": [-0.1] * 3, "input_high": [1.0] * 3, "context_max_side": 32}
    return SalientRelevanceForImageSaliency.from_classifier(DeepColourNet(), **bounds, **settings)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("squares"))
    return evaluate(make_model(), SquareProcessor(32), folder, **SMALL)


def test_every_stage_plays_the_grid_game(results):
    for name in (SALIENT, "without foci", "relevance alone", "random map (control)"):
        assert 0 <= results.metric(f"grid/mass/{name}").value <= 1
        assert results.metric(f"grid/mass/{name}").n == 8
    # Red pixels alone speak for red, so nearly all relevance is in the right tile.
    assert results.metric("grid/mass/relevance alone").value > 0.6
    assert results.metric("grid/mass/random map (control)").value == pytest.approx(0.25, abs=0.08)


def test_every_preset_is_compared_and_audited(results):
    for label in VARIANTS:
        assert results.metric(f"rules/mass/{label}").n == 4
    for preset in PRESETS:
        absorbed = results.metric(f"conservation/biases/{preset}/absorb").value
        reached = results.metric(f"conservation/reached/{preset}/absorb").value
        assert math.isfinite(absorbed) and math.isfinite(reached)
        assert results.metric(f"conservation/unexplained/{preset}/absorb").value < 1e-4
    for preset in set(PRESETS) - {"sr_reference"}:
        assert results.metric(f"conservation/reached/{preset}/uniform").value == pytest.approx(
            1.0, abs=1e-4
        )


def test_relevance_of_an_unlikely_class_is_not_called_sensitive_for_its_sign(results):
    # Started at the scores, deep_taylor maps of two classes differ in sign and rho is near -1.
    rho = results.metric("rules/rho/deep_taylor")
    assert math.isfinite(rho.value)
    undefined = [m.name for m in results.metrics if m.name.endswith("/not_finite")]
    assert "class_similarity/rho/relevance alone/not_finite" not in undefined


def test_regions_and_controls_are_recorded(results):
    assert results.metric(f"regions/{SALIENT}").value >= 1
    assert 0 < results.metric("attended/area").value < 1
    for name in (SALIENT, "random disc (control)", "random map (control)"):
        assert 0 <= results.metric(f"perturbation/deletion/{name}").value <= 1
    assert results.metric("seconds_a_picture/relevance").value > 0


def test_tables_are_complete_and_the_file_is_read_back(results, tmp_path):
    titles = [table.title for table in results.tables]
    assert titles[0] == "This model"
    assert len(titles) == len(set(titles)) == 9
    loaded = Results.load(results.save(tmp_path / "x.json"))
    assert (
        loaded.metric(f"grid/mass/{SALIENT}").value == results.metric(f"grid/mass/{SALIENT}").value
    )
    assert loaded.data["num_mosaics"] == 2


def test_settings_are_changed_on_a_copy():
    model = make_model(gamma=0.5, convolution_rule="gamma")
    other = with_settings(model, preset="epsilon_plus", start="one")
    assert (other.config.preset, other.config.start) == ("epsilon_plus", "one")
    assert other.config.convolution_rule is None
    assert model.config.convolution_rule == "gamma"
    assert other.backbone is model.backbone


def test_the_model_is_left_alone(tmp_path):
    model = make_model().train()
    config = model.config.to_dict()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    evaluate(model, SquareProcessor(32), make_folder(tmp_path), **SMALL)
    assert model.training and model.backbone.training
    assert model.config.to_dict() == config
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_two_jobs_measure_what_one_measures(tmp_path):
    (tmp_path / "squares").mkdir()
    folder = make_folder(tmp_path / "squares", count=20)
    check_shared(
        lambda: evaluate(make_model(), SquareProcessor(32), folder, **SMALL), tmp_path / "rows"
    )
