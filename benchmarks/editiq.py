"""EditIQ beside controls on drawn scenes; its programme timed; its cameras beside Clarabel.

    python -m benchmarks.editiq edits --scenes 10
    python -m benchmarks.editiq speed --rounds 5

Run it from the repository with `pip install 'salhub[bench]' clarabel`. Scenes are drawn, of seeds
that nothing was learned or chosen on. It writes benchmarks/results/editiq.json or
editiq_speed.json, and its tables beside it as .md.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import sparse

from benchmarks.interleaved import Contender, peak_array_memory, race, use_one_thread
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import (
    RESULTS,
    Requirement,
    add_comparisons,
    add_race,
    add_requirements,
    finish,
)
from salhub.models.editiq.configuration_editiq import EditIQConfig
from salhub.models.editiq.evaluation_editiq import evaluate
from salhub.models.editiq.modeling_editiq import EditIQModel
from salhub.models.editiq.programme import Rhythm, solve_exactly, solve_greedy_tau
from salhub.models.editiq.trajectories import Term, Trajectories, solve_trajectories
from salhub.results import Results, Table, measured, noted_as_it_comes

MODEL = "salhub/editiq-stage"
# The size that the programme is timed at: frames, shots and durations.
FRAMES, SHOTS, STATES = 3000, 11, 250
MOST_SECONDS, MOST_GAP = 0.2, 1e-3
# Cameras: frames, shots of a batch, and weights of first and third differences.
LENGTH, BATCH = 400, 10
WEIGHTS = ((500, 500), (50, 100), (0, 500), (500, 0))
OURS, THEIRS = "ours, as one batch", "Clarabel, one by one"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; see the top of the file."""
    options = _options(arguments)
    use_one_thread()
    name = "editiq" if options.part == "edits" else "editiq_speed"
    words = f"edits --scenes {options.scenes} --seed {options.seed}"
    if options.part == "speed":
        words = f"speed --rounds {options.rounds}"
    results = Results(model=name, command=f"python -m benchmarks.editiq {words}", seed=options.seed)
    peers = find_peers("clarabel")
    output = options.output or RESULTS / f"{name}.json"
    with noted_as_it_comes(output), measured(results):
        if options.part == "edits":
            required = edits(results, options.model, options.scenes, options.seed)
        else:
            required = [programme(results, options.rounds)]
            required += cameras(results, peers["clarabel"], options.rounds)
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.editiq", description=__doc__)
    parser.add_argument("part", choices=("edits", "speed"), help="what is measured")
    parser.add_argument("--model", default=MODEL, help="a name or a folder; 'untrained' for none")
    parser.add_argument("--scenes", type=int, default=10, help="drawn scenes")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the races")
    parser.add_argument("--output", type=Path, help="results file")
    return parser.parse_args(arguments)


def edits(results: Results, name: str, scenes: int, seed: int) -> list[Requirement]:
    """The edits of the model, of controls and of the model without each part."""
    is_plain = name == "untrained"
    model = EditIQModel(EditIQConfig()) if is_plain else EditIQModel.from_pretrained(name)
    found = evaluate(model, "stage", num_scenes=scenes, seed=seed)
    results.data = {**found.data, "model": name}
    results.metrics += found.metrics
    results.tables += found.tables

    def value(metric: str) -> float:
        return found.metric(metric).value

    full, soft = value("full/accuracy/soft"), "accuracy/soft"
    worse = value(f"jittered and dropped tracks/{soft}")
    rows = [
        Requirement("jump cuts a scene", value("full/jump cuts"), 0),
        Requirement("shots under the minimum a scene", value("full/short shots"), 0),
        Requirement("soft accuracy lost by worse tracks", full - worse, 0.05),
        Requirement(
            "cuts of greedy to those of full",
            value("greedy/cuts a minute") / value("full/cuts a minute"), 5.0, is_least=True,
        ),
    ]  # fmt: skip
    # The order that was expected when the scenes were designed, before anything was measured.
    order = ("full", "dialogue only", "speaker", "greedy", "saliency only", "random")
    for better, lesser in pairwise(order):
        lead = value(f"{better}/{soft}") - value(f"{lesser}/{soft}")
        rows.append(Requirement(f"lead of {better} over {lesser}", lead, 0.0, is_least=True))
    return rows


def programme(results: Results, rounds: int) -> Requirement:
    """Seconds of the exact programme on one core, beside the first-order one."""
    draw = np.random.default_rng(0)
    unary = draw.uniform(0, 4, (SHOTS, FRAMES))
    changes = draw.uniform(0, 5, (FRAMES, SHOTS, SHOTS))
    rhythm = Rhythm(draw.uniform(0, 3, STATES), draw.uniform(0, 1, STATES), 0.0, np.zeros(STATES))
    free = np.zeros(FRAMES)

    def run(solve: Callable) -> Callable:
        return lambda: solve(unary, lambda a, b: changes[a:b], rhythm, free)

    contenders = [
        Contender("exact", run(solve_exactly), "salhub", peak_array_memory),
        Contender("first-order", run(solve_greedy_tau), "salhub", peak_array_memory),
    ]
    times = race(contenders, rounds=rounds, title="programme")
    note = f"{FRAMES} frames, {SHOTS} shots, {STATES} durations, numbers drawn at random."
    add_race(results, "Programme", note, times, {"to first-order": "first-order"})
    gap = run(solve_greedy_tau)().energy - run(solve_exactly)().energy
    results.add_metric("first-order/energy above the optimum", gap)
    seconds = float(np.median(times.cpu["exact"]))
    return Requirement("seconds of the exact programme", seconds, MOST_SECONDS)


