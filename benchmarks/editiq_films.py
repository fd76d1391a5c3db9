"""EditIQ's films: how fast they are made, and where each cut is after ten minutes.

python -m benchmarks.editiq_films scene
python -m benchmarks.editiq_films long
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import opentimelineio as otio

import salhub
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import RESULTS, Requirement, add_requirements, finish
from salhub.models.editiq.edit_decision import EditDecision, ShotSpan
from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.film_rendering import render_film
from salhub.models.editiq.film_writing import FilmWriter, created, write_film
from salhub.models.editiq.result_editiq import VideoEditingResult
from salhub.models.editiq.shots import Shot
from salhub.models.editiq.stage_scene import StageScene, make_stage_scene
from salhub.models.editiq.timelines import to_edl, to_otio
from salhub.results import Results, Table, measured
from tests.models.editiq.films import (
    SIZE,
    number_of,
    numbered,
    packets,
    random_stamps,
    tone,
)

RATE = Fraction(24000, 1001)
UPPER, LOWER = (0.0, 0.0, 256.0, 32.0), (0.0, 32.0, 256.0, 64.0)
# Where the two highest bits of the number stand, which no film is long enough to set: the bars of
# the others flicker, and a detector takes that for cuts.
STEADY = (230, 4, 250, 27)
_CUTS = 120
_DETECTOR = "scenedetect"


def long_film(folder: Path, minutes: float, is_variable: bool) -> FilmFile:
    """Write a film of numbered pictures, blue in their lower half, with sound."""
    path = folder / ("variable.mp4" if is_variable else "constant.mp4")
    frames = int(minutes * 60 * RATE)
    sound = tone(minutes * 60)
    if not is_variable:
        write_film(path, map(marked, range(frames)), RATE, sound, encoder="mpeg4")
        return FilmFile.open(path)
    silent = folder / "silent.mp4"
    with created(silent) as container:
        writer = FilmWriter(container, "mpeg4", SIZE, Fraction(25), Fraction(1, 1000))
        for number, stamp in enumerate(random_stamps(minutes * 60)):
            frame = av.VideoFrame.from_ndarray(marked(number), format="rgb24")
            writer.add(frame.to_ndarray(format="yuv420p"), int(stamp))
        writer.finish()
    with_sound = folder / "sound.mp4"
    write_film(with_sound, [marked(0)], Fraction(1), sound, encoder="mpeg4")
    _join(silent, with_sound, path)
    return FilmFile.open(path)


def _join(pictures: Path, sound: Path, path: Path) -> None:
    with av.open(str(pictures)) as one, av.open(str(sound)) as two, created(path) as target:
        streams = [
            (one, one.streams.video[0], target.add_stream_from_template(one.streams.video[0])),
            (two, two.streams.audio[0], target.add_stream_from_template(two.streams.audio[0])),
        ]
        for source, stream, copied in streams:
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copied
                    target.mux(packet)


def marked(number: int) -> np.ndarray:
    """A numbered picture that is blue in its lower half."""
    picture = numbered(number)
    picture[32:, :, 2] = 255
    return picture


def edit_of(film: FilmFile, seed: int = 0) -> EditDecision:
    """An edit with many cuts, each at a picture."""
    starts = np.unique(film.grid_indices)[24:-24]
    cuts = sorted(np.random.default_rng(seed).choice(starts, _CUTS, replace=False).tolist())
    shots = (Shot("MS", ("upper",)), Shot("MS", ("lower",)))
    spans = tuple(
        ShotSpan(shots[number % 2], a, b)
        for number, (a, b) in enumerate(pairwise([0, *cuts, film.num_frames]))
    )
    place = np.searchsorted(cuts, np.arange(film.num_frames), side="right") % 2
    crops = np.array([UPPER, LOWER], np.float32)[place]
    return EditDecision(film.frame_rate, film.num_frames, SIZE, Fraction(8), spans, crops)


def where_cuts_are(path: Path) -> tuple[list[int], int]:
    """Numbers of the pictures at which the half changes, and how many have a wrong number."""
    film, cuts, wrong, before = FilmFile.open(path), [], 0, False
    for number, (_, frame) in enumerate(film.pictures()):
        picture = frame.to_ndarray(format="rgb24")
        wrong += number_of(picture) != number
        is_lower = picture[..., 2].mean() > picture[..., 0].mean() + 60
        if is_lower != before:
            cuts.append(number)
        before = is_lower
    return cuts, wrong


def check_ten_minutes(
    results: Results, folder: Path, minutes: float, detector: Peer
) -> list[Requirement]:
    """Render long films; see where every cut is in film, OpenTimelineIO, EDL and by a detector."""
    required, rows = [], []
    for is_variable in (False, True):
        name = "variable" if is_variable else "24000/1001"
        film = long_film(folder, minutes, is_variable)
        decision = edit_of(film)
        target = folder / "edited.mp4"
        before = resident_mib()
        largest = {"first tenth": 0.0, "rest": 0.0}

        def watch(_: str, done: int, total: int | None, seen: dict = largest) -> None:
            part = "first tenth" if done <= (total or 0) / 10 else "rest"
            seen[part] = max(seen[part], resident_mib())

        started = time.perf_counter()
        render_film(target, film, decision.crops, size=(256, 32), encoder="mpeg4", progress=watch)
        seconds = time.perf_counter() - started
        grown = largest["rest"] - largest["first tenth"]
        found, wrong = where_cuts_are(target)
        wanted = [int(np.searchsorted(film.grid_indices, cut)) for cut in decision.cuts]
        written = FilmFile.open(target)
        late = max(
            abs(written.time_of(int(a)) - film.time_of(int(b)))
            for a, b in zip(written.stamps, film.stamps, strict=True)
        )
        own = otio.adapters.read_from_string(
            otio.adapters.write_to_string(to_otio(decision, film), "otio_json"), "otio_json"
        )
        edl, _ = to_edl(decision, film)
        listed = otio.adapters.read_from_string(edl, "cmx_3600", rate=float(film.frame_rate))
        off = {
            "film": _off(found, wanted),
            "OTIO": _off(_starts(own), decision.cuts),
            "EDL": _off(_starts(listed), decision.cuts),
            "sound": sum(a != b for a, b in zip(packets(target), packets(film.path), strict=True)),
        }
        if is_variable:
            away = [
                abs(float(cut / film.frame_rate - (film.time_of(int(film.stamps[k])))))
                for cut, k in zip(decision.cuts, wanted, strict=True)
            ]
            # Edit decision lists and timelines know the ticks of the grid alone.
            half = 1 / float(2 * film.frame_rate)
            off["half a frame of the grid"] = sum(one > half + 1e-9 for one in away)
        if detector.reason is None and not is_variable:
            off["PySceneDetect"] = _off(detected(target, crop=STEADY), wanted)
        for kind, count in off.items():
            what = "packets that differ" if kind == "sound" else f"cuts that are off, {kind}"
            required.append(Requirement(f"{name}: {what}", count, 0))
        required.append(Requirement(f"{name}: pictures with a wrong number", wrong, 0))
        required.append(Requirement(f"{name}: seconds by which a picture is late", float(late), 0))
        required.append(Requirement(f"{name}: MiB from a tenth of the film to its end", grown, 24))
        results.add_metric(f"long/{name}/frames_a_second", len(film.stamps) / seconds)
        rows.append([
            name, f"{minutes:g} min", len(film.stamps), len(decision.cuts),
            f"{len(film.stamps) / seconds:.0f}", f"{before:.0f}",
            *(f"{one:.0f}" for one in largest.values()),
        ])  # fmt: skip
    results.tables.append(
        Table(
            "Long films",
            "Small numbered pictures, so that every one can be told after the edit. Memory is that "
            "of the whole process in MiB: before, and the most of the first tenth and of the rest. "
            "PySceneDetect looks at the part of the picture that shows no bars of the number.",
            ["rate", "length", "pictures", "cuts", "rendered a second", "before", "first tenth",
             "rest"],
            rows,
        )
    )  # fmt: skip
    return required


def write_scene(folder: Path, seconds: float) -> StageScene:
    """Write a scene of 1280x360 pixels and 25 frames a second, scene.mp4; it takes no part."""
    scene = make_stage_scene(8, 3, seconds=seconds, frame_rate=Fraction(25))
    pictures = (picture for _, picture in scene.frames())
    write_film(
        folder / "scene.mp4", pictures, scene.frame_rate, (scene.sound(), 16_000),
        encoder="libx264",
    )  # fmt: skip
    return scene


def check_scene(results: Results, folder: Path, scene: StageScene, detector: Peer) -> Requirement:
    """Edit and render a scene, everything from opening the film on included."""
    path, seconds = folder / "scene.mp4", scene.seconds
    edit = salhub.pipeline("editiq-stage")
    times: dict[str, np.ndarray] = {}
    clock = [now()]

    def watch(stage: str, done: int, total: int | None) -> None:
        times[stage] = times.get(stage, np.zeros(2)) + now() - clock[0]
        clock[0] = now()

    started = now()
    result: VideoEditingResult = edit(
        str(path), transcript=scene.transcript, cast=list(scene.names), resume=False,
        progress=watch,
    )  # fmt: skip
    edited = now() - started
    result.render(folder / "scene-edited.mp4", watch)
    whole = now() - started
    for place, kind in enumerate(("clock", "processor")):
        results.add_metric(f"scene/edited/{kind}", float(edited[place]), unit="s")
        results.add_metric(f"scene/edited and rendered/{kind}", float(whole[place]), unit="s")
    rows = [
        [stage, f"{clocked:.1f}", f"{worked:.1f}", f"{worked / seconds:.2f}"]
        for stage, (clocked, worked) in {**times, "all": whole}.items()
    ]
    note = (
        f"{seconds:g} s of 1280x360 at 25 frames a second, three people found by the tracker; "
        "rendered in 1280x720 by SVT-AV1, on two cores. Seconds of the processor are those of all "
        "threads, whatever else the machine does; of the clock, those that went by beside it."
    )
    columns = ["stage", "clock, s", "processor, s", "processor, of the film's length"]
    results.tables.append(Table("A scene, from the file to the edited film", note, columns, rows))
    if detector.reason is None:
        found = detected(folder / "scene-edited.mp4", threshold=12.0)
        cuts = list(result.decision.cuts)
        listed = otio.adapters.read_from_string(result.to_edl(), "cmx_3600", rate=25.0)
        note = (
            "In the film by PySceneDetect (ContentDetector, threshold 12, no shortest scene), and "
            "in the edit decision list and the OpenTimelineIO file, read back."
        )
        rows = [
            ["edit", len(cuts), 0],
            ["EDL", len(_starts(listed)), _off(_starts(listed), cuts)],
            ["OTIO", len(_starts(result.to_otio())), _off(_starts(result.to_otio()), cuts)],
            ["PySceneDetect", len(found), _off(found, cuts)],
        ]
        results.tables.append(
            Table("The cuts of the scene", note, ["where", "cuts", "that differ"], rows)
        )
    share = float(whole[1]) / seconds
    return Requirement("processor seconds of editing and rendering, a second of film", share, 1.0)


def now() -> np.ndarray:
    """Seconds of the clock, and of the processor in all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def detected(
    path: Path, threshold: float = 27.0, crop: tuple[int, int, int, int] | None = None
) -> list[int]:
    """First pictures of scenes as PySceneDetect finds them, in a part of the picture if given."""
    from scenedetect import ContentDetector, SceneManager, open_video

    manager = SceneManager()
    manager.crop = crop
    manager.add_detector(ContentDetector(threshold=threshold, min_scene_len=1))
    manager.detect_scenes(open_video(str(path), backend="pyav"))
    return [start.frame_num for start, _ in manager.get_scene_list()][1:]


