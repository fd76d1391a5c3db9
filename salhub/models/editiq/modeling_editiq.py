"""EditIQ: a static wide shot becomes an edited film, by dialogue and saliency."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from salhub.modeling import LearnedSettingsModel
from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.configuration_editiq import LEARNED, EditIQConfig
from salhub.models.editiq.edit import Edit
from salhub.models.editiq.editing import decide, gather, with_new_rushes
from salhub.models.editiq.energy import Energy, Scene
from salhub.models.editiq.frame_source import FrameSource
from salhub.models.editiq.reading_by_chat import MAX_NEW_TOKENS
from salhub.models.editiq.shots import Lock, Shot
from salhub.models.editiq.stages import Progress, StageStore
from salhub.models.editiq.structured_loss import structured_hinge
from salhub.models.editiq.utterances import Transcript
from salhub.pipelines.chat import Chat, as_chat

# Settings that only reading the film again could follow.
_READ_FROM_FILM = (
    "saliency", "saliency_rate", "saliency_width", "saliency_decay", "tracker_rate",
    "tracker_width", "understanding", "language_model",
)  # fmt: skip


@dataclass
class EditIQOutput(ModelOutput):
    """The cheapest edit of a scene.

    Args:
        loss: Structured hinge loss a second, (), where labels were given.
        shots: (T,) int64, place of the shot on screen at each frame.
        energy: (), float64, what the edit costs.
        energy_terms: Term -> (T,), float64; together they are the energy.
        cut_times: (N,) float64, seconds at which shots begin, but the first.
        potentials: (R, T), float64, of dialogue and saliency together.
        crops_selected: (T, 4), float32, in pixels.
    """

    loss: Tensor | None = None
    shots: Tensor | None = None
    energy: Tensor | None = None
    energy_terms: dict | None = None
    cut_times: Tensor | None = None
    potentials: Tensor | None = None
    crops_selected: Tensor | None = None


class EditIQModel(LearnedSettingsModel):
    """Edits the recording of a static camera as an editor would.

    Virtual cameras crop shots of actors and groups from the picture. The dialogue and the saliency
    give each shot a value, and exact dynamic programming, which keeps track of how long a shot has
    been on screen, chooses among them. The weights of its terms are the parameters of the model,
    so they can be learned from edits by people.

    Example:
        >>> from salhub.models.editiq.stage_scene import make_stage_scene
        >>> scene = make_stage_scene(0, 2, seconds=8)
        >>> model = EditIQModel(EditIQConfig())
        >>> edit = model.edit(scene, scene.transcript, tracks=scene.tracks)
        >>> edit.decision.spans[0].shot.name
        'WIDE'

    Source: Girmaji et al. 2025 (arXiv 2502.02172).
    """

    config: EditIQConfig
    main_input_name = "dialogue_potential"
    input_modalities = ["video"]
    learned_settings = LEARNED

    def __init__(self, config: EditIQConfig) -> None:
        super().__init__(config)
        self._chat: tuple[str, Chat] | None = None
        self.post_init()

    def term_weights(self) -> dict[str, float]:
        """The learned weights by name."""
        return {name: float(getattr(self, name).detach()) for name in LEARNED}

    # --- numbers ----------------------------------------------------------------------------------

    def forward(
        self,
        dialogue_potential: Tensor,
        saliency_potential: Tensor,
        crops: Tensor,
        boxes: Tensor,
        shots: Sequence[Shot | str],
        names: Sequence[str],
        frame_rate: float,
        shown_potential: Tensor | None = None,
        offered: Tensor | None = None,
        quiet: Tensor | None = None,
        line_starts: Sequence[float] = (),
        locks: Sequence[Lock] = (),
        labels: Tensor | None = None,
        margin: float = 1.0,
    ) -> EditIQOutput:
        """Find the cheapest sequence of shots.

        Args:
            dialogue_potential: (R, T) worth of each shot by what is said, in [0, 1].
            saliency_potential: (R, T) by where the picture draws the eye.
            crops: (R, T, 4) x1, y1, x2, y2 in pixels.
            boxes: (A, T, 4) of people, NaN where they are away.
            shots: R shots or their names, the wide one first.
            names: A names of the people.
            frame_rate: Frames a second.
            shown_potential: (R, T) worth by shots that were named; the dialogue potential then
                keeps the share 1 - show_weight.
            offered: (R, T) bool: shots that may be shown; all by default.
            quiet: (T,) bool: nobody speaks; nowhere by default.
            line_starts: Seconds at which lines begin.
            locks: Shots that a person wants.
            labels: (R, T) bool: shots that are right, for the loss.
            margin: Cost by which a wrong second has to be dearer, for the loss.

        Returns:
            `EditIQOutput`; gradients reach the loss alone.

        Raises:
            ValueError: Shapes that do not belong together, or potentials that are no numbers.
        """
        numbers = _checked_numbers(
            dialogue_potential, saliency_potential, crops, boxes, shots, names, frame_rate
        )
        given = [Shot.parse(one) if isinstance(one, str) else one for one in shots]
        weights = self.term_weights()
        composed, seen = numbers["dialogue_potential"], numbers["saliency_potential"]
        shown = composed
        if shown_potential is not None:
            shown = _numpy(shown_potential)
            _same_shape("shown_potential", shown.shape, composed.shape)
        share = weights["show_weight"]
        scene = Scene(
            tuple(given),
            (1 - share) * composed + share * shown,
            seen,
            numbers["crops"],
            numbers["boxes"],
            tuple(names),
            float(frame_rate),
            np.ones(composed.shape, bool) if offered is None else _numpy(offered).astype(bool),
            np.zeros(composed.shape[1], bool) if quiet is None else _numpy(quiet).astype(bool),
            tuple(line_starts),
            tuple(locks),
        )
        _same_shape("offered", scene.offered.shape, composed.shape)
        energy = Energy(scene, self.config, weights)
        loss = None
        if labels is not None:
            right = _numpy(labels).astype(bool)
            _same_shape("labels", right.shape, composed.shape)
            learned = {name: getattr(self, name) for name in LEARNED}
            loss, _ = structured_hinge(energy, right, composed, shown, learned, margin)
        path = energy.solve()
        frames = np.arange(len(path.shots))
        cuts = np.flatnonzero(np.diff(path.shots)) + 1
        device = dialogue_potential.device
        terms = energy.terms(path.shots)
        return EditIQOutput(
            loss=loss,
            shots=torch.from_numpy(path.shots).to(device),
            energy=torch.tensor(path.energy, dtype=torch.float64, device=device),
            energy_terms={n: torch.from_numpy(one).to(device) for n, one in terms.items()},
            cut_times=torch.from_numpy(cuts / float(frame_rate)).to(device),
            potentials=torch.from_numpy(energy.potentials).to(device),
            crops_selected=torch.from_numpy(scene.crops[path.shots, frames].astype(np.float32)).to(
                device
            ),
        )

    # --- films ------------------------------------------------------------------------------------

    def edit(
        self,
        film: FrameSource,
        transcript: Transcript | None = None,
        *,
        tracks: ActorTracks | np.ndarray | None = None,
        detector: Callable | None = None,
        cast: Sequence[str] | None = None,
        saliency: Any = None,
        understand: Callable | None = None,
        language_model: Any = None,
        locks: Sequence[Lock | str] = (),
        store: StageStore | None = None,
        progress: Progress | None = None,
    ) -> Edit:
        """Edit a film.

        Args:
            film: The film; its pictures are read one after another, and none is kept.
            transcript: What is said; without it saliency alone decides.
            tracks: Where people are, or (A, T, 4) boxes in pixels; found by the tracker for static
                cameras by default.
            detector: A function from a picture to (N, 4) boxes, in place of the tracker.
            cast: Names from left to right; by default those of the tracks, or found by who moves
                while speaking, which is said.
            saliency: As of `saliency_of_film`; what the configuration names by default.
            understand: A function that reads the lines, see `read_by_function`.
            language_model: A chat model that reads them, see `salhub.pipelines.chat.as_chat`.
            locks: Shots that are demanded, or texts such as "12.0-15.0=MS:ben".
            store: Keeps what the stages find, so that they are not done again.
            progress: Called with a stage, what is done, and all of it.

        Returns:
            The edit.

        Raises:
            ValueError: Tracks of another length, speakers who are not in the cast, a transcript of
                another film, locks that contradict each other, or nobody in the picture.
        """
        config = self.config
        wanted = [Lock.parse(one) if isinstance(one, str) else one for one in locks]
        chat = chat_name = None
        named = config.language_model if config.understanding == "transformers" else None
        if understand is None and (language_model is not None or named is not None):
            given = named if language_model is None else language_model
            chat = self._chat_of(given)
            # What a model that was given as it is answers is not kept: nobody can tell them apart.
            chat_name = os.fspath(given) if isinstance(given, str | os.PathLike) else None
        tell = progress or (lambda stage, done, total: None)
        material = gather(
            film,
            transcript,
            config,
            tracks=tracks,
            detector=detector,
            cast=cast,
            saliency=saliency,
            understand=understand,
            chat=chat,
            chat_name=chat_name,
            device=self.device,
            locks=wanted,
            store=store or StageStore(None),
            progress=tell,
        )
        tell("edit", 0, 1)
        edit = decide(material, config, self.term_weights(), wanted)
        tell("edit", 1, 1)
        return edit

    def re_edit(
        self, edit: Edit, *, locks: Sequence[Lock | str] | None = None, **settings: Any
    ) -> Edit:
        """Edit a film again with other settings or locks; no picture is read.

        Args:
            edit: An earlier edit.
            locks: As of `edit`; those of the earlier edit by default.
            **settings: Fields of the configuration.

        Raises:
            ValueError: A setting that only reading the film again could follow.
        """
        for name in settings:
            if name in _READ_FROM_FILM:
                raise ValueError(f"'{name}' needs the film again; call edit with this setting.")
        model = self.with_settings(**settings) if settings else self
        given = edit.locks if locks is None else locks
        wanted = [Lock.parse(one) if isinstance(one, str) else one for one in given]
        material = with_new_rushes(edit.material, model.config)
        return decide(material, model.config, model.term_weights(), wanted)

    def _chat_of(self, model: Any) -> Chat:
        """The chat model, loaded once."""
        if not isinstance(model, str | os.PathLike):
            return as_chat(model, MAX_NEW_TOKENS)
        name = os.fspath(model)
        if self._chat is None or self._chat[0] != name:
            self._chat = name, as_chat(name, MAX_NEW_TOKENS)
        return self._chat[1]


def _checked_numbers(
    dialogue: Tensor,
    saliency: Tensor,
    crops: Tensor,
    boxes: Tensor,
    shots: Sequence[Any],
    names: Sequence[str],
    frame_rate: float,
) -> dict[str, np.ndarray]:
    if dialogue.ndim != 2 or not 0 < dialogue.shape[0] == len(shots):
        raise ValueError(
            f"dialogue_potential has the shape {tuple(dialogue.shape)}; expected "
            f"({len(shots)}, frames), one row per shot."
        )
    count, length = dialogue.shape
    _same_shape("saliency_potential", saliency.shape, dialogue.shape)
    _same_shape("crops", crops.shape, (count, length, 4))
    _same_shape("boxes", boxes.shape, (len(names), length, 4))
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be above 0, got {frame_rate}.")
    found = {"dialogue_potential": dialogue, "saliency_potential": saliency, "crops": crops}
    for name, one in found.items():
        if not bool(torch.isfinite(one).all()):
            raise ValueError(f"{name} has NaN or infinite values; expected finite numbers.")
    return {name: _numpy(one) for name, one in {**found, "boxes": boxes}.items()}


def _same_shape(name: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(shape) != tuple(wanted):
        raise ValueError(f"{name} has the shape {tuple(shape)}; expected {tuple(wanted)}.")


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    return values.detach().to("cpu", torch.float64).numpy()
