"""Configuration of EditIQ: potentials, energy, virtual cameras and tracker."""

import re
from fractions import Fraction
from typing import Any, Literal, Self

from salhub.config_fields import ranged
from salhub.configuration import SaliencyConfig, strict
from salhub.errors import check_choice

OWN_SALIENCY = ("motion+contrast", "none")
# What `salhub train editiq` may change; the weights hold them.
LEARNED = (
    "dialogue_weight",
    "saliency_weight",
    "show_weight",
    "misframing_weight",
    "transition_weight",
    "overlap_weight",
    "cut_weight",
    "stay_weight",
)
# Numbers of the cameras are pixels of a film of this height.
REFERENCE_HEIGHT = 1080
# Weights of terms are those of a film of so many frames a second.
REFERENCE_RATE = 25
MOST_ACTORS = 8

# Beside "editiq", which are the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "editiq": {},
    "talk": {"longest_shot": 6.0},
    "gazed": {
        "understanding": "none",
        "subset_policy": "all",
        "full_shots": True,
        "composition": "recursive",
        "saliency_sharpness": 1.0,
        "unary": "linear",
        "unary_unit": "frame",
        "cost_unit": "largest_unary",
        "dialogue_weight": 0.0,
        "saliency_weight": 1.0,
        "quiet_dialogue_weight": 0.0,
        "quiet_saliency_weight": 1.0,
        "show_weight": 0.0,
        "misframing_weight": 0.0,
        "transition_weight": 1.0,
        "same_actors_factor": 1.0,
        "overlap": "target",
        "overlap_weight": 1.0,
        "overlap_low": 0.3,
        "overlap_high": 0.5,
        "rhythm": "gazed",
        "cut_weight": 1.0,
        "stay_weight": 1.0,
        "shortest_shot": 1.5,
        "longest_shot": 5.0,
        "minimum_shot": 0.0,
        "snap": 0.0,
        "establishing": "only",
        "establishing_seconds": 4.0,
        "solver": "greedy_tau",
        "camera_first": 1000.0,
        "camera_second": 10.0,
        "camera_third": 1000.0,
        "camera_first_groups": 600.0,
        "camera_third_groups": 600.0,
        "camera_still": 0.0,
        "camera_overtake": 0.0,
        "camera_outside": 0.0,
        "look_room": 0.0,
        "containment": False,
    },
}