def cameras(results: Results, peer: Peer, rounds: int) -> list[Requirement]:
    """Cost and seconds of the paths of ten cameras, beside Clarabel."""
    draw = np.random.default_rng(0)
    step = np.where(np.arange(LENGTH) < LENGTH // 2, 300.0, 700.0)
    targets = step + draw.normal(0, 4, (BATCH, LENGTH))
    rows, required = [], []
    for first, third in WEIGHTS:
        for room in (None, 60.0):
            title = f"weights {first} and {third}{', bounded' if room else ''}"
            contenders = [Contender(f"{OURS}: {title}", _ours(targets, first, third, room),
                                    "salhub", peak_array_memory)]  # fmt: skip
            if peer.reason is None:
                theirs = _clarabel(targets, first, third, room)
                contenders.append(
                    Contender(f"{THEIRS}: {title}", theirs, "Clarabel", peak_array_memory)
                )
            times = race(contenders, rounds=rounds, title=title)
            found: Trajectories = contenders[0].run()
            row = [title, float(found.objective.sum()), f"{found.gap.max():.1e}"]
            if peer.reason is None:
                costs = theirs()
                above = float(((found.objective - costs) / costs).max())
                required.append(Requirement(f"cost above Clarabel's: {title}", above, MOST_GAP))
                ours, other = (float(np.median(times.cpu[c.name])) for c in contenders)
                row += [float(costs.sum()), f"{above:.1e}", 1e3 * ours, 1e3 * other, ours / other]
                required.append(Requirement(f"time to Clarabel's: {title}", ours / other, 1.0))
                pair = (contenders[0].name, contenders[1].name)
                add_comparisons(results, times, [pair])
            else:
                row += [None] * 5
            rows.append(row)
    note = (
        f"{BATCH} paths of {LENGTH} frames that follow a step of 400 pixels with noise. Clarabel "
        "solves the same problem, its matrices ready made, to its own tolerance. The certified gap "
        "is the most that a path of ours costs above its optimum, as a share."
    )
    columns = ["cameras", "our cost", "certified gap", "its cost", "ours above it", "ours, ms",
               "Clarabel, ms", "ratio"]  # fmt: skip
    results.tables.append(Table("Cameras", note, columns, rows))
    return required


def _ours(
    targets: np.ndarray, first: float, third: float, room: float | None
) -> Callable[[], Trajectories]:
    ones, reach = np.ones_like(targets), 1e4 if room is None else room
    terms = [
        Term(order, -weight * ones[:, order:], weight * ones[:, order:])
        for order, weight in ((1, first), (3, third))
        if weight
    ]
    low, high = targets - reach, targets + reach
    return lambda: solve_trajectories(targets, ones, terms, low, high)


def _clarabel(
    targets: np.ndarray, first: float, third: float, room: float | None
) -> Callable[[], np.ndarray]:
    """The same problems as quadratic programmes; gives what each costs, (B,)."""
    import clarabel

    length = targets.shape[1]
    steps = sparse.diags([-1.0, 1.0], [0, 1], shape=(length - 1, length))
    turns = sparse.diags([-1.0, 3.0, -3.0, 1.0], [0, 1, 2, 3], shape=(length - 3, length))
    kept = [(weight, rows) for weight, rows in ((first, steps), (third, turns)) if weight]
    sizes = [rows.shape[0] for _, rows in kept]
    free = [sparse.csc_matrix((n, n)) for n in sizes]
    quadratic = sparse.block_diag([sparse.eye(length), *free]).tocsc()
    linear = np.concatenate(
        [weight * np.ones(n) for (weight, _), n in zip(kept, sizes, strict=True)]
    )
    blocks = []
    for place, (_, rows) in enumerate(kept):
        for sign in (1, -1):
            slack = [sparse.csc_matrix((rows.shape[0], n)) for n in sizes]
            slack[place] = -sparse.eye(sizes[place])
            blocks.append(sparse.hstack([sign * rows, *slack]))
    if room is not None:
        empty = sparse.csc_matrix((length, sum(sizes)))
        blocks += [sparse.hstack([sign * sparse.eye(length), empty]) for sign in (1, -1)]
    matrix = sparse.vstack(blocks).tocsc()
    zeros = np.zeros(2 * sum(sizes))
    settings = clarabel.DefaultSettings()
    settings.verbose = False

    def solve() -> np.ndarray:
        costs = []
        for own in targets:
            bounds = zeros if room is None else np.concatenate([zeros, own + room, room - own])
            cones = [clarabel.NonnegativeConeT(len(bounds))]
            full = np.concatenate([-own, linear])
            solver = clarabel.DefaultSolver(
                quadratic.tocsc(), full, matrix, bounds, cones, settings
            )
            costs.append(solver.solve().obj_val + 0.5 * float(own @ own))
        return np.array(costs)

    return solve


if __name__ == "__main__":
    main()
