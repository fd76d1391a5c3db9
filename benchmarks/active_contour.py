"""The active contour beside scikit-image: quality, first contours and phases; and seconds.

    python -m benchmarks.active_contour quality --seeds 10
    python -m benchmarks.active_contour speed

Run it from the repository with `pip install 'salhub[bench]'`. Pictures are drawn, with exact masks,
of seeds that no setting was chosen on. It writes benchmarks/results/active_contour.json or
active_contour_speed.json, and its tables beside it as .md. The model without its parts is measured
by `salhub evaluate active-contour-saliency --data suite`, and here with --part-seeds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contour_peers import (
    CHAN_VESE,
    GEODESIC,
    MORPHOLOGICAL,
    chan_vese,
    morphological_chan_vese,
    peer_segmenters,
)
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
from salhub.metrics.segmentation import dice
from salhub.models.active_contour.configuration_active_contour import SaliencyActiveContourConfig
from salhub.models.active_contour.contour_suite import (
    DEGRADATIONS,
    DEVELOPMENT_SEEDS,
    make_contour_case,
)
from salhub.models.active_contour.evaluation_active_contour import (
    ABLATIONS,
    OTSU,
    THRESHOLD,
    TUNED,
    Scores,
    add_quality,
    add_starts,
    own_baselines,
    preset_segmenters,
    random_starts,
    score_all,
    segmenter_of,
)
from salhub.models.active_contour.image_processing_active_contour import (
    SaliencyActiveContourImageProcessor,
)
from salhub.models.active_contour.masked_pictures import MaskedPicture, draw_suite
from salhub.models.active_contour.modeling_active_contour import (
    SaliencyActiveContourForSegmentation,
)
from salhub.results import Results, Table, measured, noted_as_it_comes

OURS, BATCH = "salhub, tuned", 32
SIZES = (128, 256, 512, 1024)
STARTED = ("star",)
# As published, and run as `salhub evaluate` runs them.
BUILT_ON = ("LIF", "RSF", "Chan-Vese, level set")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a part, print the tables and write the results file."""
    options = _options(arguments)
    use_one_thread()
    first = max(DEVELOPMENT_SEEDS) + 1
    is_quality = options.part == "quality"
    words = f"quality --seeds {options.seeds} --part-seeds {options.part_seeds}"
    words = (
        f"{words} --starts {options.starts}" if is_quality else f"speed --rounds {options.rounds}"
    )
    name = "active_contour" if is_quality else "active_contour_speed"
    results = Results(
        model=name, command=f"python -m benchmarks.active_contour {words}", seed=first
    )
    results.data = {"name": "suite"}
    peers = find_peers("skimage")
    model = SaliencyActiveContourForSegmentation(SaliencyActiveContourConfig()).eval()
    output = options.output or RESULTS / f"{name}.json"
    with noted_as_it_comes(output), measured(results):
        if is_quality:
            results.data["seeds"] = f"{first} to {first + options.seeds - 1}"
            required = quality(results, peers, model, range(first, first + options.seeds))
            if options.part_seeds:
                parts(results, model, range(first, first + options.part_seeds))
            required += starts(results, peers, model, first, options.starts)
        else:
            required = speed(results, peers, model, options.rounds)
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.active_contour", description=__doc__)
    parser.add_argument("part", choices=("quality", "speed"), help="what is measured")
    parser.add_argument("--seeds", type=int, default=10, help="of the suite, for the quality")
    parser.add_argument("--part-seeds", type=int, default=0, help="the same, for its parts")
    parser.add_argument("--starts", type=int, default=20, help="first contours a picture")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the races")
    parser.add_argument("--output", type=Path, help="results file")
    return parser.parse_args(arguments)


# --- quality --------------------------------------------------------------------------------------