@strict
class EditIQConfig(SaliencyConfig):
    """Settings of `EditIQModel`; the defaults are the preset "editiq".

    The paper's abstract fixes the parts and the terms of the energy [P]. Forms of terms are those
    of GAZED [G], cameras those of the multi-clip programme [M]; numbers and all else are our choice
    [C]. Weights of terms that are summed over frames count for films of 25 frames a second, and
    are scaled to others; numbers of cameras are pixels of a film of 1080 lines.

    Args:
        understanding: [C] How the lines are read: "rules" for English, without a model;
            "transformers", a chat model; or "none", only the speaker.
        language_model: A folder or a Hub repository of a chat model, for "transformers".
        saliency: [C] Where viewers look: "motion+contrast", "none", or the name of an image
            saliency model of the hub or a folder, such as "salhub/normgrad-efficientnet-lite0".
        saliency_rate: [C] Maps per second, interpolated in between.
        saliency_width: [C] Width of the pictures for these maps, in pixels.
        saliency_decay: [C] Share of the previous map that a map keeps, at 5 maps per second.
        saliency_sharpness: [C] Power applied to people's shares of the saliency, so that a person
            who moves stands out from others.
        aspect_ratio: Aspect ratio of the crops, such as "16:9".
        subset_policy: [C] Groups that have a shot: "contiguous" (neighbours) or [M] "all".
        full_shots: [C] Whether single actors have a full shot in addition to the medium one.
        group_size: [C] Shot size of groups, "MS" or "FS".
        medium_factor: [C] Share of a body's height that a medium shot shows.
        medium_head_room: [C] Share of a body's height above the head.
        full_factor: [C] Share of a body's height that a full shot shows.
        full_head_room: [C] Share of a body's height above the head in a full shot.
        look_room: [M] Distance of the outermost actors from the middle, as a share of half the
            crop's width, with room in the direction they look.
        smallest_crop: [C] Smallest half height of a crop, as a share of the frame's height.
        containment: [C] Whether crops must hold the actors they are framed for.
        smooth_tracks: [C] Length of the running median of the boxes, in seconds.
        camera_first, camera_second, camera_third: [M] Weights of the differences of a camera's
            path; 500, 0, 500 there, 50, 0, 100 here [C], because it lags less.
        camera_first_groups, camera_third_groups: [G] Weights of the differences of a
            group's camera path; None for those of single actors.
        camera_still: [M] Weight of a camera's motion while its actors are still.
        still_speed: [M] Speed in pixels per frame below which actors are still.
        camera_overtake: [M] Weight of a camera being faster than its actors.
        camera_outside: [M] Weight of keeping other people at the edge of a crop either in or out.
        clear_distance: [M] Distance in pixels at which others are kept out.
        composition: [G] How the value of a group follows from its actors: their minimum, "least",
            which is GAZED's rule divided by its growth [C], or "recursive", undivided.
        show_weight: [C] Share of the dialogue potential for shots that the reader of the lines
            names.
        addressee_importance, reactor_importance, reacting_speaker_importance, other_importance:
            [C] Importance of actors, where the speaker's is 1.
        dialogue_smoothing: [C] Length of the box that smooths importance, in seconds.
        dialogue_advance: [C] How many seconds importance starts before the line.
        wide_prior: [C] Value of the wide shot.
        wide_value: [C] Value of the wide shot when everybody is addressed, and at the beginning.
        establishing: [C] "first", the first shot is wide and lasts as long as it is worth it;
            "only", a wide shot of `establishing_seconds` and none after it; "off".
        establishing_seconds: [C] Seconds at the beginning in which the wide shot has `wide_value`.
        reestablish_after: [C] Seconds without a wide shot after which the next pause allows one; 0
            for never.
        pause_seconds: [C] Pauses up to this length are split between the lines before and after.
        reaction_after: [C] Seconds of a speech after which its listener is shown.
        reaction_seconds: [C] How many seconds the listener is shown.
        exchange_seconds: [C] Lines that alternate faster than this are shown in one shot of both
            people.
        silence_seconds: [C] After so many seconds without a line, no speech counts.
        unary: [C] Cost of a potential p: "logarithmic", -ln(epsilon + p), or [G] "linear".
        epsilon: [C] See `unary`.
        unary_unit: "second", scaled to the frame rate [C], or [G] "frame".
        cost_unit: [C] "absolute", or [G] "largest_unary": other terms are multiples of it.
        dialogue_weight, saliency_weight: [C] Weights of the potentials.
        quiet_dialogue_weight, quiet_saliency_weight: [C] Weights of the potentials in silences.
        misframing_weight: [G] Weight of people cut by the frame.
        transition_weight: [G] Cost of every cut.
        same_actors_factor: [C] Factor on the cost of a cut between sizes of the same actors, or
            between shots in which two people have swapped sides.
        overlap: "iou", of both crops [C], or [G] "target", the share of the new crop.
        overlap_weight: [G] Weight of a jump cut.
        overlap_low, overlap_high: [C] Overlaps at which the cost begins and is complete.
        rhythm: "sigmoid" [G], "lognormal", a prior of shot lengths [G], "gazed", as coded by its
            first author, or "off".
        shortest_shot, longest_shot: [G] Seconds that a shot should have.
        cut_weight, stay_weight: [G] Weights of cutting early and of staying long.
        mode_seconds, spread: [G] Mode and deviation of the logarithm of "lognormal".
        minimum_shot: [C] Seconds that a shot must last.
        snap: [C] Seconds after the beginning of a line without a cut.
        solver: "exact", or [G] "greedy_tau", first-order optimization.
        decisions_per_second: [C] Decisions per second in films longer than `decimate_after`.
        decimate_after: [C] Length of a film in seconds.
        tracker_rate: [C] Frames per second that the tracker uses.
        tracker_width: [C] Longer side of these frames in pixels.
        longest_gap: [C] Longest gap without a box that is filled, in seconds.

    Raises:
        ValueError: A setting out of its range, or settings that contradict each other.

    Example:
        >>> EditIQConfig.from_preset("gazed").solver
        'greedy_tau'

    Source: Girmaji et al. 2025 (arXiv 2502.02172); Moorthy et al. 2020 (GAZED, arXiv 2010.11886);
    Gandhi, Ronfard and Gleicher 2014 (CVMP).
    """

    model_type = "salhub_editiq"

    understanding: Literal["rules", "transformers", "none"] = "rules"
    language_model: str | None = None
    saliency: str = "motion+contrast"
    saliency_rate: float | int = ranged(5.0, above=0, most=60)
    saliency_width: int = ranged(160, least=32, most=1024)
    saliency_decay: float | int = ranged(0.8, least=0, below=1)
    saliency_sharpness: float | int = ranged(3.0, above=0, most=20)
    aspect_ratio: str = "16:9"
    subset_policy: Literal["contiguous", "all"] = "contiguous"
    full_shots: bool = False
    group_size: Literal["MS", "FS"] = "MS"
    medium_factor: float | int = ranged(0.55, above=0, most=1)
    medium_head_room: float | int = ranged(0.12, least=0, most=1)
    full_factor: float | int = ranged(1.08, above=0, most=3)
    full_head_room: float | int = ranged(0.06, least=0, most=1)
    look_room: float | int = ranged(0.17, least=0, most=0.9)
    smallest_crop: float | int = ranged(0.125, above=0, most=0.5)
    containment: bool = True
    smooth_tracks: float | int = ranged(0.4, least=0, most=10)
    camera_first: float | int = ranged(50.0, least=0, most=10**6)
    camera_second: float | int = ranged(0.0, least=0, most=10**6)
    camera_third: float | int = ranged(100.0, least=0, most=10**6)
    camera_first_groups: float | int | None = ranged(None, least=0, most=10**6)
    camera_third_groups: float | int | None = ranged(None, least=0, most=10**6)
    camera_still: float | int = ranged(50.0, least=0, most=10**6)
    still_speed: float | int = ranged(5.0, least=0, most=1000)
    camera_overtake: float | int = ranged(1.0, least=0, most=10**6)
    camera_outside: float | int = ranged(50.0, least=0, most=10**6)
    clear_distance: float | int = ranged(80.0, least=0, most=10**4)
    composition: Literal["least", "recursive"] = "least"
    show_weight: float | int = ranged(0.5, least=0, most=1)
    addressee_importance: float | int = ranged(0.35, least=0, most=1)
    reactor_importance: float | int = ranged(0.9, least=0, most=1)
    reacting_speaker_importance: float | int = ranged(0.5, least=0, most=1)
    other_importance: float | int = ranged(0.05, least=0, most=1)
    dialogue_smoothing: float | int = ranged(0.4, least=0, most=10)
    dialogue_advance: float | int = ranged(0.2, least=0, most=5)
    wide_prior: float | int = ranged(0.15, least=0, most=1)
    wide_value: float | int = ranged(0.8, least=0, most=1)
    establishing: Literal["first", "only", "off"] = "first"
    establishing_seconds: float | int = ranged(3.0, least=0, most=60)
    reestablish_after: float | int = ranged(60.0, least=0, most=10**4)
    pause_seconds: float | int = ranged(2.0, least=0, most=60)
    reaction_after: float | int = ranged(8.0, above=0, most=10**4)
    reaction_seconds: float | int = ranged(2.0, least=0.5, most=10)
    exchange_seconds: float | int = ranged(1.5, least=0, most=10)
    silence_seconds: float | int = ranged(2.0, least=0, most=10**4)
    unary: Literal["logarithmic", "linear"] = "logarithmic"
    epsilon: float | int = ranged(0.02, above=0, most=1)
    unary_unit: Literal["second", "frame"] = "second"
    cost_unit: Literal["absolute", "largest_unary"] = "absolute"
    dialogue_weight: float | int = ranged(0.7, least=0, most=10**3)
    saliency_weight: float | int = ranged(0.3, least=0, most=10**3)
    quiet_dialogue_weight: float | int = ranged(0.2, least=0, most=10**3)
    quiet_saliency_weight: float | int = ranged(0.8, least=0, most=10**3)
    misframing_weight: float | int = ranged(1.0, least=0, most=10**3)
    transition_weight: float | int = ranged(1.0, least=0, most=10**3)
    same_actors_factor: float | int = ranged(2.0, least=0, most=10**3)
    overlap: Literal["iou", "target"] = "iou"
    overlap_weight: float | int = ranged(5.0, least=0, most=10**3)
    overlap_low: float | int = ranged(0.3, least=0, most=1)
    overlap_high: float | int = ranged(0.6, least=0, most=1)
    rhythm: Literal["sigmoid", "lognormal", "gazed", "off"] = "sigmoid"
    shortest_shot: float | int = ranged(1.5, least=0, most=60)
    longest_shot: float | int = ranged(10.0, above=0, most=600)
    cut_weight: float | int = ranged(2.0, least=0, most=10**3)
    stay_weight: float | int = ranged(0.2, least=0, most=10**3)
    mode_seconds: float | int = ranged(3.0, above=0, most=600)
    spread: float | int = ranged(0.6, above=0, most=5)
    minimum_shot: float | int = ranged(1.0, least=0, most=60)
    snap: float | int = ranged(0.15, least=0, most=5)
    solver: Literal["exact", "greedy_tau"] = "exact"
    decisions_per_second: float | int = ranged(5.0, above=0, most=60)
    decimate_after: float | int = ranged(600.0, above=0, most=10**6)
    tracker_rate: float | int = ranged(6.0, above=0, most=60)
    tracker_width: int = ranged(320, least=64, most=2048)
    longest_gap: float | int = ranged(1.0, least=0, most=60)

    @classmethod
    def from_preset(cls, name: str = "editiq", **settings: Any) -> Self:
        """Build the settings of a preset.

        Args:
            name: "editiq", ours; "talk", the same with shots of at most about 6 s; "gazed", GAZED
                as its first author coded it, driven by saliency.
            **settings: Fields that differ from it.

        Raises:
            ValueError: No such preset.
        """
        check_choice("preset", name, tuple(PRESETS))
        return cls(**{**PRESETS[name], **settings})

    @property
    def aspect(self) -> Fraction:
        """Width over height of the crops."""
        width, height = self.aspect_ratio.split(":")
        return Fraction(int(width), int(height))

    def validate_combinations(self) -> None:
        """Settings must not contradict each other."""
        if not re.fullmatch(r"[1-9]\d{0,3}:[1-9]\d{0,3}", self.aspect_ratio):
            raise ValueError(
                f"aspect_ratio must be two whole numbers such as '16:9', got {self.aspect_ratio!r}."
            )
        if not Fraction(1, 4) <= self.aspect <= 4:
            raise ValueError(
                f"aspect_ratio must be between 1:4 and 4:1, got '{self.aspect_ratio}'."
            )
        if not ("/" in self.saliency or "\\" in self.saliency or self.saliency.count("-")):
            check_choice("saliency", self.saliency, OWN_SALIENCY)
        if self.understanding == "transformers" and not self.language_model:
            raise ValueError(
                "understanding='transformers' needs the name of a chat model; set language_model."
            )
        if self.overlap_low >= self.overlap_high:
            raise ValueError(
                f"overlap_low must be below overlap_high, got {self.overlap_low} and "
                f"{self.overlap_high}."
            )
        if self.rhythm != "off" and self.shortest_shot >= self.longest_shot:
            raise ValueError(
                f"shortest_shot must be below longest_shot, got {self.shortest_shot} and "
                f"{self.longest_shot}."
            )
        if self.minimum_shot >= self.longest_shot:
            raise ValueError(
                f"minimum_shot must be below longest_shot, got {self.minimum_shot} and "
                f"{self.longest_shot}."
            )
        if self.dialogue_weight == 0 and self.saliency_weight == 0:
            raise ValueError(
                "dialogue_weight and saliency_weight are both 0, so all shots are equally "
                "good; raise one of them."
            )
