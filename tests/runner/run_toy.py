"""`python run_toy.py name=value ...` carries out the toy recipe, perhaps killing itself."""

import os
import signal
import sys

import yaml

from salhub.runner.run import run
from tests.runner.toy_recipe import ToyArguments, ToyRecipe


class KilledRecipe(ToyRecipe):
    """Dies without warning after a step."""

    kill_after = int(os.environ.get("KILL_AFTER", "0"))

    def after_step(self, model, optimizer, step):
        if step + 1 == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    settings = dict(word.split("=", 1) for word in sys.argv[1:])
    values = {name: yaml.safe_load(text) for name, text in settings.items()}
    run(KilledRecipe(ToyArguments.from_settings(values)), command="run_toy")
