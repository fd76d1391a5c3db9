"""Every potential, every term and the programme, against slow and obvious arithmetic."""

import itertools
import math

import numpy as np
import pytest

from salhub.models.editiq.configuration_editiq import LEARNED, EditIQConfig
from salhub.models.editiq.dialogue_potential import Cue, compose, make_potential
from salhub.models.editiq.energy import Energy, Scene, misframing_of, overlap_of
from salhub.models.editiq.film_saliency import ActorSaliency, potentials_of
from salhub.models.editiq.programme import HARD, Rhythm, energy_of, solve_exactly, solve_greedy_tau
from salhub.models.editiq.shots import Lock, Shot
from salhub.models.editiq.utterances import Transcript, Utterance

NAMES = ("anna", "ben")
SHOTS = (Shot("WIDE"), Shot("MS", ("anna",)), Shot("MS", ("anna", "ben")))


def scene(draw, frames=8, rate=5.0, **changed):
    """A small scene of which everything is drawn: two people and three shots."""
    count = len(SHOTS)
    corner = draw.uniform(0, 60, (count, frames, 2))
    crops = np.concatenate([corner, corner + draw.uniform(20, 60, (count, frames, 2))], -1)
    at = draw.uniform(0, 80, (2, frames, 2))
    boxes = np.concatenate([at, at + draw.uniform(5, 40, (2, frames, 2))], -1)
    boxes[draw.random((2, frames)) < 0.1] = np.nan
    offered = draw.random((count, frames)) < 0.9
    offered[0] = True
    fields = {
        "dialogue": draw.random((count, frames)), "saliency": draw.random((count, frames)),
        "crops": crops, "boxes": boxes, "names": NAMES, "rate": rate, "offered": offered,
        "quiet": draw.random(frames) < 0.3, "starts": [float(draw.uniform(0, frames / rate))],
    }  # fmt: skip
    return Scene(SHOTS, **{**fields, **changed})


def config_of(draw, **changed):
    """Settings with every term on."""
    settings = {
        "minimum_shot": 0.4, "snap": 0.25, "shortest_shot": 0.5, "longest_shot": 1.0,
        "rhythm": ("sigmoid", "lognormal")[int(draw.integers(2))], "mode_seconds": 0.6,
        "overlap": ("iou", "target")[int(draw.integers(2))], "overlap_low": 0.05,
        "overlap_high": 0.4,
    }  # fmt: skip
    return EditIQConfig(**{**settings, **changed})


def weights_of(draw):
    return {name: float(draw.uniform(0.1, 2)) for name in LEARNED} | {"show_weight": 0.5}


def slow_energy(path, given, config, weights):
    """The energy of an edit, frame by frame, from the sentences that describe it."""
    rate, total = given.rate, 0.0
    shortest = math.ceil(config.minimum_shot * rate - 1e-9)
    cap = max(2, min(math.ceil(2 * config.longest_shot * rate), given.num_frames))

    def logistic(value):
        return 1 / (1 + math.exp(-value))

    def hazard(frames):
        middle = math.log(config.mode_seconds) + config.spread**2
        below, above = (
            0.5 * math.erfc((middle - math.log((frames + half) / rate)) / config.spread / 2**0.5)
            for half in (-0.5, 0.5)
        )
        return min(max((above - below) / (1 - below), 1e-9), 1 - 1e-9)

    lasted = 0
    for t, shot in enumerate(path):
        if not given.offered[shot, t]:
            return math.inf
        weigh = (
            (config.quiet_dialogue_weight, config.quiet_saliency_weight) if given.quiet[t]
            else (weights["dialogue_weight"], weights["saliency_weight"])
        )  # fmt: skip
        worth = weigh[0] * given.dialogue[shot, t] + weigh[1] * given.saliency[shot, t]
        total += 25 / rate * -math.log(config.epsilon + worth)
        for a, name in enumerate(given.names):
            box = given.boxes[a, t]
            if name in SHOTS[shot].actors or shot == 0 or np.isnan(box).any():
                continue
            crop = given.crops[shot, t]
            w = max(0.0, min(box[2], crop[2]) - max(box[0], crop[0]))
            h = max(0.0, min(box[3], crop[3]) - max(box[1], crop[1]))
            u = w * h / ((box[2] - box[0]) * (box[3] - box[1]))
            total += 25 / rate * weights["misframing_weight"] * 4 * u * (1 - u)
        if t == 0:
            lasted = 1
            total += HARD if shot != 0 and config.establishing == "first" else 0
            continue
        before = path[t - 1]
        if before == shot:
            if config.rhythm == "lognormal":
                total -= weights["cut_weight"] * math.log1p(-hazard(min(lasted, cap)))
            else:
                late = 1 - logistic(config.longest_shot - min(lasted, cap) / rate)
                total += 25 / rate * weights["stay_weight"] * late
            lasted += 1
            continue
        factor = 1.0
        if set(SHOTS[before].actors) == set(SHOTS[shot].actors):
            factor = config.same_actors_factor
        lag = max(1, round(rate))
        both = set(SHOTS[before].actors) & set(SHOTS[shot].actors)
        if t >= lag and len(both) == 2:
            sides = [
                np.sign(np.subtract(*given.boxes[:, frame, ::2].mean(1))) for frame in (t, t - lag)
            ]
            if sides[0] * sides[1] < 0:
                factor = max(factor, config.same_actors_factor)
        total += weights["transition_weight"] * factor
        one, other = given.crops[before, t], given.crops[shot, t]
        w = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
        h = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (one, other)]
        share = w * h / (areas[1] if config.overlap == "target" else sum(areas) - w * h)
        rising = (share - config.overlap_low) / (config.overlap_high - config.overlap_low)
        if config.overlap == "target":
            steep = 100.0 if share > config.overlap_high else max(rising, 0.01)
        else:
            steep = min(max(rising, 0.0), 1.0)
        total += weights["overlap_weight"] * steep
        if config.rhythm == "lognormal":
            total -= weights["cut_weight"] * math.log(hazard(min(lasted, cap)) * rate / 25)
        else:
            seconds = min(lasted, cap) / rate
            total += weights["cut_weight"] * (1 - logistic(seconds - config.shortest_shot))
        total += HARD if lasted < shortest else 0
        if any(start < t / rate <= start + config.snap for start in given.starts):
            total += HARD
        lasted = 1
    return total + (HARD if lasted < shortest else 0)


