"""The sample that comes with EditIQ: a made-up scene, written as the film that it is."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

from salhub.data.samples import PREFIX
from salhub.errors import UnknownNameError
from salhub.files import draft
from salhub.models.editiq.film_writing import write_film
from salhub.models.editiq.stage_scene import StageScene, make_stage_scene

SAMPLE = f"{PREFIX}stage"
SECONDS, ACTORS = 20.0, 2
# Of "sample:stage": a scene in which much is said.
FIRST_SEED = 4
LARGEST_SEED = 9999
_SOUND_RATE = 16_000
_NAME = re.compile(rf"{SAMPLE}(?:-(\d{{1,4}}))?")


def sample_seed(source: Any) -> int | None:
    """Return the seed of "sample:stage" or "sample:stage-7"; None for what is no sample.

    Raises:
        UnknownNameError: It is a sample, and not this one.
    """
    if not isinstance(source, str) or not source.startswith(PREFIX):
        return None
    found = _NAME.fullmatch(source)
    if found is None:
        raise UnknownNameError(
            f"There is no sample film '{source}'; choose '{SAMPLE}', or '{SAMPLE}-7' with any "
            f"number up to {LARGEST_SEED}."
        )
    return FIRST_SEED if found[1] is None else int(found[1])


@lru_cache(maxsize=4)
def sample_scene(seed: int) -> StageScene:
    """Return a scene of two people on a stage."""
    return make_stage_scene(seed, ACTORS, seconds=SECONDS)


def sample_film(seed: int) -> Path:
    """Return the scene as a film, written when it is first asked for."""
    scene = sample_scene(seed)
    folder = Path(HF_HOME) / "salhub" / "samples" / scene.fingerprint()[:12]
    path = folder / f"stage-{seed}.mp4"
    if not path.is_file():
        with draft(path) as scratch:
            write_film(
                scratch,
                (picture for _, picture in scene.frames()),
                scene.frame_rate,
                (scene.sound(_SOUND_RATE), _SOUND_RATE),
            )
    return path
