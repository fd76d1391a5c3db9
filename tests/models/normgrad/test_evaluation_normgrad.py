"""The evaluation of the family on networks whose right answers are known."""

import math

import pytest
import torch
from scipy import stats

from salhub import NormGradForImageSaliency
from salhub.data.image_folder import LabelledImageFolder
from salhub.evaluation.image_saliency.classified_sample import ClassifiedSample
from salhub.metrics.randomization import randomized_models
from salhub.models.normgrad.evaluation_maps import (
    Family,
    choose_depths,
    last_convolutions,
    without_postprocessing,
)
from salhub.models.normgrad.evaluation_normgrad import evaluate
from salhub.models.normgrad.layer_search import SaliencyLayer
from salhub.models.normgrad.methods import METHODS
from salhub.results import Results
from tests.evaluation.coloured_squares import DeepColourNet, SquareProcessor, make_folder
from tests.evaluation.sharing import check_shared

SMALL = {
    "num_mosaics": 3,
    "num_images": 4,
    "num_meta_mosaics": 1,
    "num_meta_images": 2,
    "num_deletion_images": 2,
    "num_random_images": 2,
    "min_probability": 0.5,
    "progress": False,
}
DEPTHS = ["blocks.0", "blocks.1", "blocks.2"]


def make_model(network=None, **settings):
    settings = {"method": "norm_grad", "layers": ["blocks.1"]} | settings
    return NormGradForImageSaliency.from_classifier(network or DeepColourNet(), **settings)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("squares"))
    return evaluate(make_model(), SquareProcessor(32), folder, **SMALL)


def test_every_method_is_measured_at_every_depth(results):
    for method, found in METHODS.items():
        expected = {f"{method}/{depth}" for depth in DEPTHS}
        if method == "grad_x_input":
            expected = {"grad_x_input/input"}
        elif method == "cam":
            expected = {"cam/blocks.2"}
        elif found.layer == "input":
            expected.add(f"{method}/input")
        for name in expected:
            assert 0 <= results.metric(f"grid/mass/{name}").value <= 1
            assert results.metric(f"grid/mass/{name}").n == 12
            assert results.metric(f"class_similarity/rho/{name}").unit == "rho"
    assert results.metric("top1").value == 1.0


def test_numbers_are_right_where_the_answer_is_known(results):
    # The classes' own channels reach the head, so the linear methods put all mass on the square.
    assert results.metric("grid/mass/cam/blocks.2").value > 0.8
    assert results.metric("grid/hit/linear_approx/blocks.2").value == 1.0
    assert results.metric("grid/mass/random map (control)").value == pytest.approx(0.25, abs=0.05)
    # At the last block the gradient is the same everywhere: constant maps, counted and scored 0.
    assert results.metric("grid/mass/gradient/blocks.2").value == 0.0
    assert results.metric("grid/empty/gradient/blocks.2").value == 12
    assert math.isnan(results.metric("class_similarity/rho/gradient/blocks.2").value)
    assert results.metric("class_similarity/rho/gradient/blocks.2/not_finite").value == 4


def test_own_map_is_the_models_own(results):
    for metric in ("grid/mass", "grid/hit", "class_similarity/rho"):
        own = results.metric(f"{metric}/this model")
        assert own.value == results.metric(f"{metric}/norm_grad/blocks.1").value


def test_step_zero_equals_no_step_and_moves_no_probability(results):
    plain = results.metric("meta_step/0/rho/norm_grad/blocks.1").value
    assert math.isfinite(plain)
    for label in ("most_likely", "least_likely"):
        before = results.metric(f"meta_step/0/probability_before/{label}").value
        assert results.metric(f"meta_step/0/probability_after/{label}").value == before
        after = results.metric(f"meta_step/0.01/probability_after/{label}").value
        assert after > results.metric(f"meta_step/0.01/probability_before/{label}").value


def test_randomisation_compares_with_a_copy_whose_stages_are_random(results, tmp_path):
    model = make_model(layers=["blocks.2"], method="linear_approx")
    folder = LabelledImageFolder(make_folder(tmp_path))
    sample = ClassifiedSample(folder, SquareProcessor(32), model.classify, progress=False)
    pixel_values = sample.pixel_values(sample.draw(4, seed=0)[:2])
    trained = model(pixel_values)
    for mode, layers in (
        ("cascade", ["backbone.classifier", "backbone.blocks.2", "backbone.blocks.1"]),
        ("independent", ["backbone.classifier", "backbone.blocks.2", "backbone.blocks.1"]),
    ):
        changed = dict(randomized_models(model, layers, mode=mode, seed=0))["backbone.blocks.1"]
        other = changed(pixel_values, trained.class_labels)
        expected = [
            stats.spearmanr(a.flatten(), b.flatten()).statistic
            for a, b in zip(trained.saliency, other.saliency, strict=True)
        ]
        found = results.metric(f"randomization/{mode}/blocks.1/rho/linear_approx/blocks.2")
        assert found.value == pytest.approx(sum(expected) / 2, abs=1e-6)
        assert found.n == 2


