"""Paths of cameras: their optimum, their bounds, and the crops that come of them."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.configuration_editiq import EditIQConfig
from salhub.models.editiq.rushes import make_rushes
from salhub.models.editiq.trajectories import Term, objective_of, solve_trajectories


def step_tracks(batch, length=400, noise=4.0):
    """A jump from 300 to 700 pixels, with noise."""
    draw = np.random.default_rng(0)
    step = np.where(np.arange(length) < length // 2, 300.0, 700.0)
    return step + draw.normal(0, noise, (batch, length))


def motion(targets, first, third):
    ones = np.ones_like(targets)
    return [Term(k, -w * ones[:, k:], w * ones[:, k:]) for k, w in ((1, first), (3, third)) if w]


@pytest.mark.parametrize("first, third", [(500, 500), (50, 100), (0, 500), (500, 0)])
@pytest.mark.parametrize("is_bounded", [False, True])
def test_no_small_change_is_cheaper_and_the_gap_to_the_optimum_is_certified(
    first, third, is_bounded
):
    targets = step_tracks(3)
    ones = np.ones_like(targets)
    low, high = (targets - 60, targets + 60) if is_bounded else (-1e4 * ones, 1e4 * ones)
    terms = motion(targets, first, third)
    found = solve_trajectories(targets, ones, terms, low, high)
    assert (found.gap <= 1e-4).all() and (found.gap > -1e-12).all()
    assert (found.paths >= low).all() and (found.paths <= high).all()
    tight = solve_trajectories(targets, ones, terms, low, high, tolerance=1e-6)
    assert (found.objective - tight.objective <= 1.1e-4 * tight.objective).all()
    draw = np.random.default_rng(1)
    for size in (0.01, 1.0, 20.0):
        other = np.clip(tight.paths + size * draw.normal(size=targets.shape), low, high)
        cost = objective_of(other, targets, ones, terms)
        assert (cost >= tight.objective * (1 - 1e-6)).all()


def test_a_small_problem_against_a_general_solver():
    draw = np.random.default_rng(2)
    targets = draw.normal(0, 5, (4, 12))
    weights = draw.uniform(0.2, 2, targets.shape)

    def drawn(order):
        shape = (4, 12 - order)
        low, high = -draw.uniform(0, 2, shape), draw.uniform(0, 2, shape)
        return Term(order, low, high, draw.normal(size=shape))

    terms = [
        drawn(1),
        drawn(0),
        Term(2, -np.ones((4, 10)), np.ones((4, 10))),
        Term(3, -draw.uniform(0, 1, (4, 9)), draw.uniform(0, 1, (4, 9))),
    ]  # fmt: skip
    low, high = np.full(targets.shape, -3.0), np.full(targets.shape, 4.0)
    found = solve_trajectories(targets, weights, terms, low, high, tolerance=1e-7)
    for row in range(4):
        own = [
            Term(t.order, t.low[[row]], t.high[[row]],
                 t.offset[[row]] if isinstance(t.offset, np.ndarray) else t.offset)
            for t in terms
        ]  # fmt: skip

        def cost(path, row=row, own=own):
            return float(objective_of(path[None], targets[[row]], weights[[row]], own)[0])

        best = minimize(
            cost, found.paths[row], method="Powell", bounds=[(-3, 4)] * 12,
            options={"maxiter": 4000, "xtol": 1e-8, "ftol": 1e-12},
        )  # fmt: skip
        assert cost(found.paths[row]) <= best.fun + 1e-5 * abs(best.fun)


def test_without_a_quadratic_part_it_is_a_linear_programme():
    # The least total variation between bounds that move.
    low, high = np.zeros((1, 20)), np.full((1, 20), 10.0)
    low[0, 8:12], high[0, 15:] = 6.0, 3.0
    tiny = np.full((1, 20), 1e-6)
    still = Term(1, -np.ones((1, 19)), np.ones((1, 19)))
    found = solve_trajectories(np.full((1, 20), 5.0), tiny, [still], low, high, tolerance=1e-6)
    rows = np.zeros((38, 39))
    for t in range(19):
        rows[t, [t, t + 1, 20 + t]] = -1, 1, -1
        rows[19 + t, [t, t + 1, 20 + t]] = 1, -1, -1
    best = linprog(
        np.append(np.zeros(20), np.ones(19)), rows, np.zeros(38),
        bounds=[*zip(low[0], high[0], strict=True), *[(0, None)] * 19],
    )  # fmt: skip
    assert np.abs(np.diff(found.paths)).sum() == pytest.approx(best.fun, abs=0.02)


def test_a_batch_gives_what_its_rows_give():
    targets = step_tracks(3, 60)
    targets[1] *= 0.5
    ones = np.ones_like(targets)
    terms = motion(targets, 50, 100)
    low, high = targets - 80, targets + 80
    together = solve_trajectories(targets, ones, terms, low, high, tolerance=1e-7)
    for row in range(3):
        own = [Term(t.order, t.low[[row]], t.high[[row]]) for t in terms]
        alone = solve_trajectories(
            targets[[row]], ones[[row]], own, low[[row]], high[[row]], tolerance=1e-7
        )
        np.testing.assert_allclose(alone.objective, together.objective[row], rtol=1e-6)
        np.testing.assert_allclose(alone.paths[0], together.paths[row], atol=0.05)


def test_bounds_without_room_are_refused():
    ones = np.ones((1, 9))
    with pytest.raises(
        ValueError, match="Path 0 has no valid position at frame 0: its bounds are 1 and 1"
    ):
        solve_trajectories(ones, ones, [], ones, ones)


def people(length=200, height=360, rate=Fraction(25), places=(0.2, 0.5, 0.8), width=1280):
    frames = np.arange(length)
    scale = height / 360
    boxes = []
    for number, place in enumerate(places):
        x = place * width + 3 * scale * np.sin(frames / 9 + number)
        if number == 1:
            x = x + 60 * scale * np.clip((frames - 80) / 40, 0, 1)
        body = [x - 30 * scale, 0 * x + 160 * scale, x + 30 * scale, 0 * x + 330 * scale]
        boxes.append(np.stack(body, -1))
    names = ("anna", "ben", "cleo", "dan")[: len(places)]
    return ActorTracks(names, np.stack(boxes), rate, (width, height))


def test_crops_have_the_aspect_lie_in_the_frame_and_hold_whom_they_are_of():
    tracks = people()
    rushes = make_rushes(tracks, EditIQConfig())
    names = [shot.name for shot in rushes.shots]
    assert names == ["WIDE", "MS:anna", "MS:ben", "MS:cleo", "MS:anna+ben", "MS:ben+cleo",
                     "MS:anna+ben+cleo"]  # fmt: skip
    crops = rushes.crops.astype(np.float64)
    assert (crops[0] == [0, 0, 1280, 360]).all()
    sizes = crops[1:, :, 2:] - crops[1:, :, :2]
    np.testing.assert_allclose(sizes[..., 0] / sizes[..., 1], 16 / 9, rtol=1e-4)
    assert crops.min() >= -1e-3 and (crops[..., 2:] <= np.array([1280, 360]) + 1e-3).all()
    for row, shot in enumerate(rushes.shots):
        if not rushes.offered[row].any() or shot.size == "WIDE":
            continue
        for name in shot.actors:
            box = rushes.boxes[tracks.names.index(name)]
            assert (crops[row, :, 0] <= box[:, 0] + 0.5).all()
            assert (crops[row, :, 2] >= box[:, 2] - 0.5).all()
            assert (crops[row, :, 1] <= box[:, 1] + 0.5).all()
    # The group of three is wider than the largest crop.
    assert not rushes.offered[names.index("MS:anna+ben+cleo")].any()
    assert any("larger than a crop can be: MS:anna+ben+cleo" in one for one in rushes.warnings)


def test_the_camera_stands_still_where_its_actor_only_sways_and_eases_where_he_walks():
    rushes = make_rushes(people(), EditIQConfig())
    x = rushes.crops[[1, 2], :, 0].astype(np.float64)
    assert (np.abs(np.diff(x[0])) < 0.05).mean() > 0.9
    # He walks at 1.5 px a frame from frame 80 to 120.
    assert abs(x[1, -1] - x[1, 0]) > 40 and np.abs(np.diff(x[1], 2)).max() < 1.0


def test_crops_do_not_depend_on_resolution():
    small, large = (make_rushes(people(height=h, width=w), EditIQConfig())
                    for h, w in ((360, 1280), (720, 2560)))  # fmt: skip
    np.testing.assert_allclose(2 * small.crops, large.crops, atol=1.0)


def test_look_room_is_on_the_inner_side_of_the_outermost():
    tracks = people()
    shown = make_rushes(tracks, EditIQConfig()).crops.astype(np.float64)
    plain = make_rushes(tracks, EditIQConfig(look_room=0.0)).crops.astype(np.float64)
    shift = (shown - plain)[:, :, 0].mean(1)
    assert shift[1] > 5 and shift[3] < -5 and abs(shift[2]) < 1


def test_gaps_are_filled_and_who_is_away_for_longer_is_not_offered():
    tracks = people()
    boxes = tracks.boxes.copy()
    boxes[0, 50:60], boxes[1, 100:160] = np.nan, np.nan
    gappy = ActorTracks(tracks.names, boxes, tracks.frame_rate, tracks.frame_size)
    rushes = make_rushes(gappy, EditIQConfig())
    assert rushes.offered[1].all()
    assert rushes.offered[2].tolist() == [not 100 <= t < 160 for t in range(200)]
    assert any("10 boxes were missing" in one for one in rushes.warnings)


def test_people_who_change_sides_are_neighbours_of_others_then():
    frames = np.arange(200)
    tracks = people()
    boxes = tracks.boxes.copy()
    walk = np.clip((frames - 80) * 12.0, 0, 760)
    boxes[0, :, ::2] += walk[:, None]
    crossing = ActorTracks(tracks.names, np.clip(boxes, 0, 1280), tracks.frame_rate, (1280, 360))
    rushes = make_rushes(crossing, EditIQConfig())
    names = [shot.name for shot in rushes.shots]
    row = names.index("MS:anna+cleo")
    assert not rushes.offered[row, 0] and rushes.offered[row, -1]


def test_all_groups_are_shot_where_the_policy_says_so_and_neighbours_alone_above_eight():
    config = EditIQConfig(subset_policy="all", full_shots=True)
    rushes = make_rushes(people(40), config)
    assert len(rushes.shots) == 1 + 3 + 3 + 4
    many = people(12, width=4000, places=tuple(np.linspace(0.05, 0.95, 4)))
    boxes = np.concatenate([many.boxes + 90 * k for k in range(3)])[:9]
    names = tuple(f"p{k}" for k in range(9))
    crowd = make_rushes(ActorTracks(names, boxes, Fraction(25), (4000, 360)), config)
    assert any("only neighbours have a shot" in one for one in crowd.warnings)
    assert len(crowd.shots) < 70


@pytest.mark.parametrize("size", [(360, 640), (1280, 360), (640, 480)])
def test_a_single_actor_is_cut_between_three_sizes_in_any_frame(size):
    width, height = size
    box = np.tile([0.4 * width, 0.4 * height, 0.6 * width, 0.9 * height], (1, 30, 1))
    rushes = make_rushes(ActorTracks(("solo",), box, Fraction(25), size), EditIQConfig())
    assert [shot.name for shot in rushes.shots] == ["WIDE", "MS:solo", "FS:solo"]
    crops = rushes.crops[1:].astype(np.float64)
    assert crops.min() >= -1e-3 and (crops[..., 2:] <= np.array(size) + 1e-3).all()
    sizes = crops[..., 2:] - crops[..., :2]
    np.testing.assert_allclose(sizes[..., 0] / sizes[..., 1], 16 / 9, rtol=1e-3)
