"""What a visitor did to the clips of a phantom: moved some, took some away."""

from dataclasses import dataclass, field, replace

import numpy as np

_REMOVED = "off"


@dataclass(frozen=True)
class ClipEdits:
    """Changes to clips, which are counted from 1 as people do.

    Args:
        moves: Number of a clip -> mm along z, y and x from where it was found.
        removed: Numbers of those that were taken away.
    """

    moves: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()

    @classmethod
    def read(cls, text: str) -> "ClipEdits":
        """Read changes as they are written: "2:0,4,-2 5:off".

        Raises:
            ValueError: Written otherwise.

        Example:
            >>> ClipEdits.read("2:0,4,-2 5:off").moves
            {2: (0.0, 4.0, -2.0)}
        """
        moves, removed = {}, set()
        for word in text.split():
            number, _, change = word.partition(":")
            steps = change.split(",")
            try:
                if change == _REMOVED:
                    removed.add(int(number))
                    continue
                found = tuple(float(step) for step in steps)
                if len(found) != 3 or not np.isfinite(found).all():
                    raise ValueError
                moves[int(number)] = found
            except ValueError:
                raise ValueError(
                    f"'{word[:40]}' is not a valid change; write 2:0,4,-2 to move clip 2 by "
                    "mm along z, y and x, or 2:off to remove it."
                ) from None
        return cls(moves, frozenset(removed))

    def write(self) -> str:
        """Return them as `read` reads them."""
        moved = [f"{n}:{','.join(f'{mm:g}' for mm in by)}" for n, by in sorted(self.moves.items())]
        return " ".join([*moved, *(f"{number}:{_REMOVED}" for number in sorted(self.removed))])

    def moved(self, number: int, by: np.ndarray) -> "ClipEdits":
        """Return them with a clip moved further by mm along z, y and x."""
        total = np.round(np.add(self.moves.get(number, (0.0, 0.0, 0.0)), by), 1)
        moves = {**self.moves, number: tuple(total.tolist())}
        return replace(self, moves={n: one for n, one in moves.items() if any(one)})

    def toggled(self, number: int) -> "ClipEdits":
        """Return them with a clip taken away, or put back."""
        return replace(self, removed=self.removed ^ {number})

    def places(self, found: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        """Return where all clips are now, those that were taken away too.

        Args:
            found: (K, 3) voxel coordinates (z, y, x) of the clips as they were found.
            spacing: Millimetres between voxels along z, y and x.

        Raises:
            ValueError: There is no clip of such a number.
        """
        places = np.array(found, dtype=np.float64)
        for number in (*self.moves, *self.removed):
            if not 1 <= number <= len(places):
                raise ValueError(
                    f"There is no clip {number}; clips are numbered from 1 to {len(places)}."
                )
        for number, by in self.moves.items():
            places[number - 1] += np.asarray(by) / spacing
        return places

    def kept(self, count: int) -> list[int]:
        """Return the places in the list, from 0, of the clips that are left of `count`."""
        return [place for place in range(count) if place + 1 not in self.removed]