def test_the_programme_is_as_cheap_as_the_best_of_all_sequences_with_every_term_on():
    every = list(itertools.product(range(3), repeat=8))
    gaps = []
    for number in range(100):
        draw = np.random.default_rng(number)
        given, config, weights = scene(draw), config_of(draw), weights_of(draw)
        energy = Energy(given, config, weights)
        found = energy.solve()
        # The cheapest few of all sequences by tables, then by the slow arithmetic.
        costs = brute(energy, every)
        best = int(np.argmin(costs))
        assert found.energy == pytest.approx(costs[best], abs=1e-9)
        for path in (found.shots, np.array(every[best])):
            slow = slow_energy(path, given, config, weights)
            assert slow == pytest.approx(costs[best], abs=1e-9)
        gaps.append(energy.solve("greedy_tau").energy - found.energy)
    # Carrying the time along the best path alone is not exact.
    assert min(gaps) > -1e-9 and np.mean(np.array(gaps) > 1e-6) > 0.1


def brute(energy, every):
    """What all sequences cost, by adding up tables; (N,)."""
    paths = np.array(every)
    frames = np.arange(paths.shape[1])
    total = energy.unary[paths, frames].sum(1)
    rhythm, changes = energy.rhythm, energy.transitions(0, paths.shape[1])
    lasted = np.ones(len(paths), int)
    states = len(rhythm.cut)
    total += rhythm.enter
    for t in frames[1:]:
        before, now = paths[:, t - 1], paths[:, t]
        is_cut, at = before != now, np.minimum(lasted, states) - 1
        cut = changes[t, before, now] + rhythm.cut[at] + energy.cut_cost[t] + rhythm.enter
        total += np.where(is_cut, cut, rhythm.stay[at])
        lasted = np.where(is_cut, 1, lasted + 1)
    return total + rhythm.end[np.minimum(lasted, states) - 1]


@pytest.mark.parametrize("rhythm", ["sigmoid", "lognormal", "gazed", "off"])
def test_terms_of_random_edits_add_up_to_the_energy(rhythm):
    for number in range(20):
        draw = np.random.default_rng(number)
        given, weights = scene(draw, frames=12), weights_of(draw)
        energy = Energy(given, config_of(draw, rhythm=rhythm), weights)
        path = draw.integers(0, 3, 12)
        together = sum(float(one.sum()) for one in energy.terms(path).values())
        assert together == pytest.approx(energy.of(path), abs=1e-9) or energy.of(path) == math.inf
        if rhythm in ("sigmoid", "lognormal"):
            slow = slow_energy(path, given, energy.config, weights)
            assert energy.of(path) == pytest.approx(slow, abs=1e-9)


