"""Which commit of salhub runs, where it runs from a checkout."""

import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def checkout_version() -> dict[str, str]:
    """The commit that salhub is imported from, for the versions of a results file.

    Returns:
        "commit" -> 40 hexadecimal digits, with "-dirty" behind them where files were changed;
        nothing where salhub is installed, or git is not.
    """
    if not (_ROOT / ".git").exists():
        return {}
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": found.stdout.strip()}
