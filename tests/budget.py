"""What a test may cost, and the order in which files end soonest.

Hooks of pytest, which `conftest.py` makes known. A test is charged with the processor seconds of
its worker and of the children that it waited for, its own fixtures included, so that a busy machine
does not fail it; seconds of the clock count generously, for tests that wait without working.

`--record-seconds` writes down how long each file took, on an idle machine; files that take longest
start first.
"""

import importlib
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "seconds.json"
SECONDS = 5.0
SECONDS_OF_A_METHOD = 60.0
# Methods that may cost more, and why.
BUDGETS_OF_METHODS = {
    # Two kinds of model and fourteen recipes, with real kills and processes of `salhub unlearn`.
    "salun": 160.0,
    # Films are drawn, encoded, edited and read back.
    "editiq": 150.0,
    # Volumes are drawn, segmented whole and written as files of the clinic.
    "sdl_seg": 90.0,
    # CLIPs of two encoders, and all ways of learning and masking.
    "disa": 90.0,
    # Networks of five kinds beside slow restatements of every rule.
    "normgrad": 100.0,
    "salient_relevance": 110.0,
}
# Processor seconds of `_slowness` on an idle core of the machine that the budgets are meant for.
SECONDS_OF_PYTHON = 0.20
SECONDS_OF_ARITHMETIC = 0.20
# Processors of one name differ by the hour: a method that is over by less is printed and passes.
TOLERANCE = 1.5
# A test that waits may take this many times its budget by the clock.
PATIENCE = 8
# Tests that may cost more, and why. A name covers all that begin with it.
BUDGETS = {
    # Two processes that import everything and work together.
    "tests/cli/test_train.py": 40,
    "tests/cli/test_evaluate_all.py::test_a_model_is_measured_in_its_own_process_and_kept": 10,
    "tests/cli/test_shares.py::test_processes_that_work_together": 12,
    "tests/cli/test_evaluate_shares.py::test_processes_that_work_together": 12,
    "tests/runner/test_processes.py": 25,
    "tests/models/salun/test_interrupted_runs.py": 30,
    # The program on the page draws a hundred pictures.
    "tests/models/salun/test_page_salun.py": 12,
    # A scene is drawn, encoded, edited, and encoded again.
    "tests/models/editiq": 12,
    # Machines with settings of their own, see `machine.py`.
    "tests/hub": 12,
    "tests/test_auto.py": 10,
    # A film is edited and encoded.
    "tests/test_cards.py::test_the_code_on_the_card_runs[editiq-stage]": 12,
    # The picture of a card is drawn twice.
    "tests/test_cards.py::test_the_command_writes_card_and_picture": 10,
    "tests/test_docs.py": 25,
    # 200 photos through EfficientNet-Lite0.
    "tests/backbones/test_efficientnet_lite.py::test_accuracy": 40,
    # A copy of the package with machines of its own.
    "tests/test_newcomer.py": 40,
    # A browser, and every page.
    "tests/ui": 45,
    "tests/spaces": 30,
    # Everything that is public is imported, and every race is run once.
    "tests/test_architecture.py": 20,
    "tests/benchmarks": 20,
    # torch traces the network twice and writes it as ONNX.
    "tests/models/nvit/test_pruning.py::test_a_pruned_network_is_written": 25,
    "tests/models/disa/test_export_disa.py": 25,
    # The page's program runs as a person would run it.
    "tests/models/active_contour/test_page_active_contour.py": 12,
    # Processes of their own.
    "tests/testers": 10,
    "tests/quantization/test_quantizer.py::TestPackedToy::test_a_new_process": 10,
    "tests/models/slim_llm/test_quantization_slim_llm.py::TestPackedSlimLLM::test_a_new": 10,
    "tests/models/apiq_saliency/test_adapters.py::TestApiQSaliencyQuantizer::test_a_new": 10,
    "tests/quantization/test_export.py::test_it_is_loaded_where_salhub": 10,
    "tests/models/rep_mtl/test_modeling_rep_mtl.py::test_two_processes": 10,
    "tests/test_budget.py": 10,
}

_started = pytest.StashKey[tuple[float, float]]()
_charged = 0.0


def charge(seconds: float) -> None:
    """Add processor seconds of processes that the worker did not wait for itself."""
    global _charged
    _charged += seconds


def processor_seconds() -> float:
    """Seconds of work so far: of this process and of its finished children."""
    return sum(os.times()[:4]) + _charged


def allowed(test: str) -> float:
    """Seconds that a test may cost, by its name."""
    matching = [name for name in BUDGETS if test.startswith(name)]
    return BUDGETS[max(matching, key=len)] if matching else SECONDS


def allowance(method: str) -> float:
    """Seconds that all tests of a method may cost."""
    return BUDGETS_OF_METHODS.get(method, SECONDS_OF_A_METHOD)


def _slowness() -> float:
    """How many times longer work takes than on the machine that the budgets are meant for."""
    before = time.process_time()
    sum(range(10_000_000))
    # Virtual machines may take ten times as long for memory that was not used before.
    _ = b"x" * 128_000_000
    python = time.process_time() - before
    # A processor may be quick in Python and, without wide registers, slow in what networks do.
    import torch

    volumes, weights = torch.ones(1, 16, 32, 64, 64), torch.ones(16, 16, 3, 3, 3)
    matrix = torch.ones(512, 512)
    with torch.inference_mode():
        torch.nn.functional.conv3d(volumes, weights)
        before = time.process_time()
        for _ in range(3):
            torch.nn.functional.conv3d(volumes, weights)
        for _ in range(40):
            matrix @ matrix
    arithmetic = time.process_time() - before
    return max(1.0, python / SECONDS_OF_PYTHON, arithmetic / SECONDS_OF_ARITHMETIC)


