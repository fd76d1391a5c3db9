"""The folder layout of nnU-Net, in and out, with the saliency map as its second channel."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salhub.errors import require_extra
from salhub.files import draft, write_text
from salhub.models.sdl_seg.nifti import read_nifti, read_nifti_mask, write_nifti
from salhub.models.sdl_seg.volume import Volume

_ENDING = ".nii.gz"
# nnU-Net chooses how a channel is scaled by its name.
_CHANNELS = {"0": "CT", "1": "noNorm"}
_SECTIONS = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))


@dataclass(frozen=True)
class NNUNetCase:
    """One case of a folder; nothing is read before `load`.

    Args:
        name: Of the case.
        image: File of the CT.
        label: File of the mask, or None.
        is_test: Whether it lies in imagesTs.
    """

    name: str
    image: Path
    label: Path | None
    is_test: bool = False

    def load(self) -> tuple[Volume, np.ndarray | None]:
        """Read the volume, and its mask (bool, Z, Y, X) where there is one."""
        volume = read_nifti(self.image)
        return volume, None if self.label is None else read_nifti_mask(self.label, volume)


def read_nnunet(folder: str | Path) -> list[NNUNetCase]:
    """List the cases of a data set in nnU-Net's layout.

    Args:
        folder: With dataset.json, imagesTr and labelsTr; imagesTs where there are test cases.

    Returns:
        The cases in the order of their names, those for training first.

    Raises:
        FileNotFoundError: There is no dataset.json, or a label is missing.
        ValueError: It is damaged, has no CT among its channels, or lists no case.
    """
    folder = Path(folder)
    path = folder / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no dataset.json, so it is not an nnU-Net data set; give the "
            "folder of one."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        ending, channels = facts["file_ending"], facts["channel_names"]
        number = next(int(key) for key, name in channels.items() if name.upper() == "CT")
    except StopIteration:
        raise ValueError(
            f"{path} names the channels {', '.join(map(str, channels.values()))}, but none "
            "is CT; the values must be HU."
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or lacks file_ending or channel_names; write it as nnU-Net v2 does."
        ) from error
    cases = []
    for images, labels in _SECTIONS:
        for image in sorted((folder / images).glob(f"*_{number:04d}{ending}")):
            name = image.name[: -len(f"_{number:04d}{ending}")]
            label: Path | None = folder / labels / f"{name}{ending}"
            if label is not None and not label.is_file():
                if images == "imagesTr":
                    raise FileNotFoundError(f"The case {name} has no mask at {label}.")
                label = None
            cases.append(NNUNetCase(name, image, label, images == "imagesTs"))
    if not cases:
        raise ValueError(
            f"{folder} has no cases: there is no imagesTr/*_{number:04d}{ending}; check "
            "file_ending in dataset.json."
        )
    return cases


def write_nnunet(
    folder: str | Path,
    cases: Iterable[tuple[str, Volume, np.ndarray, np.ndarray | None]],
    label: str = "tumor_bed",
) -> int:
    """Write a data set in nnU-Net's layout, to train it with the saliency map as second channel.

    Args:
        folder: Where to; its parent must exist, and it is replaced as a whole.
        cases: Name, volume, mask (bool) and saliency map (Z, Y, X), or None for no map; all with a
            map or all without.
        label: What the mask is called.

    Returns:
        The number of cases.

    Raises:
        MissingExtraError: nibabel is not installed.
        ValueError: No case, a name that comes twice, or maps of some cases alone.
    """
    require_extra("nibabel", "medical")
    folder = Path(folder)
    names: list[str] = []
    has_map: set[bool] = set()
    with draft(folder) as root:
        for part in ("imagesTr", "labelsTr"):
            (root / part).mkdir(parents=True)
        for name, volume, mask, saliency in cases:
            has_map.add(saliency is not None)
            if name in names or len(has_map) > 1:
                what = "come twice" if name in names else "have a map while others have none"
                raise ValueError(
                    f"Cases called {name} {what}; make the cases consistent, with distinct names."
                )
            names.append(name)
            channels = [volume.array] if saliency is None else [volume.array, saliency]
            for number, channel in enumerate(channels):
                write_nifti(root / "imagesTr" / f"{name}_{number:04d}{_ENDING}", channel, volume)
            write_nifti(root / "labelsTr" / f"{name}{_ENDING}", mask, volume)
        if not names:
            raise ValueError("There are no cases to save; give at least one.")
        facts: dict[str, Any] = {
            "channel_names": _CHANNELS if True in has_map else {"0": "CT"},
            "labels": {"background": 0, label: 1},
            "numTraining": len(names),
            "file_ending": _ENDING,
        }
        write_text(root / "dataset.json", json.dumps(facts, indent=2) + "\n")
    return len(names)
