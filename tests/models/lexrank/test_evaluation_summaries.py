"""ROUGE of rankings, against counts by hand."""

import json

import numpy as np
import pytest

from salhub.models.lexrank.evaluation_summaries import (
    Rouge,
    SummarizationItem,
    compare_rankers,
    cut_summary,
    lead,
    random_ranker,
    read_summarization_set,
    score_ranker,
)
from salhub.results import Results

SENTENCES = ("The old bridge is shut.", "Cats sleep all day.", "A new bridge opens soon.")


def write(path, rows) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_halves_have_nothing_in_common(tmp_path):
    rows = [{"sentences": [f"s{n}"], "references": [f"r{n}"], "id": n} for n in range(5)]
    path = write(tmp_path / "set.jsonl", rows)
    halves = [read_summarization_set(path, half) for half in ("development", "test")]
    names = [[item.sentences[0] for item in half] for half in halves]
    assert names == [["s0", "s2", "s4"], ["s1", "s3"]]
    assert len(read_summarization_set(path)) == 5
    with pytest.raises(ValueError, match="half must be one of development, test, all"):
        read_summarization_set(path, "dev")
    with pytest.raises(FileNotFoundError, match="no file of texts and summaries"):
        read_summarization_set(tmp_path / "none.jsonl")
    for row in ({"sentences": ["a"]}, {"sentences": [], "references": ["b"]}):
        with pytest.raises(ValueError, match="line 1 of"):
            read_summarization_set(write(tmp_path / "bad.jsonl", [row]))


def test_summaries_are_cut_at_the_budget_in_the_order_of_the_text():
    assert cut_summary(SENTENCES, [2, 0, 1], 7) == "The old bridge is shut. A new"
    assert cut_summary(SENTENCES, [1], 2) == "Cats sleep"
    assert cut_summary(SENTENCES, [2], 100) == SENTENCES[2]


def test_scores_equal_counts_by_hand():
    rouge = Rouge()
    # Stems: the old bridg is shut | the bridg is veri old. Four of five words in common.
    found = rouge("The old bridge is shut", ["The bridge is very old", "Dogs bark"])
    assert found["rouge1"] == pytest.approx(80)
    assert found["rouge1_recall"] == pytest.approx(40)  # the mean over both references
    assert found["rouge2"] == pytest.approx(100 * 1 / 4)  # "bridg is" alone
    assert found["rougeL"] == pytest.approx(100 * 3 / 5)  # the bridg is


def test_tables_have_paired_differences_and_baselines():
    items = [SummarizationItem(SENTENCES, (reference,)) for reference in SENTENCES * 4]
    results = Results(model="m", command="", seed=0)
    perfect = iter([place for _ in range(2) for place in (0, 1, 2) for _ in range(1)] * 10)
    rankers = {
        "perfect": lambda sentences: [next(perfect) % 3],
        "last": lambda sentences: [2, 1, 0],
    }
    compare_rankers(results, "Set", items, rankers, 5, num_random=2, note="A note.")
    [table] = results.tables
    assert [row[0] for row in table.rows] == [
        "perfect", "last", "first sentences", "random sentences",
    ]  # fmt: skip
    assert results.metric("Set/rouge1/perfect").value == pytest.approx(100, abs=8)
    last = score_ranker(items, rankers["last"], 5, Rouge())["rouge1"]
    assert results.metric("Set/rouge1/last").value == pytest.approx(float(np.mean(last)))
    assert table.rows[0][-1] == "" and table.rows[1][-1].startswith("-")
    assert "A note." in table.note


def test_random_orders_are_seeded_and_differ_between_texts():
    one, two = random_ranker(3), random_ranker(3)
    sentences = [str(n) for n in range(30)]
    orders = [one(sentences), one(sentences)]
    assert orders[0] != orders[1]
    assert [two(sentences), two(sentences)] == orders
    assert list(lead(sentences)) == list(range(30))
