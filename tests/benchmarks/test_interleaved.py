"""The timer: everybody takes turns, and ratios are taken within a round."""

import pytest
import torch

from benchmarks.interleaved import (
    Contender,
    median_ratio,
    peak_array_memory,
    peak_tensor_memory,
    race,
)


def test_ratio_is_the_median_of_pairs_and_not_the_pair_of_medians():
    base = [1.0, 2.0, 100.0]
    times = [3.0, 6.0, 150.0]
    assert median_ratio(times, base).value == 3.0


def test_interval_holds_the_ratio_and_shrinks_to_it_when_rounds_agree():
    noisy = median_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert noisy.low < noisy.value < noisy.high
    assert median_ratio([2.0] * 5, [1.0] * 5) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("times", "base"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratio_refuses_unpaired_times(times, base):
    with pytest.raises(ValueError, match="one length above 0"):
        median_ratio(times, base)


def test_all_take_turns_in_rotating_order():
    order = []
    contenders = [Contender(name, lambda name=name: order.append(name)) for name in "abc"]
    found = race(contenders, rounds=2, warmup=1)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert found.rounds == 2
    assert all(len(found.wall[name]) == 2 for name in "abc")


def test_the_one_who_works_more_takes_longer():
    matrix = torch.rand(300, 300)

    def work(times):
        for _ in range(times):
            matrix @ matrix

    found = race(
        [Contender("once", lambda: work(4)), Contender("more", lambda: work(40))], rounds=5
    )
    assert found.ratio("more", "once").value > 3
    assert found.seconds("more") > found.seconds("once")


def test_errors_of_a_contender_are_not_swallowed():
    def fail():
        raise RuntimeError("broken peer")

    with pytest.raises(RuntimeError, match="broken peer"):
        race([Contender("a", fail)], rounds=1)


@pytest.mark.parametrize(
    ("names", "rounds", "message"), [("aa", 1, "names of their own"), ("ab", 0, "1 or more")]
)
def test_race_refuses(names, rounds, message):
    with pytest.raises(ValueError, match=message):
        race([Contender(name, int) for name in names], rounds=rounds)


def test_tensor_memory_counts_what_is_alive_together():
    def three_in_a_row():
        for _ in range(3):
            torch.ones(2**20)

    def three_at_once():
        return [torch.ones(2**20) for _ in range(3)]

    one = 4 * 2**20
    assert one <= peak_tensor_memory(three_in_a_row) < 1.1 * one
    assert 3 * one <= peak_tensor_memory(three_at_once) < 3.1 * one


def test_array_memory_counts_arrays():
    import numpy as np

    assert 2**23 <= peak_array_memory(lambda: np.ones(2**20)) < 1.1 * 2**23