def test_lognormal_rhythm_is_the_negative_log_prior_of_a_shot_length():
    rate, config = 10.0, EditIQConfig(rhythm="lognormal", longest_shot=10.0, minimum_shot=0.0)
    draw = np.random.default_rng(0)
    energy = Energy(scene(draw, 400, rate), config, weights_of(draw) | {"cut_weight": 1.0})
    rhythm = energy.soft_rhythm
    lengths = np.arange(1, 150)
    prior = np.exp([-(rhythm.stay[: n - 1].sum() + rhythm.cut[n - 1]) for n in lengths])
    middle = math.log(config.mode_seconds) + config.spread**2
    density = np.exp(-((np.log(lengths / rate) - middle) ** 2) / (2 * config.spread**2)) / lengths
    np.testing.assert_allclose(prior / prior.sum(), density / density.sum(), atol=2e-4)
    assert abs(lengths[prior.argmax()] / rate - config.mode_seconds) <= 0.1


@pytest.mark.parametrize("rhythm", ["sigmoid", "lognormal"])
def test_a_shot_costs_the_same_whatever_the_frame_rate(rhythm):
    config, costs = EditIQConfig(rhythm=rhythm, minimum_shot=0.0), []
    weights = weights_of(np.random.default_rng(0))
    for rate in (12.5, 25.0, 50.0):
        given = scene(np.random.default_rng(0), round(30 * rate), rate)
        energy = Energy(given, config, weights)
        soft = energy.soft_rhythm
        lasts = [round(seconds * rate) for seconds in (2, 4, 8)]
        costs.append([soft.stay[: n - 1].sum() + soft.cut[n - 1] for n in lasts])
    np.testing.assert_allclose(costs[0], costs[2], rtol=0.03, atol=0.05)
    np.testing.assert_allclose(costs[1], costs[2], rtol=0.03, atol=0.05)


def test_groups_are_worth_what_their_actors_are():
    draw = np.random.default_rng(0)
    values = draw.random((4, 50))
    names = ("a", "b", "c", "d")
    shots = [Shot("MS", names[i:j]) for i in range(4) for j in range(i + 1, 5)]

    def recursive(rows):
        if len(rows) == 1:
            return rows[0]
        left, right = recursive(rows[:-1]), recursive(rows[1:])
        return left + right - np.abs(left - right)

    found = compose(values, np.zeros(50), shots, names, "recursive")
    ours = compose(values, np.zeros(50), shots, names, "least")
    for row, shot in enumerate(shots):
        own = [values[names.index(name)] for name in shot.actors]
        np.testing.assert_allclose(found[row], recursive(own), atol=1e-12)
        np.testing.assert_allclose(ours[row], recursive(own) / 2 ** (len(own) - 1), atol=1e-12)


def test_misframing_and_overlap_by_counting_pixels():
    draw = np.random.default_rng(1)
    given = scene(draw)
    whole = {name: np.rint(getattr(given, name)) for name in ("crops", "boxes")}
    given = scene(np.random.default_rng(1), **whole)
    rows, columns = np.mgrid[0:140, 0:140]

    def inside(box):
        return (columns >= box[0]) & (columns < box[2]) & (rows >= box[1]) & (rows < box[3])

    found, shares = misframing_of(given), overlap_of(given.crops, "iou")
    for t in range(given.num_frames):
        for s, shot in enumerate(SHOTS):
            expected = 0.0
            for a, name in enumerate(NAMES):
                box = given.boxes[a, t]
                if name not in shot.actors and s and np.isfinite(box).all():
                    u = (inside(box) & inside(given.crops[s, t])).sum() / inside(box).sum()
                    expected += 4 * u * (1 - u)
            assert found[s, t] == pytest.approx(expected, abs=1e-9)
            for r in range(3):
                one, other = inside(given.crops[s, t]), inside(given.crops[r, t])
                iou = (one & other).sum() / (one | other).sum()
                assert shares[t, s, r] == pytest.approx(iou, abs=1e-9)