def quality(
    results: Results, peers: dict[str, Peer], model: Any, seeds: Sequence[int]
) -> list[Requirement]:
    """Dice over the suite beside the peers, the models that ours is built on, and its own start."""
    pictures = draw_suite(seeds)
    presets = preset_segmenters()
    rows = {TUNED: segmenter_of(model), **own_baselines(model)}
    rows |= {name: presets[name] for name in BUILT_ON}
    if peers["skimage"].reason is None:
        rows |= peer_segmenters()
    sideless = [name for name in rows if name not in (TUNED, THRESHOLD, OTSU)]
    scores = score_all(rows, pictures, progress=True, sideless=sideless)
    note = (
        "Dice of the mask as it is given; of its better side for LIF, RSF, Chan-Vese and "
        "scikit-image, which do not say which side is the object ('inverted' counts where the "
        "other was given). HD95 in pixels, its median. LIF, RSF and Chan-Vese run 100 iterations "
        "from a box."
    )
    add_quality(results, "Quality", scores, pictures, note)
    ours = scores[TUNED]
    best = max(one.dice.mean() for name, one in scores.items() if name != TUNED)
    required = [
        Requirement("mean Dice above the best other row", ours.dice.mean() - best, 0, None, True),
        Requirement("inverted phases", float(ours.inverted.sum()), 0),
    ]
    for kind in ("star", "vessel"):
        value = _mean_of(ours, pictures, 0, kind)
        required.append(Requirement(f"mean Dice, {kind}", value, 0.965, None, True))
    for name in DEGRADATIONS:
        least = 0.92 if name == "clutter" else 0.93
        value = _mean_of(ours, pictures, 1, name)
        required.append(Requirement(f"mean Dice, {name}", value, least, None, True))
        start = _mean_of(scores[THRESHOLD], pictures, 1, name)
        title = f"Dice above its start, {name}"
        # A thousandth is a pixel or two of the object.
        required.append(Requirement(title, value - start, -0.001, None, True))
    return required


def _mean_of(scores: Scores, pictures: Sequence[MaskedPicture], place: int, name: str) -> float:
    at = [picture.name.split("/")[place] == name for picture in pictures]
    return float(scores.dice[np.array(at)].mean())


def parts(results: Results, model: Any, seeds: Sequence[int]) -> None:
    """The model without each of its parts, the models it is built on, and the words' functional."""
    pictures = draw_suite(seeds)
    rows = {TUNED: segmenter_of(model)}
    for title, settings in ABLATIONS.items():
        rows[title] = segmenter_of(model.with_settings(**settings))
    rows |= preset_segmenters()
    scores = score_all(rows, pictures, progress=True)
    note = (
        "Dice, as above. LIF, RSF, Chan-Vese and the functional as the abstract words it run 100 "
        "iterations from their usual starts."
    )
    add_quality(results, "Without its parts, and what it is built on", scores, pictures, note)


# --- first contours -------------------------------------------------------------------------------


def starts(
    results: Results, peers: dict[str, Peer], model: Any, seed: int, number: int
) -> list[Requirement]:
    """How far results from many first contours are apart, and how often the phase is inverted."""
    pictures = draw_suite([seed], kinds=STARTED)
    add_starts(results, model, pictures, number, seed, others=False, progress=True)
    table = results.tables[-1]
    if peers["skimage"].reason is None:
        for name, segment in ((CHAN_VESE, chan_vese), (MORPHOLOGICAL, morphological_chan_vese)):
            table.rows.append(_peer_starts(results, name, segment, pictures, number, seed))
    return [
        Requirement("largest sd over first contours", _metric(results, "largest sd"), 0.01),
        Requirement("inverted phases over first contours", _metric(results, "inverted"), 0),
    ]


def _metric(results: Results, name: str) -> float:
    return results.metric(f"starts/{name}/{TUNED}").value


