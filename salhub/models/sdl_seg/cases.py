"""Volumes with their truth, by patient: phantoms, or a folder in nnU-Net's layout."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.marker_detection import (
    MarkerNotFoundError,
    TooManyMarkersError,
    detect_markers,
)
from salhub.models.sdl_seg.phantom import make_breast_phantom
from salhub.models.sdl_seg.processing_sdl_seg import AIR_HU, Grid

PHANTOMS = "phantoms"
# The field of view of the phantoms in mm, whatever their spacing.
_EXTENT = (72.0, 144.0, 144.0)


@dataclass(frozen=True, eq=False)
class Case:
    """A volume with its truth.

    Attributes:
        name: Of the case.
        patient: Whose it is.
        volume: HU, float32 (z, y, x).
        spacing: Voxel size in mm, (z, y, x).
        mask: The truth, bool (z, y, x).
        markers: Voxel coordinates, (K, 3); None to find them.
    """

    name: str
    patient: str
    volume: np.ndarray
    spacing: tuple[float, float, float]
    mask: np.ndarray
    markers: np.ndarray | None = None


@dataclass(frozen=True)
class CaseName:
    """A case that was not read yet.

    Attributes:
        name: Of the case.
        patient: Whose it is.
    """

    name: str
    patient: str


def phantom_case(
    patient: int,
    fraction: int = 0,
    *,
    spacing: Sequence[float] = (3.0, 1.5, 1.5),
    num_decoys: int = 4,
    clips_visible: bool = True,
) -> Case:
    """A phantom as a case, its clips found on the CT as a user would find them.

    Args:
        patient: Its seed.
        fraction: Which scan of the patient.
        spacing: Voxel size in mm, (z, y, x); the field of view is 72 x 144 x 144 mm.
        num_decoys: Lesions without clips.
        clips_visible: False paints the clips out of the CT after they were found on it.
    """
    return _phantom_case(patient, fraction, tuple(spacing), num_decoys, clips_visible)


@lru_cache(maxsize=256)
def _phantom_case(
    patient: int,
    fraction: int,
    spacing: tuple[float, float, float],
    num_decoys: int,
    clips_visible: bool,
) -> Case:
    shape = [round(size / step) for size, step in zip(_EXTENT, spacing, strict=True)]
    phantom = make_breast_phantom(patient, shape, spacing, fraction=fraction, num_decoys=num_decoys)
    markers = detect_markers(phantom.volume, phantom.spacing)
    volume = phantom.volume
    if not clips_visible:
        volume = make_breast_phantom(
            patient, shape, spacing, fraction=fraction, num_decoys=num_decoys, clips_visible=False
        ).volume
    name = f"phantom-{patient}-{fraction}"
    return Case(name, f"phantom-{patient}", volume, phantom.spacing, phantom.mask, markers)


@dataclass(frozen=True)
class CaseFolder:
    """A data set in nnU-Net's layout, its cases sorted by patient.

    Args:
        folder: With dataset.json, imagesTr and labelsTr.
        patient_pattern: Regular expression that finds the patient in the name of a case: its first
            group, or all it matches; None where every case is of another patient.

    Raises:
        FileNotFoundError: No such data set.
        ValueError: Fewer than three patients, or a name without one.
    """

    folder: str | Path
    patient_pattern: str | None = None

    def names(self) -> list[CaseName]:
        """The cases that have a mask."""
        from salhub.models.sdl_seg.nnunet_folder import read_nnunet

        cases = [one for one in read_nnunet(self.folder) if one.label is not None]
        return [CaseName(one.name, self._patient_of(one.name)) for one in cases]

    def read(self, name: str) -> Case:
        """One case."""
        from salhub.models.sdl_seg.nnunet_folder import read_nnunet

        found = next(one for one in read_nnunet(self.folder) if one.name == name)
        volume, mask = found.load()
        assert mask is not None
        return Case(name, self._patient_of(name), volume.array, volume.spacing, mask)

    def _patient_of(self, name: str) -> str:
        if self.patient_pattern is None:
            return name
        found = re.search(self.patient_pattern, name)
        if found is None:
            raise ValueError(
                f"patient_pattern '{self.patient_pattern}' finds no patient in the name '{name}'; "
                "give a regular expression that matches every name."
            )
        return found.group(1) if found.groups() else found.group()


def split_by_patient(
    names: Sequence[CaseName], shares: Sequence[float], seed: int
) -> list[list[CaseName]]:
    """Parts of some cases, no patient in two of them.

    Args:
        names: The cases.
        shares: Of each part but the first, of all patients; each gets one patient at least.
        seed: Draws who goes where.

    Raises:
        ValueError: Fewer patients than parts.
    """
    patients = sorted({one.patient for one in names})
    counts = [max(1, round(share * len(patients))) for share in shares]
    if len(patients) - sum(counts) < 1:
        raise ValueError(
            f"{len(patients)} patients cannot be split into {len(shares) + 1} parts; give "
            "more cases, or a patient_pattern that distinguishes patients."
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    ends = itertools.pairwise(np.cumsum([0, *counts]))
    chosen = [{patients[place] for place in order[a:b]} for a, b in ends]
    rest = set(patients) - set().union(*chosen)
    return [[one for one in names if one.patient in part] for part in (rest, *chosen)]


@dataclass(frozen=True, eq=False)
class TrainingVolume:
    """A case on the network's grid.

    Attributes:
        volume: HU, float32 (z, y, x).
        mask: bool (z, y, x).
        markers: Coordinates on this grid, float64 (K, 3).
        config: Gives spacing, window of HU and kind of map.
    """

    volume: np.ndarray
    mask: np.ndarray
    markers: np.ndarray
    config: SDLSegConfig

    @classmethod
    def of(cls, case: Case, config: SDLSegConfig) -> "TrainingVolume":
        """Resample a case, and find its markers where they are needed and not given.

        Raises:
            MarkerNotFoundError, TooManyMarkersError: With the name of the case.
        """
        grid = Grid.of(case.volume.shape, case.spacing, config)
        markers = np.zeros((0, 3)) if config.saliency_kind == "none" else case.markers
        if markers is None:
            try:
                markers = detect_markers(case.volume, case.spacing, config)
            except (MarkerNotFoundError, TooManyMarkersError) as error:
                raise type(error)(f"Case {case.name}: {error}") from None
        return cls(
            grid.resample(case.volume, AIR_HU),
            grid.resample_mask(case.mask),
            grid.to_network(markers),
            config,
        )
