"""The pipeline of summaries: what it takes, and ways to look at what it gives."""

import json
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import salhub
from salhub.data.samples import sample_text_path

NAME = "salhub/lexrank-news-en"
ARTICLE = salhub.load_text("sample:article")
HOSTILE = "<b>Bold</b> & “quoted” is old. The old <i>bridge</i> is shut. Cats sleep. 🙂 你好。"


@pytest.fixture(scope="module")
def summarise():
    return salhub.pipeline(NAME)


def test_a_text_a_file_and_several_texts(summarise):
    text = summarise(ARTICLE, budget=2).text
    assert summarise(sample_text_path("article"), budget=2).text == text
    assert summarise("sample:article", budget=2).text == text
    first, second = summarise([ARTICLE, HOSTILE], budget=2)
    assert first.text == text and second.text == summarise(HOSTILE, budget=2).text
    assert summarise([]) == []
    together = summarise([ARTICLE, HOSTILE], together=True, budget=2)
    assert {sentence.document for sentence in together.sentences} == {0, 1}
    split = summarise([["One old bridge.", "Cats sleep."]], together=True, budget=1)
    assert split.text in ("One old bridge.", "Cats sleep.")
    [alone] = summarise([["One old bridge.", "Cats sleep."]], budget=1)
    assert [sentence.document for sentence in alone.sentences] == [0, 0]
    for one in (ARTICLE, sample_text_path("article")):
        assert summarise(one, together=True, budget=2).text == text


def test_settings_of_the_call_and_of_the_model(summarise):
    assert len(summarise(ARTICLE, budget=5).chosen) == 5
    assert "shop" in summarise(ARTICLE, budget=1, query="shopkeepers").text.lower()
    other = salhub.pipeline(NAME, threshold=0.3, redundancy=None)
    assert other.model.config.threshold == 0.3
    with pytest.raises(ValueError, match=r"no setting 'bugdet'.*Did you mean 'budget'"):
        summarise(ARTICLE, bugdet=3)
    with pytest.raises(ValueError, match="no sentences to rank"):
        summarise("  ")


def test_files_of_a_result(summarise, tmp_path):
    result = summarise(HOSTILE, budget=2)
    for suffix in (".txt", ".html", ".png", ".jpg", ".json"):
        result.save(tmp_path / f"summary{suffix}")
    assert (tmp_path / "summary.txt").read_text(encoding="utf-8") == result.text + "\n"
    page = (tmp_path / "summary.html").read_text(encoding="utf-8")
    assert "<b>" not in page and "<i>" not in page
    assert "".join(unescape(part) for part, _ in result.shaded()) == HOSTILE
    record = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert record["summary"] == result.text
    for sentence in record["sentences"]:
        assert HOSTILE[sentence["start"] : sentence["end"]] == sentence["text"]
    assert [record["sentences"][n]["chosen"] for n in record["chosen"]] == [True, True]
    with Image.open(tmp_path / "summary.png") as picture:
        assert picture.width > 700
        # The strongest shade is there.
        assert (np.asarray(picture) == (255, 190, 60)).all(-1).any()
    with pytest.raises(ValueError, match=r"' has an unknown ending; use one of \.txt"):
        result.save(Path("summary.npy"))


def test_comparisons_show_every_summary(summarise):
    results = {"one": summarise(ARTICLE, budget=1), "two": summarise(ARTICLE, budget=4)}
    assert summarise.compare(results).height > summarise.compare({"one": results["one"]}).height
    with pytest.raises(ValueError, match="There are no results to compare"):
        summarise.compare({})


def test_a_text_by_name_is_a_text():
    summarise = salhub.pipeline("lexrank-news-en")
    text = "The bridge is old. Cats sleep."
    alone = summarise(text, budget=1).text
    assert summarise({"text": text}, budget=1).text == alone
    assert summarise({"text": text}, budget=1, together=True).text == alone
    for wrong in ({"text": text, "text_pair": text}, {"article": text}):
        with pytest.raises(ValueError, match="A text given as a dictionary"):
            summarise(wrong)
