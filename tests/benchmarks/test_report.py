"""Losses are printed as losses, and what is missing is named."""

import sys
import types

import pytest

from benchmarks import lexrank, salun_classes, salun_methods, salun_seeds, verbalizer_student
from benchmarks.interleaved import Contender, Race
from benchmarks.peers import Peer, find_peer, peers_table
from benchmarks.report import (
    Agreement,
    Requirement,
    add_agreements,
    add_comparisons,
    add_race,
    add_requirements,
    markdown,
    print_tables,
    save_results,
)
from salhub.results import Results


def results():
    machine = {"processor": "abacus", "torch_threads": 1}
    return Results(model="m", command="c", seed=0, versions={"torch": "2"}, machine=machine)


def finished_race(ours=(1.0, 1.0, 1.0), theirs=(2.0, 2.0, 2.0)):
    contenders = [Contender("ours", lambda: None), Contender("theirs", lambda: None, "peer 1.0")]
    times = {"ours": list(ours), "theirs": list(theirs)}
    return Race(contenders, cpu=times, wall=times)


@pytest.mark.parametrize(
    ("value", "limit", "is_least", "expected"),
    [(1.0, 1.15, False, True), (1.2, 1.15, False, False), (6, 5, True, True), (4, 5, True, False)],
)
def test_requirement_is_met_within_its_limit(value, limit, is_least, expected):
    assert Requirement("r", value, limit, is_least=is_least).is_met is expected


def test_missed_requirements_are_printed_as_missed(capsys):
    found = results()
    add_requirements(found, [Requirement("good", 0.5, 1.0), Requirement("bad", 2.0, 1.0)])
    print_tables(found)
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "good" in line).endswith("met")
    assert next(line for line in lines if "bad" in line).endswith("MISSED")
    assert found.metric("required/bad").value == 2.0


def test_slower_is_printed_as_slower():
    found = results()
    add_comparisons(found, finished_race(), [("ours", "theirs")])
    add_comparisons(found, finished_race(ours=(3.0, 3.0, 3.0)), [("ours", "theirs")][:0])
    assert [row[-1] for row in found.tables[0].rows] == ["faster"]
    slow = results()
    add_comparisons(slow, finished_race(ours=(3.0, 3.0, 3.0)), [("ours", "theirs")])
    assert slow.tables[0].rows[0][-1] == "SLOWER"
    even = results()
    add_comparisons(even, finished_race(ours=(1.0, 2.0, 3.0)), [("ours", "theirs")])
    assert even.tables[0].rows[0][-1] == "as fast"


def test_a_peer_that_took_no_part_is_left_out_of_the_comparison():
    found = results()
    add_comparisons(found, finished_race(), [("ours", "absent")])
    assert found.tables[0].rows == []


def test_race_gives_times_ratios_and_memory():
    found = results()
    add_race(found, "title", "note.", finished_race(), {"to theirs": "theirs"})
    assert found.metric("title/ours/to theirs").value == 0.5
    assert found.metric("title/theirs/cpu").value == 2.0
    table = found.tables[0]
    assert table.columns == ["what", "by", "CPU ms", "wall ms", "to theirs", "peak MiB"]
    assert table.rows[1][:3] == ["theirs", "peer 1.0", 2000.0]


def test_maps_that_differ_are_missed_unless_they_are_meant_to():
    found = results()
    add_agreements(
        found,
        [
            Agreement("same", "peer", 1e-7),
            Agreement("other", "peer", 1e-2),
            Agreement("meant", "peer", 0.5, expected=False, note="another rule"),
        ],
        1e-5,
    )
    assert [row[-1] for row in found.tables[0].rows] == ["met", "MISSED", "another rule"]


def test_page_is_made_of_the_results_file(tmp_path):
    found = results()
    add_requirements(found, [Requirement("a | b", 0.5, 1.0)])
    file, page = save_results(found, tmp_path / "m.json")
    assert page.read_text(encoding="utf-8") == markdown(Results.load(file))
    assert r"| a \| b | 0.5 | at most 1 | met |" in page.read_text(encoding="utf-8")


def test_absent_package_is_named_with_the_way_to_install_it():
    peer = find_peer("no_such_package")
    assert peer.version is None
    assert "salhub[bench]" in peer.reason
    assert peers_table({"no_such_package": peer}).rows[0][-1] == peer.reason


def test_package_that_breaks_while_importing_is_named_with_its_error(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nsecond line")

    monkeypatch.setattr("benchmarks.peers.importlib.metadata.version", lambda name: "1.5")
    monkeypatch.setattr("benchmarks.peers.importlib.import_module", broken)
    peer = find_peer("zennit")
    monkeypatch.undo()
    assert peer.reason == (
        "cannot be imported: RuntimeError: operator torchvision::nms does not exist"
    )


def test_importable_package_takes_part(monkeypatch):
    monkeypatch.setitem(sys.modules, "zennit", types.ModuleType("zennit"))
    monkeypatch.setattr("benchmarks.peers.importlib.metadata.version", lambda name: "0.5")
    assert find_peer("zennit") == Peer("zennit", "zennit", "0.5", None)


@pytest.mark.parametrize(
    ("script", "words", "missing"),
    [
        (lexrank, ["--texts", "here.jsonl", "--clusters", "NO_SUCH_FILE"], "NO_SUCH_FILE"),
        (lexrank, ["--texts", "here.jsonl"], "--clusters"),
        (lexrank, ["--texts", "bad.jsonl", "--clusters", "here.jsonl"], "line 1 of bad.jsonl"),
        (salun_seeds, ["--data", "NO_SUCH_FILE"], "NO_SUCH_FILE"),
        (salun_classes, ["--data", "here.jsonl", "--results", "no.json"], "no.json"),
        (
            salun_methods,
            ["--data", "here.jsonl", "--results", "bad.jsonl"],
            "bad.jsonl is not JSON",
        ),
        (verbalizer_student, ["no-such-model", "--data", "here.jsonl"], "no-such-model.results"),
    ],
)
def test_every_file_a_script_reads_is_looked_at_before_any_work(
    script, words, missing, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").write_text('{"sentences": ["A."], "references": ["B."]}\n\n')
    (tmp_path / "bad.jsonl").write_text("nothing")
    monkeypatch.setattr(script, "use_one_thread", lambda: None, raising=False)
    for name in ("find_peers", "new_results", "add_guesses", "speed"):
        monkeypatch.setattr(script, name, lambda *_: pytest.fail("has begun"), raising=False)
    with pytest.raises((SystemExit, ValueError)) as end:
        script.main(words)
    assert missing in capsys.readouterr().err + str(end.value)