def _peer_starts(
    results: Results,
    name: str,
    segment: Any,
    pictures: Sequence[MaskedPicture],
    number: int,
    seed: int,
) -> list[Any]:
    spreads, ranges, means, turned = [], [], [], 0
    for picture in pictures:
        image = picture.pixels[0].numpy().astype(np.float64) / 255
        begun = random_starts(number, picture.mask.shape, seed).numpy()
        masks = [segment(image, one) for one in begun]
        scores = Scores(masks, [picture] * number, has_sides=False)
        spreads.append(scores.dice.std())
        ranges.append(np.ptp(scores.dice))
        means.append(scores.dice.mean())
        turned += int(scores.inverted.sum())
    total = number * len(pictures)
    results.add_mean(f"starts/sd/{name}", spreads)
    results.add_metric(f"starts/inverted/{name}", turned, n=total)
    cells = [np.mean(means), np.mean(spreads), max(spreads), max(ranges)]
    return [name, *(f"{cell:.4f}" for cell in cells), f"{turned} of {total}"]


# --- seconds --------------------------------------------------------------------------------------


def speed(results: Results, peers: dict[str, Peer], model: Any, rounds: int) -> list[Requirement]:
    """Seconds a picture, by size, from the array to the mask in its own size; and in batches."""
    processor = SaliencyActiveContourImageProcessor()
    required, rows = [], []
    for size in SIZES:
        image, mask = make_contour_case("star", "noise", 6, size)

        def ours(image: np.ndarray = image, size: int = size) -> np.ndarray:
            with torch.inference_mode():
                found = model(**processor(image))
            return processor.post_process(found, [(size, size)])[0]["mask"]

        mine = f"{OURS}, {size} px"
        contenders = [Contender(mine, ours)]
        if peers["skimage"].reason is None:
            pictures = torch.from_numpy(image)[None, None] * 255
            for name, segment in peer_segmenters().items():
                # Its front has to cross the picture, which takes it minutes here.
                if name == GEODESIC and size > 256:
                    continue
                run = lambda segment=segment, pictures=pictures: segment(pictures)[0]  # noqa: E731
                title = f"{name}, {size} px"
                contenders.append(Contender(title, run, "scikit-image", peak_array_memory))
        # A round of the largest takes the peers many seconds.
        count, warmup = (rounds, 1) if size <= 256 else (2, 0)
        found = race(contenders, rounds=count, warmup=warmup, title=f"{size} pixels")
        note = (
            "A star under noise, from the array to the mask in its own size; ours works at 256 "
            "pixels at most and brings the level set back."
        )
        add_race(results, f"{size} x {size}", note, found, {"to ours": mine})
        timed = (f"{name}, {size} px" for name in (CHAN_VESE, MORPHOLOGICAL, GEODESIC))
        add_comparisons(results, found, [(mine, name) for name in timed])
        for contender in contenders:
            mask_found = contender.run()
            score = max(dice(mask_found, mask), dice(~mask_found, mask))
            results.add_metric(f"{size} x {size}/{contender.name}/dice", score)
            seconds = found.seconds(contender.name, "cpu")
            rows.append(
                [size, contender.name.rsplit(",", 1)[0], f"{1e3 * seconds:.1f}", f"{score:.3f}"]
            )
        if size == 128:
            required.append(Requirement("CPU ms, 128 x 128", 1e3 * found.seconds(mine), 60))
    columns = ["pixels", "who", "CPU ms", "Dice"]
    results.tables.append(Table("Seconds and quality by size", "", columns, rows))
    _batches(results, model, rounds)
    return required


def _batches(results: Results, model: Any, rounds: int) -> None:
    for size in (128,):
        drawn = [make_contour_case("star", "noise", seed, size)[0] for seed in range(BATCH)]
        pictures = torch.from_numpy(np.stack(drawn))[:, None] * 255
        together = segmenter_of(model)

        def alone(pictures: torch.Tensor = pictures, together: Any = together) -> list[np.ndarray]:
            return [together(one[None])[0] for one in pictures]

        contenders = [
            Contender("a batch of 32", lambda p=pictures, run=together: run(p)),
            Contender("32 calls of one", alone),
        ]
        found = race(contenders, rounds=max(2, rounds // 2), warmup=1, title=f"batch of {size}")
        note = f"{BATCH} pictures of {size} x {size}; each stops by itself."
        add_race(
            results, f"Batches, {size} x {size}", note, found, {"to the batch": "a batch of 32"}
        )
    return []


if __name__ == "__main__":
    main()
