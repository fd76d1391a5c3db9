"""A test that costs too much fails, files that take longest start first."""

import json

import pytest

from tests import budget

pytest_plugins = ["pytester"]

CONFTEST = """
from pathlib import Path
from tests.budget import *
from tests import budget

pytest_plugins = ["pytester"]

budget._slowness = lambda: 1.0
budget.SECONDS = 0.1
budget.PATIENCE = 4
budget.SECONDS_OF_A_METHOD = 0.01
budget.BUDGETS_OF_METHODS = {"almost": 0.4}
budget.ROOT = Path.cwd()
budget.RECORD = Path("seconds.json")
budget.BUDGETS = {"test_some.py::test_known": 0.6}
"""
TESTS = """
import subprocess, sys, time

def work(seconds=0.25):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def test_works():
    work()

def test_known():
    work()

def test_waits_a_little():
    time.sleep(0.2)

def test_waits():
    time.sleep(0.5)

def test_has_a_child():
    code = "import time\\nwhile time.process_time() < 0.25: pass"
    subprocess.run([sys.executable, "-c", code], check=True)

def test_fails():
    work()
    assert False, "of itself"
"""


@pytest.fixture
def run(pytester, monkeypatch):
    # In a process of its own, because this very test is watched by the same hooks.
    monkeypatch.setenv("PYTHONPATH", str(budget.ROOT))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_some=TESTS, test_other="def test_nothing(): pass")
    return lambda *words: pytester.runpytest_subprocess("-p", "no:xdist", "-v", *words)


def test_what_costs_too_much_fails_and_says_so(run):
    found = run()
    found.assert_outcomes(passed=3, failed=4)
    found.stdout.re_match_lines(
        [
            r"test_some.py::test_works took 0\.\d s of work; its budget is 0\.1 s\.",
            r"test_some.py::test_waits took .* by the clock; at most 0\.4 s are borne\.",
            r"test_some.py::test_has_a_child took .* of work",
            r".*AssertionError: of itself",
        ]
    )


def test_files_that_take_longest_start_first(run, pytester):
    def order(*words):
        found = run("--no-budget", *words)
        found.assert_outcomes(passed=6, failed=1)
        return [line.split("::")[0] for line in found.outlines if "py::" in line and "%]" in line]

    assert order("--record-seconds") == ["test_other.py"] + ["test_some.py"] * 6
    seconds = json.loads((pytester.path / "seconds.json").read_text())
    assert seconds.keys() == {"test_some.py", "test_other.py"}
    assert order() == ["test_some.py"] * 6 + ["test_other.py"]


def test_a_method_has_a_budget_of_its_own(run, pytester):
    folder = pytester.path / "tests" / "models" / "slow"
    folder.mkdir(parents=True)
    (folder / "test_slow.py").write_text("def test_one():\n    sum(range(3_000_000))\n")
    found = run("tests/models/slow")
    found.assert_outcomes(passed=1)
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.stdout.re_match_lines([r"The tests of slow took 0 s of work; it has 0\.01 s\."])


def test_a_method_that_is_a_little_over_its_budget_is_printed_and_passes(run, pytester):
    folder = pytester.path / "tests" / "models" / "almost"
    folder.mkdir(parents=True)
    work = TESTS[: TESTS.index("def test_works")]
    tests = "\n".join(f"def test_{one}():\n    work(0.08)\n" for one in range(6))
    (folder / "test_almost.py").write_text(work + tests)
    found = run("tests/models/almost")
    found.assert_outcomes(passed=6)
    assert found.ret == pytest.ExitCode.OK
    found.stdout.re_match_lines([r"The tests of almost took 0 s of work; it has 0\.4 s\."])
