"""How far a run is: what has to be known to go on as if nothing had happened."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class Progress:
    """Steps taken, and the sums of the log line that has been begun.

    It is a part of every checkpoint.

    Attributes:
        step: Optimizer steps taken.
        seconds: Time that the steps took until the last checkpoint.
        validations: The numbers of every validation.
        logged: Lines of the log.
    """

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.validations: list[dict[str, float]] = []
        self.logged = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, count: int) -> None:
        """Add numbers to a mean of the log.

        Args:
            name: Of the mean.
            values: Numbers of some rows, (b,), or one number.
            count: How many rows they stand for.
        """
        total = values.detach().double().sum()
        entry = torch.stack([total, total.new_tensor(float(count))])
        self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def gather(self, accelerator: Accelerator) -> None:
        """Put the sums of all processes together, on the main one.

        The others start from nothing, so that going on from here and having gone on are the same
        sums in the same order.
        """
        if not self._sums:
            return
        names = sorted(self._sums)
        sums = accelerator.reduce(torch.stack([self._sums[name] for name in names]), "sum")
        self._sums = dict(zip(names, sums.unbind(), strict=True))
        self._keep_on_main(accelerator)

    def share_out(self, accelerator: Accelerator) -> None:
        """After loading: every process has read all sums, and only the main one keeps them."""
        self._sums = {name: sums.to(accelerator.device) for name, sums in self._sums.items()}
        self._keep_on_main(accelerator)

    def _keep_on_main(self, accelerator: Accelerator) -> None:
        if not accelerator.is_main_process:
            self._sums = {name: torch.zeros_like(sums) for name, sums in self._sums.items()}

    def take_means(self, accelerator: Accelerator) -> dict[str, float]:
        """The means since the last time, of all processes; they begin anew."""
        self.gather(accelerator)
        means = {
            name: float(entry[0] / entry[1]) for name, entry in self._sums.items() if entry[1] > 0
        }
        self._sums = {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; `gather` comes first."""
        sums = {name: entry.tolist() for name, entry in self._sums.items()}
        return {
            "step": self.step,
            "seconds": self.seconds,
            "validations": self.validations,
            "logged": self.logged,
            "sums": sums,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.logged = state.get("logged", 0)  # which a former version did not count
        # In place, as the recipe looks at them.
        self.validations[:] = state["validations"]
        self._sums = {
            name: torch.tensor(entry, dtype=torch.float64) for name, entry in state["sums"].items()
        }
