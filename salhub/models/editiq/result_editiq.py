"""An edited film, and all that it goes home in."""

import os
import statistics
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from salhub.errors import require_extra
from salhub.files import draft, to_bytes
from salhub.models.editiq.edit import Edit, Explanation
from salhub.models.editiq.edit_decision import EditDecision, ShotSpan
from salhub.models.editiq.film_reading import EXTRA, FilmFile
from salhub.models.editiq.film_rendering import render_film
from salhub.models.editiq.film_writing import DEFAULT_ENCODER, FILM_WRITERS
from salhub.models.editiq.stages import Progress
from salhub.models.editiq.subtitles import SUBTITLE_WRITERS, subtitles_text
from salhub.models.editiq.timeline_picture import timeline_picture
from salhub.models.editiq.timelines import CameraMove, to_edl, to_otio
from salhub.models.editiq.utterances import Transcript
from salhub.pipelines.result import PICTURE_WRITERS, PipelineResult, check_comparable
from salhub.viz import figure

_SHORT_SIDE = 720
_HOW_TO_READ = (
    "WIDE is the whole picture, MS a medium shot and FS a full shot of those named. Thin bars "
    "show who speaks."
)


@dataclass(frozen=True)
class Delivery:
    """How an edit leaves.

    Args:
        size: Width and height of the film; by default 720 lines in the proportions of the crops.
        encoder: One of `ENCODERS`.
        start_timecode: At which the edit decision list begins.
        edl_rate: Its frames a second; by default the rate of SMPTE that the film fits into.
        address: Where timelines look for the film; by default where it lies.
    """

    size: tuple[int, int] | None = None
    encoder: str = DEFAULT_ENCODER
    start_timecode: str = "00:00:00:00"
    edl_rate: Fraction | None = None
    address: str | None = None

    def size_for(self, aspect: Fraction) -> tuple[int, int]:
        """Return the size, given or as the crops are."""
        if self.size is not None:
            return self.size
        wide = aspect >= 1
        other = 2 * round(_SHORT_SIDE * (aspect if wide else 1 / aspect) / 2)
        return (other, _SHORT_SIDE) if wide else (_SHORT_SIDE, other)


def all_warnings(film: FilmFile, edit: Edit) -> tuple[str, ...]:
    """Return what is to be read first of a film and its edit, each sentence once."""
    return tuple(dict.fromkeys([*film.warnings, *edit.warnings]))


