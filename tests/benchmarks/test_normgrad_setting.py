"""The rule by which a setting is chosen, and numbers of a changed setting among those that stay."""

import pytest
import torch

from benchmarks.normgrad_setting import FORMER, Found, Setting, scores_of, settings
from benchmarks.own_numbers import replace_rows
from salhub.ops.maps import combine_layers
from salhub.results import Results, Table

PLAIN = Setting("norm_grad", ("a",))
STEPPED = Setting("norm_grad", ("a",), meta_step=2.5e-3)
OTHER = Setting("norm_grad_selective", ("a",))


def found(mass, rho, empty=0):
    return Found([mass] * 4, [1.0] * 4, [rho] * 2, empty)


def test_every_setting_is_tried_once_and_has_a_name_of_its_own():
    tried = list(settings(["blocks.4", "blocks.10", "blocks.15", "head"]))
    assert len(tried) == len(set(tried)) == len(set(map(str, tried))) == 2 * 2 * (4 + 11 * 4)
    assert FORMER in tried


def test_layers_are_joined_as_the_model_joins_them():
    singles = {("norm_grad", name): torch.rand(1, 2, 8, 8) for name in "ab"}
    setting = Setting("norm_grad", ("a", "b"), "product", "linear")
    expected = combine_layers(list(singles.values()), [1 / 3, 2 / 3], "product")
    assert torch.equal(setting.joined(singles), expected)


def test_a_score_is_the_sum_of_what_is_standardised():
    scores = scores_of({PLAIN: found(0.4, 0.9), OTHER: found(0.5, 0.7)})
    assert scores == {PLAIN: pytest.approx(-2.0), OTHER: pytest.approx(2.0)}


@pytest.mark.parametrize(
    "left_out", [found(0.3, 0.1), found(0.6, float("nan")), found(0.6, 0.1, empty=1)]
)
def test_what_wins_by_wrecking_or_by_silence_is_left_out(left_out):
    tried = {PLAIN: found(0.4, 0.9), OTHER: found(0.5, 0.7), STEPPED: left_out}
    scores = scores_of(tried)
    assert set(scores) == {PLAIN, OTHER} and scores[OTHER] > scores[PLAIN]


def results(value, command="all"):
    made = Results("m", command, 0, data={"num_images": 3})
    made.add_metric("rho/own", value)
    made.add_metric("seconds/all", value)
    return made


def test_rows_of_the_own_map_are_replaced_and_others_stay():
    whole, own = results(0.9), results(0.5, "own")
    whole.add_metric("rho/own/not_finite", 2)
    whole.add_metric("rho/other", 0.7)
    whole.tables = [Table("T", "", ["map", "x", "y"], [["own", "n/a", 9], ["other", 1, 2]])]
    own.tables = [Table("T", "", ["map", "x", "y"], [["own", 5, "n/a"]])]
    replace_rows(whole, own)
    assert [(one.name, one.value) for one in whole.metrics] == [
        ("rho/own", 0.5), ("seconds/all", 0.9), ("rho/other", 0.7),
    ]  # fmt: skip
    assert whole.tables[0].rows == [["own", 5, "n/a"], ["other", 1, 2]]
    assert whole.command == "all && own"
    own.data = {"num_images": 4}
    with pytest.raises(ValueError, match="measure on the same data"):
        replace_rows(whole, own)
