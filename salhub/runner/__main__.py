"""`python -m salhub.runner train NAME ...`, which torchrun and `accelerate launch` can start."""

import runpy

if __name__ == "__main__":
    # By name: the command line stands on a higher floor.
    runpy.run_module("salhub.cli", run_name="__main__")
