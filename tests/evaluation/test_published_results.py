"""The results files beside the cards: complete, and as an independent build found them."""

from pathlib import Path

import pytest

from salhub.models.normgrad.methods import METHODS
from salhub.results import Results

CARDS = Path(__file__).parents[2] / "model_cards"
DEPTHS = ("blocks.4", "blocks.10", "blocks.15")

# Mean and standard deviation of the positive mass in the right tile, 48 cells, measured once with
# plain code that shares nothing with this library.
ANCHORS = {
    "norm_grad": ((0.392, 0.075), (0.395, 0.063), (0.342, 0.040)),
    "norm_grad_selective": ((0.400, 0.079), (0.414, 0.071), (0.426, 0.046)),
    "linear_approx": ((0.437, 0.096), (0.512, 0.117), (0.829, 0.073)),
    "grad_cam": ((0.218, 0.086), (0.268, 0.106), (0.856, 0.093)),
    "gradient": ((0.394, 0.069), (0.396, 0.069), (0.368, 0.031)),
}


@pytest.fixture(scope="module", params=["normgrad", "gradcam"])
def family(request):
    return Results.load(CARDS / f"{request.param}-efficientnet-lite0.results.json")


@pytest.fixture(scope="module")
def salient():
    return Results.load(CARDS / "salient-relevance-efficientnet-lite0.results.json")


def test_every_method_is_there_at_three_depths_with_an_interval(family):
    assert family.data["num_mosaics"] >= 100
    for method in set(METHODS) - {"cam", "grad_x_input"}:
        for depth in DEPTHS:
            mass = family.metric(f"grid/mass/{method}/{depth}")
            assert mass.n == 4 * family.data["num_mosaics"]
            assert mass.interval[0] <= mass.value <= mass.interval[1]
            family.metric(f"class_similarity/rho/{method}/{depth}")


@pytest.mark.parametrize("method", ANCHORS)
def test_grid_game_agrees_with_an_independent_build(family, method):
    for depth, (mean, deviation) in zip(DEPTHS, ANCHORS[method], strict=True):
        found = family.metric(f"grid/mass/{method}/{depth}")
        half = (found.interval[1] - found.interval[0]) / 2
        # Three standard errors of the 48 cells, and our own interval.
        assert found.value == pytest.approx(mean, abs=3 * deviation / 48**0.5 + half)


def test_order_of_the_methods(family):
    def mass(name):
        return family.metric(f"grid/mass/{name}").value

    chance = 0.25
    assert mass("grad_cam/blocks.4") < mass("norm_grad/blocks.4")
    assert mass("grad_cam/blocks.10") < mass("norm_grad/blocks.10")
    assert mass("grad_cam/blocks.15") > 3 * chance
    for depth in DEPTHS:
        assert mass(f"linear_approx/{depth}") > mass(f"norm_grad/{depth}") > chance
        assert abs(mass("random map (control)") - chance) < 0.02


def test_meta_step_lowers_rho_and_its_cost_is_recorded(family):
    steps = [family.metric(f"meta_step/{s}/rho/norm_grad/blocks.15").value for s in ("0", "0.01")]
    assert steps[1] < steps[0] - 0.3
    assert family.metric("meta_step/0.01/probability_after/least_likely").value > 0


def test_guided_backprop_ignores_the_head(family):
    prefix = "randomization/cascade/classifier/absolute_rho"
    assert family.metric(f"{prefix}/guided_backprop/input").value > 0.95
    assert family.metric(f"{prefix}/gradient/input").value < 0.8


def test_classifier_is_the_converted_one(family, salient):
    for results in (family, salient):
        assert results.metric("top1").value >= 0.822
        assert results.metric("top5").value >= 0.955
        assert results.metric("top1").n == 1000


def test_salient_relevance_joins_regions_and_keeps_localisation(salient):
    assert salient.metric("regions/reduction").interval[0] > 5
    alone = salient.metric("grid/mass/relevance alone").value
    assert salient.metric("grid/mass/salient relevance").value >= alone - 0.02
    disc = salient.metric("perturbation/deletion/random disc (control)").value
    assert salient.metric("perturbation/deletion/salient relevance").value <= disc


def test_relevance_is_conserved_where_biases_hand_theirs_down(salient):
    for preset in ("deep_taylor", "epsilon_plus", "epsilon_gamma_box"):
        reached = salient.metric(f"conservation/reached/{preset}/uniform").value
        assert reached == pytest.approx(1.0, abs=1e-3)
        assert salient.metric(f"conservation/unexplained/{preset}/absorb").value < 1e-4


def test_no_path_of_a_machine_is_in_the_files():
    for path in CARDS.glob("*.results.json"):
        text = path.read_text()
        assert "/home" not in text and "/root" not in text and "/tmp" not in text