def test_importance_is_advanced_smoothed_and_replaced():
    config = EditIQConfig(dialogue_smoothing=0.4, dialogue_advance=0.2)
    talk = Transcript((Utterance(2.0, 6.0, "Hello.", "anna"),))
    cues = [
        Cue(2.0, 6.0, "statement", {"anna": 1.0, "ben": 0.35}, ("MS:anna",)),
        Cue(3.5, 4.5, "reaction", {"ben": 0.9, "anna": 0.5}, ("MS:anna+ben",), replaces=True),
    ]
    found = make_potential(cues, talk, SHOTS, NAMES, config, 10.0, 100)
    raw = np.full((2, 100), config.other_importance)
    raw[0, 18:58], raw[1, 18:58] = 1.0, 0.35
    raw[0, 33:43], raw[1, 33:43] = 0.5, 0.9
    for t in range(100):
        near = [min(max(k, 0), 99) for k in range(t - 2, t + 3)]
        np.testing.assert_allclose(found.importance[:, t], raw[:, near].mean(1), atol=1e-12)
    named = np.zeros((3, 100))
    named[1, 18:58] = 1.0
    named[1, 33:43], named[2, 33:43] = 0.0, 1.0
    for t in range(100):
        near = [min(max(k, 0), 99) for k in range(t - 2, t + 3)]
        np.testing.assert_allclose(found.shown[:, t], named[:, near].mean(1), atol=1e-12)
    assert found.quiet.tolist() == [not 0 <= t / 10 < 8 for t in range(100)]
    joint = found.joint(0.25)
    np.testing.assert_allclose(joint, 0.75 * found.composed + 0.25 * found.shown, atol=1e-12)


def test_saliency_of_the_wide_shot_is_how_evenly_people_draw_the_eye():
    shares = np.array([[0.5, 0.9], [0.5, 0.1]])
    measured = ActorSaliency(shares, shares, np.array([0.0, 1.0]))
    found = potentials_of(measured, SHOTS, NAMES, "least", 1.0, 2)
    uneven = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    expected = [[1.0, uneven], [0.5, 0.9], [0.5, 0.1]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_gazed_is_coded_as_its_author_coded_it():
    draw = np.random.default_rng(3)
    config = EditIQConfig.from_preset("gazed", establishing="off")
    given = scene(draw, frames=60, rate=10.0, quiet=np.zeros(60, bool))
    weights = {name: float(getattr(config, name)) for name in LEARNED}
    energy = Energy(given, config, weights)
    worth = given.saliency
    largest = (worth.max() - worth)[given.offered].max()
    assert energy.unit == pytest.approx(largest)
    finite = np.isfinite(energy.unary)
    np.testing.assert_allclose(energy.unary[finite], (worth.max() - worth)[finite])
    shares = overlap_of(given.crops, "target")
    expected = np.where(shares > 0.5, 100.0, np.maximum((shares - 0.3) / 0.2, 0.01)) * largest
    np.testing.assert_allclose(energy.overlap(0, 60), expected)
    assert (energy.transition(0, 60) == largest).all()
    path = draw.integers(0, 3, 60)
    found = energy.terms(path)["rhythm: stay"]
    lasted = 0
    for t in range(60):
        lasted = lasted + 1 if t and path[t] == path[t - 1] else 1
        short = 0.01 + 100 - 100 / (1 + math.exp(15 - lasted))
        long = 0.01 + 100 - 100 / (1 + math.exp(min(700, lasted - 50)))
        assert found[t] == pytest.approx(largest * (short + long), rel=1e-9)


def test_a_lock_is_kept_to_the_frame_and_a_shot_that_is_not_offered_is_not_shown():
    draw = np.random.default_rng(5)
    given = scene(draw, frames=40, rate=10.0, locks=[Lock(1.0, 2.0, "MS:anna+ben")])
    config = config_of(draw, minimum_shot=0.5)
    path = Energy(given, config, weights_of(draw)).solve().shots
    assert (path[10:20] == 2).all()
    outside = np.r_[0:10, 20:40]
    assert given.offered[path[outside], outside].all()
    cuts = np.flatnonzero(np.diff(path)) + 1
    assert not any(given.starts[0] < t / 10 <= given.starts[0] + config.snap for t in cuts
                   if t not in (10, 20))  # fmt: skip


def test_one_frame_two_frames_and_long_stays_end_at_the_cap():
    rhythm = Rhythm(np.array([9.0, 1.0]), np.array([1.0, 5.0]), 0.5, np.array([3.0, 0.0]))
    unary = np.array([[0.0] * 5, [1.0] * 5])
    swap = np.zeros((5, 2, 2))
    found = solve_exactly(unary, lambda a, b: swap[a:b], rhythm, np.zeros(5))
    best = min(
        energy_of(np.array(path), unary, lambda a, b: swap[a:b], rhythm, np.zeros(5))
        for path in itertools.product(range(2), repeat=5)
    )
    assert found.energy == pytest.approx(best)
    alone = solve_exactly(unary[:, :1], lambda a, b: swap[a:b], rhythm, np.zeros(1))
    assert alone.shots.tolist() == [0] and alone.energy == pytest.approx(3.5)
    greedy = solve_greedy_tau(unary[:, :1], lambda a, b: swap[a:b], rhythm, np.zeros(1))
    assert greedy.energy == pytest.approx(3.5)