def test_tables_are_complete_and_the_file_is_read_back(results, tmp_path):
    titles = [table.title for table in results.tables]
    assert titles[0] == "This model"
    assert len(titles) == len(set(titles)) == 11
    mass = results.tables[1]
    assert mass.columns == ["method", "input", *DEPTHS]
    assert {row[0] for row in mass.rows} >= set(METHODS)
    loaded = Results.load(results.save(tmp_path / "x.json"))
    assert loaded.metric("grid/mass/norm_grad/blocks.0").interval is not None
    assert loaded.metric("cpu_seconds/grid_game").unit == "s"
    assert results.command == "salhub evaluate NormGradForImageSaliency --data squares0 seed=0"


def test_same_seed_same_numbers_and_the_model_is_left_alone(results, tmp_path):
    model = make_model(normalize="minmax", smooth_sigma=0.05)
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    config = model.config.to_dict()
    again = evaluate(model, SquareProcessor(32), make_folder(tmp_path), **SMALL)
    timed = ("seconds", "cpu_seconds")
    for one, other in zip(results.metrics, again.metrics, strict=True):
        assert one.name == other.name
        if not one.name.startswith(timed):
            assert one.value == other.value or math.isnan(one.value)
    assert model.training and model.backbone.training
    assert model.config.to_dict() == config
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_networks_in_another_precision_are_measured(results, tmp_path):
    model = make_model().to(torch.bfloat16)
    found = evaluate(model, SquareProcessor(32), make_folder(tmp_path), **SMALL)
    for name in ("grid/mass/norm_grad/blocks.0", "perturbation/deletion/this model"):
        assert found.metric(name).value == pytest.approx(results.metric(name).value, abs=0.05)


def test_networks_of_one_size_get_mosaics_of_that_size(tmp_path):
    model = make_model(DeepColourNet(only_size=32))
    found = evaluate(model, SquareProcessor(32), make_folder(tmp_path), **SMALL)
    assert found.data["mosaic_size"] == [32, 32]
    assert found.metric("grid/hit/linear_approx/blocks.2").value == 1.0


def test_methods_that_do_not_fit_are_named_with_the_reason():
    network = DeepColourNet()
    for block in network.blocks:
        block.activation = torch.nn.SiLU()
    family = Family(make_model(network), torch.rand(1, 3, 32, 32), DEPTHS)
    assert "guided_backprop" in family.unfit
    maps = family(torch.rand(1, 3, 32, 32), torch.tensor([[0, 1]]))
    assert "norm_grad/blocks.0" in maps
    assert not any(name.startswith("guided_backprop") for name in maps)


def test_too_few_confident_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a 2x2 mosaic needs pictures of 4 classes"):
        evaluate(
            make_model(),
            SquareProcessor(32),
            make_folder(tmp_path, count=3),
            **SMALL,
        )


def layer(name, side, is_convolution=False):
    return SaliencyLayer(name, "Module", (8, side, side), True, True, False, is_convolution)


def test_depths_are_the_last_block_of_each_resolution():
    sides = [56, 28, 28, 14, 14, 7]
    layers = [layer(f"blocks.{i}", side) for i, side in enumerate(sides)]
    assert choose_depths(layers) == ["blocks.2", "blocks.4", "blocks.5"]
    assert choose_depths(layers, 4) == ["blocks.0", "blocks.2", "blocks.4", "blocks.5"]
    flat = [layer(f"layers.{i}", 14) for i in range(12)]
    assert choose_depths(flat) == ["layers.3", "layers.7", "layers.11"]


def test_own_convolutions_are_the_last_inside_each_block():
    layers = [
        layer("blocks.1.expand", 14, True),
        layer("blocks.1.project", 14, True),
        layer("blocks.10.project", 7, True),
        layer("blocks.1", 14),
    ]
    found = last_convolutions(layers, ["blocks.1", "blocks.10"])
    assert found == {"blocks.1.project": "blocks.1", "blocks.10.project": "blocks.10"}


def test_measured_copy_shares_the_network():
    model = make_model(normalize="minmax")
    assert without_postprocessing(model).backbone is model.backbone
    assert without_postprocessing(model, meta_step=0.1).config.normalize is None


def test_two_jobs_measure_what_one_measures(tmp_path):
    (tmp_path / "squares").mkdir()
    folder = make_folder(tmp_path / "squares", count=20)
    small = {**SMALL, "num_mosaics": 5, "num_deletion_images": 3}
    jobs = check_shared(
        lambda: evaluate(make_model(), SquareProcessor(32), folder, **small), tmp_path / "rows"
    )
    # The first one stops where it does not know which pictures are classified right.
    assert jobs == 3
