"""`python run_toys.py FOLDER kill|share` carries out the toy recipes for `test_processes`.

"kill" has each killed in the middle of its work, in a process of its own; "share" carries each out
twice on all processes, once at a stretch and once stopped and resumed.
"""

import os
import signal
import sys
import time
from pathlib import Path

from accelerate import Accelerator

from salhub.runner.run import run
from tests.runner.toy_recipe import (
    ToyArguments,
    ToyBlockArguments,
    ToyBlockRecipe,
    ToyRecipe,
)
from tests.testers.recipe import Stopped, counted, unit_of

# 20 and 50 rows in steps of 7 leave one for the last step, and none for a second process.
TRAINING = {
    "batch_size": 7,
    "per_device_batch_size": 3,
    "use_two_stages": True,
    "checkpointing_steps": 4,
    "logging_steps": 1,
    "validation_steps": 3,
    "keep_best": True,
    "learning_rate": 0.05,
    "max_grad_norm": 1.0,
}
KINDS = ("training", "blocks")
# Steps or blocks after which they are stopped.
STOPS = {"training": 11, "blocks": 3}


def toy(kind: str, folder: Path, resume: str | None = None, **options):
    """A toy recipe, "training" or "blocks", that goes to a folder."""
    where = {"output_dir": str(folder), "cpu": True, "resume_from_checkpoint": resume, **options}
    if kind == "training":
        return ToyRecipe(ToyArguments(**where, **TRAINING))
    return ToyBlockRecipe(ToyBlockArguments(**where))


def kill(kind: str, folder: Path) -> int:
    """Have a run killed by SIGKILL; returns the signal that its process ended with."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    recipe, done = counted(toy(kind, folder))
    work = getattr(recipe, unit_of(recipe))

    def once(*arguments):
        found = work(*arguments)
        if len(done) == STOPS[kind]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(recipe, unit_of(recipe), once)
    run(recipe)
    os._exit(0)


def share(kind: str, folder: Path) -> None:
    """Carry out a recipe, and again with a stop in between."""
    names = ToyBlockRecipe.block_names

    def late(self, model):
        # A process that looks for blocks when another one may have written some.
        time.sleep(0.5 * self.run.accelerator.process_index)
        return names(self, model)

    ToyBlockRecipe.block_names = late
    Accelerator.end_training = lambda _: None  # after it, processes know no more of each other
    run(toy(kind, folder / kind))
    recipe, _ = counted(toy(kind, folder / f"{kind} again"), STOPS[kind])
    try:
        run(recipe)
    except Stopped:
        run(toy(kind, folder / f"{kind} again", "latest"))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for name in KINDS:
        if sys.argv[2] == "kill":
            assert kill(name, target / name) == -signal.SIGKILL
        else:
            share(name, target)