def verdict(test: str, work: float, clock: float) -> str | None:
    """What is wrong with the seconds that a test took; None where nothing is."""
    budget = allowed(test)
    if work > budget:
        return f"{test} took {work:.1f} s of work; its budget is {budget:g} s."
    if clock > PATIENCE * budget:
        return f"{test} took {clock:.0f} s by the clock; at most {PATIENCE * budget:g} s are borne."
    return None


def method_of(test: str) -> str | None:
    """The method that a test belongs to, if it does."""
    parts = Path(test.split("::")[0]).parts
    return parts[2] if parts[:2] == ("tests", "models") and len(parts) > 3 else None


def pytest_addoption(parser):
    group = parser.getgroup("budget")
    group.addoption("--no-budget", action="store_true", help="let tests cost what they like")
    group.addoption(
        "--record-seconds", action="store_true", help=f"write the seconds of files to {RECORD.name}"
    )
    group.addoption("--dearest", type=int, default=0, help="show the tests that cost most work")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Bookkeeper(config), "salhub-budget")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    seconds = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    # Most files that nobody has timed are short.
    items.sort(key=lambda item: -seconds.get(item.nodeid.split("::")[0], 0.0))


def pytest_collection_finish(session):
    """Import what transformers imports late, so that no test is charged for being the first."""
    if "transformers" in sys.modules and not session.config.option.collectonly:
        for name in ("modeling_auto", "image_processing_auto", "tokenization_auto"):
            importlib.import_module(f"transformers.models.auto.{name}")
        importlib.import_module("transformers.pipelines")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    item.stash[_started] = (processor_seconds(), time.perf_counter())
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    work, clock = item.stash[_started]
    work, clock = processor_seconds() - work, time.perf_counter() - clock
    # A child of an earlier test may be counted only now.
    work = min(work, clock * (os.cpu_count() or 1))
    if call.when == "teardown":
        item.user_properties.append(("work", round(work, 3)))
        item.user_properties.append(("clock", round(clock, 3)))
    report = yield
    if call.when == "call" and report.passed and not item.config.getoption("--no-budget"):
        wrong = verdict(item.nodeid, work, clock)
        if wrong is not None:
            # Seconds are worth less on a machine that is slow or busy.
            slowness = _slowness()
            wrong = verdict(item.nodeid, work / slowness, clock / slowness)
        if wrong is not None:
            report.outcome, report.longrepr = "failed", wrong
    return report


class _Bookkeeper:
    """Adds up, in the process that every worker reports to."""

    def __init__(self, config):
        self.config = config
        self.work: dict[str, float] = defaultdict(float)
        self.clock: dict[str, float] = defaultdict(float)
        self.tests: dict[str, dict[str, float]] = {}
        self.over: dict[str, float] = {}

    def pytest_runtest_logreport(self, report):
        if report.when != "teardown":
            return
        seconds = dict(report.user_properties)
        self.tests[report.nodeid] = seconds
        self.work[report.nodeid.split("::")[0]] += seconds["work"]
        self.clock[report.nodeid.split("::")[0]] += seconds["clock"]

    def work_of_methods(self) -> dict[str, float]:
        spent: dict[str, float] = defaultdict(float)
        for file, seconds in self.work.items():
            if method_of(file) is not None:
                spent[method_of(file)] += seconds
        return spent

    def methods_over_budget(self) -> dict[str, float]:
        """How many times its seconds a method took, where that is more than once."""
        shares = {
            method: seconds / allowance(method)
            for method, seconds in self.work_of_methods().items()
            if seconds > allowance(method)
        }
        slowness = _slowness() if shares else 1.0
        return {method: share / slowness for method, share in shares.items() if share > slowness}

    def pytest_sessionfinish(self, session):
        if self.config.getoption("--record-seconds"):
            before = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
            known = {name: value for name, value in before.items() if (ROOT / name).is_file()}
            known |= {name: round(value, 1) for name, value in self.clock.items()}
            RECORD.write_text(json.dumps(dict(sorted(known.items())), indent=0) + "\n")
        self.over = self.methods_over_budget()
        failed = any(share > TOLERANCE for share in self.over.values())
        if failed and not self.config.getoption("--no-budget"):
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        dearest = sorted(self.tests.items(), key=lambda test: -test[1]["work"])
        number = self.config.getoption("--dearest")
        for name, seconds in dearest[:number]:
            terminalreporter.write_line(
                f"{seconds['work']:6.1f} s of work, {seconds['clock']:6.1f} by the clock  {name}"
            )
        if number:
            for method, seconds in sorted(self.work_of_methods().items(), key=lambda one: -one[1]):
                terminalreporter.write_line(f"{seconds:6.1f} s of work  {method}")
        work = self.work_of_methods()
        for method in self.over:
            terminalreporter.write_line(
                f"The tests of {method} took {work[method]:.0f} s of work; "
                f"it has {allowance(method):g} s.",
                red=True,
            )