@dataclass(eq=False, repr=False)
class VideoEditingResult(PipelineResult):
    """The edit of one film.

    The film itself is made when it is saved: it is read, cropped and encoded picture by picture,
    and is never in memory.

    Attributes:
        film: What was edited.
        edit: The shots, why they were chosen, and what they were chosen from.
        warnings: What was guessed, left out or unsure, to be read first.
        delivery: How films and timelines are written.
        resumed: Stages that were taken from an earlier run on the same film.
        progress: Told of the rendering; None for nobody.
        model_name: The model.

    Example:
        >>> result = salhub.pipeline("salhub/editiq-stage")("sample:stage")  # doctest: +SKIP
        >>> result.save("edited.mp4"), result.save("edited.otio")  # doctest: +SKIP
    """

    film: FilmFile
    edit: Edit
    warnings: tuple[str, ...] = ()
    delivery: Delivery = field(default_factory=Delivery)
    resumed: tuple[str, ...] = ()
    progress: Progress | None = None
    model_name: str = ""

    writers = {
        **PICTURE_WRITERS,
        ".json": "write_json",
        **dict.fromkeys(FILM_WRITERS, "write_film"),
        ".otio": "write_otio",
        ".edl": "write_edl",
        **dict.fromkeys(SUBTITLE_WRITERS, "write_subtitles"),
        ".npz": "write_tracks",
    }

    def __repr__(self) -> str:
        return f"VideoEditingResult({self.summary()!r}, model {self.model_name!r})"

    @property
    def decision(self) -> EditDecision:
        """The shots on screen, and their crops."""
        return self.edit.decision

    @property
    def transcript(self) -> Transcript:
        """What is said, by people called as in the tracks; it may have no line."""
        return self.edit.transcript

    @property
    def names(self) -> tuple[str, ...]:
        """Of the people who are tracked."""
        return self.edit.tracks.names

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the film that is written."""
        return self.delivery.size_for(self.decision.aspect)

    @property
    def shot_seconds(self) -> list[float]:
        """Length of each shot."""
        rate = self.decision.frame_rate
        return [float((span.stop - span.start) / rate) for span in self.decision.spans]

    @property
    def cuts_per_minute(self) -> float:
        """How often is cut."""
        return len(self.decision.cuts) / float(self.film.duration) * 60

    def explain(self, time: float) -> Explanation:
        """Say why a shot is on screen.

        Args:
            time: In seconds.
        """
        return self.edit.explain(time)

    def with_edit(self, edit: Edit) -> "VideoEditingResult":
        """Return the same film with another edit, see `EditIQModel.re_edit`."""
        return replace(self, edit=edit, warnings=all_warnings(self.film, edit))

    def resized(self, size: tuple[int, int]) -> "VideoEditingResult":
        """Return the same edit, whose film is written in another size."""
        return replace(self, delivery=replace(self.delivery, size=size))

    # --- to look at -------------------------------------------------------------------------------

    def plot(self) -> Image.Image:
        """Draw the shots with a still of each, and who speaks when."""
        return timeline_picture(
            self.film,
            self.decision,
            self.names,
            self.transcript,
            self._found(),
            " ".join([*self.warnings, _HOW_TO_READ]),
        )

    @classmethod
    def compare(cls, results: Any) -> Image.Image:
        """Draw several edits below each other."""
        check_comparable(results)
        pictures = [one.plot() for one in results.values()]
        return figure.compare(list(results), [("", pictures)], side=900, most_columns=1)

    def to_dict(self) -> dict[str, Any]:
        """Return the edit as JSON: shots with their times and crops, energy and warnings."""
        decision = self.decision
        return {
            "model": self.model_name,
            "film": self.film.path.name,
            "warnings": list(self.warnings),
            "frame_rate": str(decision.frame_rate),
            "is_variable": self.film.is_variable,
            "num_frames": decision.num_frames,
            "seconds": float(self.film.duration),
            "frame_size": list(decision.frame_size),
            "output_size": list(self.size),
            "actors": list(self.names),
            "cuts_per_minute": round(self.cuts_per_minute, 3),
            "energy": float(self.edit.energy),
            "shots": [
                {
                    "shot": span.shot.name,
                    "actors": list(span.shot.actors),
                    "start": round(float(span.start / decision.frame_rate), 6),
                    "end": round(float(span.stop / decision.frame_rate), 6),
                    "frames": [span.start, span.stop],
                    "crop": [
                        [one.frame, *(round(value, 3) for value in one[1:])]
                        for one in decision.keyframes(span)
                    ],
                }
                for span in decision.spans
            ],
            "resumed": list(self.resumed),
        }

    def summary(self) -> str:
        """Return what was edited in a sentence, after all warnings."""
        return " ".join([*self.warnings, f"{self._found()}."])

    def _found(self) -> str:
        spans = self.decision.spans
        shots = "1 shot" if len(spans) == 1 else f"{len(spans)} shots"
        length = statistics.median(self.shot_seconds)
        return (
            f"{shots} in {float(self.film.duration):.1f} s, {self.cuts_per_minute:.1f} cuts "
            f"per minute, median shot {length:.1f} s"
        )

    # --- to take home -----------------------------------------------------------------------------

    def _names_in_folder(self, view: str | None) -> dict[str, str]:
        names = super()._names_in_folder(view)
        if not self.transcript.utterances:
            names = {k: v for k, v in names.items() if not k.endswith(SUBTITLE_WRITERS)}
        return names

    def save(self, path: os.PathLike | str, view: str | None = None) -> Path:
        """As of every result; the film that was edited is never written over.

        Raises:
            ValueError: The path is that of the film.
        """
        names = self._names_in_folder(view) if Path(path).is_dir() else ()
        for one in (Path(path), *(Path(path) / name for name in names)):
            self._refuse_film_itself(one)
        return super().save(path, view)

    def _refuse_film_itself(self, path: Path) -> None:
        if path.is_file() and path.samefile(self.film.path):
            raise ValueError(f"{path} is the original film; give the new film another name.")

    def write_film(self, path: Path) -> None:
        """Render the film, its sound copied as it is."""
        render_film(
            path,
            self.film,
            self.decision.crops,
            size=self.size,
            encoder=self.delivery.encoder,
            progress=self.progress,
        )

    def render(self, path: Path | str, progress: Progress | None = None) -> Path:
        """Render the film.

        Args:
            path: A file ending in .mp4 or .mkv.
            progress: Called with "render", pictures done and pictures in all.

        Raises:
            ValueError: The path is that of the film that was edited.
        """
        path = Path(path)
        self._refuse_film_itself(path)
        with draft(path) as scratch:
            replace(self, progress=progress or self.progress).write_film(scratch)
        return path

    def to_otio(self) -> Any:
        """Return the timeline of OpenTimelineIO, see `salhub.models.editiq.timelines.to_otio`."""
        cameras = [
            CameraMove(shot, self._camera(number))
            for number, shot in enumerate(self.edit.rushes.shots)
            if shot.actors
        ]
        return to_otio(
            self.decision,
            self.film,
            cameras=cameras,
            output_size=self.size,
            address=self.delivery.address,
        )

    def _camera(self, number: int) -> Any:
        """Keyframes of a virtual camera over the whole film."""
        rushes, decision = self.edit.rushes, self.decision
        span = ShotSpan(rushes.shots[number], 0, decision.num_frames)
        return replace(decision, spans=(span,), crops=rushes.crops[number]).keyframes(span)

    def to_edl(self) -> str:
        """Return the edit decision list, see `salhub.models.editiq.timelines.to_edl`."""
        return self._edl()[0]

    @property
    def edl_notes(self) -> list[str]:
        """What was rounded for the edit decision list."""
        return self._edl()[1]

    def _edl(self) -> tuple[str, list[str]]:
        return to_edl(
            self.decision,
            self.film,
            start=self.delivery.start_timecode,
            rate=self.delivery.edl_rate,
            address=self.delivery.address,
        )

    def write_otio(self, path: Path) -> None:
        """Write the timeline of OpenTimelineIO."""
        otio = require_extra("opentimelineio", EXTRA)
        path.write_text(otio.adapters.write_to_string(self.to_otio(), "otio_json"), "utf-8")

    def write_edl(self, path: Path) -> None:
        """Write the edit decision list."""
        path.write_bytes(to_bytes(self.to_edl()))

    def write_subtitles(self, path: Path) -> None:
        """Write what is said, with the times of the edited film, which are those of the film.

        Raises:
            ValueError: There is no transcript.
        """
        if not self.transcript.utterances:
            raise ValueError(
                "There are no subtitles to save, because there was no transcript; give one "
                "with transcript=..."
            )
        path.write_bytes(to_bytes(subtitles_text(self.transcript, path.suffix.lower())))

    def write_tracks(self, path: Path) -> None:
        """Write where the people are, to be given as `tracks` again."""
        self.edit.tracks.save(path)