def resident_mib() -> float:
    """Resident memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _starts(timeline: otio.schema.Timeline) -> list[int]:
    clips = [one for one in timeline.tracks[0] if isinstance(one, otio.schema.Clip)]
    return [int(one.range_in_parent().start_time.value) for one in clips][1:]


def _off(found: Sequence[int], wanted: Sequence[int]) -> int:
    """How many cuts are on one side only."""
    return len(set(found) ^ set(wanted))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films and write the results file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.editiq_films",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10, help="length of the long films")
    parser.add_argument("--seconds", type=float, default=60, help="length of the scene")
    parser.add_argument("part", choices=("scene", "long"), help="what is measured")
    options = parser.parse_args(arguments)
    peers = find_peers(_DETECTOR)
    name = f"editiq_{options.part}"
    length = (
        f"--seconds {options.seconds:g}"
        if options.part == "scene"
        else (f"--minutes {options.minutes:g}")
    )
    results = Results(name, f"python -m benchmarks.editiq_films {options.part} {length}", 0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.part == "scene":
            scene = write_scene(folder, options.seconds)
            with measured(results):
                required = [check_scene(results, folder, scene, peers[_DETECTOR])]
        else:
            with measured(results):
                required = check_ten_minutes(results, folder, options.minutes, peers[_DETECTOR])
    add_requirements(results, required)
    results.tables.append(peers_table(peers))
    finish(results, peers, RESULTS / f"{name}.json")


if __name__ == "__main__":
    main()
