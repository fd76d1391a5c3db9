"""The pipeline of explanations in words: what it takes, and ways to look at what it gives."""

import json
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import salhub
from salhub.data.samples import sample_text_path
from salhub.hub import bundled_model
from salhub.models.verbalizer.configuration_verbalizer import LANGUAGES, VerbalizerConfig
from salhub.models.verbalizer.realization import templates_of
from salhub.viz.text import percentage
from tests.models.verbalizer.networks import bert, bert_tokenizer

MOVIES, NEWS = "salhub/verbalizer-movie-reviews", "salhub/verbalizer-news-topics"
REVIEW = salhub.load_text("sample:review")
HARD = {
    "html": 'A <script>alert("x")</script> wonderful & <b>moving</b> film.',
    "emoji": "wonderful 🎬🎬 film, so moving 👩‍👩‍👧!",
    "arabic": "فيلم جميل جدا wonderful لكن النهاية طويلة",
    "chinese": "这部电影 wonderful 很好看。",
    "hindi": "यह फ़िल्म wonderful अच्छी है।",
    "marks": "wonderful » film « with “quotes” and 'more', 100 % moving.",
}


@pytest.fixture(scope="module")
def explain():
    return salhub.pipeline(MOVIES)


@pytest.mark.parametrize("name", [MOVIES, NEWS])
def test_shipped_models_load_completely_and_say_something_true(name):
    pipe = salhub.pipeline(name)
    result = pipe("The team won the cup with a wonderful goal.")
    assert result.audit["is_faithful"] and result.phrases and result.coverage > 0.5
    assert result.found.convergence_delta < 0.05
    _, info = type(pipe.model).from_pretrained(name, output_loading_info=True)
    assert not any(info.values())
    assert bundled_model(name).bytes < 4 * 2**20
    assert pipe.model.config.name_or_path == name


def test_what_a_result_says(explain):
    result = explain("A wonderful film, but far too long.")
    assert result.label == "positive" and result.label_id == 1 and result.probability > 0.5
    assert result.phrases[0].text == "wonderful" or "wonderful" in result.text
    assert result.tokens[:3] == ["A", "wonderful", "film"]
    assert result.scores.dtype == np.float32 and result.offsets.shape == (len(result.tokens), 2)
    assert set(result.searches) == {"convolution", "span", "total_order", "compare"}
    assert MOVIES in repr(result)


def test_a_text_a_file_and_several_texts(explain):
    text = explain(REVIEW).text
    assert explain("sample:review").text == text
    assert explain(sample_text_path("review")).text == text
    first, second = explain([REVIEW, "Dull."], batch_size=1)
    assert first.text == text and second.text == explain("Dull.").text
    assert explain(iter([REVIEW]))[0].text == text
    assert explain([]) == []


def test_another_class_and_a_contrast(explain):
    other = explain(REVIEW, class_labels="negative")
    assert other.label == "negative" and other.probability < 0.5
    own = f"The classifier's own answer is “positive” ({percentage(1 - other.probability)})."
    assert other.notes == other.to_dict()["notes"] == [own] and own in unescape(other.html())
    assert other.summary().startswith(f"{own} Would be rated negative ")
    assert other.audit["is_faithful"]
    assert explain(REVIEW, class_labels="positive").notes == explain(REVIEW).notes == []
    contrast = explain(REVIEW, contrast="negative")
    assert contrast.text.startswith("Rated positive rather than negative ")
    assert contrast.to_dict()["contrast"] == "negative"
    with pytest.raises(ValueError, match="compared with itself"):
        explain(REVIEW, class_labels="positive", contrast="positive")
    with pytest.raises(ValueError, match=r"no class 'postive'\. Did you mean 'positive'"):
        explain(REVIEW, class_labels="postive")


def test_an_unsure_classifier_is_said_to_be_so_first_in_every_language():
    network, tokenizer = bert(), bert_tokenizer()
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor([0.0, 0.01, -9.0]))

    def notes(problem_type, **settings):
        network.config.problem_type = problem_type
        own = salhub.pipeline(
            "verbalizer", classifier=network, tokenizer=tokenizer, n_steps=1, **settings
        )
        result = own("a good plot.", class_labels="mixed")
        assert result.text.startswith(" ".join(result.notes))
        return result.notes[-2:] if result.notes else []

    wavers, answer = notes(None)
    assert wavers == "The classifier is undecided between “positive” (50 %) and “negative” (50 %)."
    assert answer == "The classifier's own answer is “positive” (50 %)."
    with torch.no_grad():
        network.classifier.bias.sub_(5)
    none, _ = notes("multi_label_classification", language="de")
    assert none.startswith("Der Klassifikator findet hier keine") and none.endswith("<\u00a01 %.")
    assert not any("positive" in note for note in notes(None, mask_label=True))
    names = {"unsure", "finds_none", "wavers", "own_answer", "verdict_asked"}
    for language in LANGUAGES:
        assert names <= templates_of(VerbalizerConfig(language=language)).keys()
        assert len(notes(None, language=language)) == 2


@pytest.mark.parametrize("kind", HARD)
def test_any_text_is_quoted_to_the_letter(explain, kind, tmp_path):
    text = HARD[kind]
    result = explain(text)
    assert result.audit["citation_precision"] == 1.0 and result.audit["is_faithful"]
    for phrase in result.phrases:
        for start, end in phrase.char_spans:
            assert text[start:end] in result.text
    assert "".join(part for part, _ in result.shaded()) == text
    page = result.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>" not in page
    for word in result.tokens:
        assert word in unescape(page)


def test_files_of_a_result(explain, tmp_path):
    result = explain(REVIEW)
    for suffix in (".txt", ".html", ".png", ".jpg", ".json"):
        result.save(tmp_path / f"explained{suffix}")
    assert (tmp_path / "explained.txt").read_text(encoding="utf-8") == result.text + "\n"
    record = json.loads((tmp_path / "explained.json").read_text(encoding="utf-8"))
    assert record["text"] == result.text and record["audit"]["is_faithful"]
    for word in record["words"]:
        assert REVIEW[word["start"] : word["end"]] == word["word"]
    with Image.open(tmp_path / "explained.png") as picture:
        assert picture.width > 400
    # A text of any length gives a picture that can be looked at.
    assert explain(REVIEW * 30).plot().height < 8000


def test_settings_of_the_model(explain):
    german = salhub.pipeline(MOVIES, language="de", max_words=2, max_phrases=1)
    result = german(REVIEW)
    assert "bewertet, vor allem wegen „" in result.text and result.audit["num_words"] <= 2
    for attribution in ("gradient_x_input", "occlusion", "random"):
        told = salhub.pipeline(MOVIES, attribution=attribution)("A wonderful film.")
        assert told.audit["is_faithful"]
    with pytest.raises(ValueError, match="The call has no setting 'clas_labels'; it has"):
        explain(REVIEW, clas_labels=1)
    with pytest.raises(ValueError, match="The text is empty"):
        explain(" ")
    with pytest.raises(TypeError, match="cannot be read from an object of type int"):
        explain(7)


def test_a_classifier_of_your_own(tmp_path):
    network = bert()
    own = salhub.pipeline("verbalizer", classifier=network, tokenizer=bert_tokenizer())
    result = own("a good plot.")
    assert result.label in ("negative", "positive", "mixed") and result.audit["is_faithful"]
    own.model.config.backbone_config.id2label = {0: "1", 1: "2", 2: "0"}
    asked = own("a good plot.", class_labels="2", contrast="0")
    assert (asked.label_id, asked.to_dict()["contrast"]) == (1, "0")
    network.save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    named = salhub.pipeline("verbalizer", classifier=str(tmp_path), n_steps=25)
    assert named("a good plot.").text == result.text
    with pytest.raises(ValueError, match=r"give tokenizer=\.\.\."):
        salhub.pipeline("verbalizer", classifier=network)


def test_a_model_that_is_already_loaded():
    model = salhub.SaliencyVerbalizerModel.from_pretrained(MOVIES)
    assert salhub.pipeline(model)("A wonderful film.").label == "positive"
    with pytest.raises(ValueError, match="'language' can be set only for a model loaded by name"):
        salhub.pipeline(model, language="de")


def test_a_chat_model_explains_and_is_held_to_the_map():
    asked = []

    def answer(messages):
        asked.append(messages)
        return "It is positive because of [1], which makes 3 % of it."

    told = salhub.pipeline(MOVIES, mode="instruct", chat=answer)("A wonderful film.")
    assert told.audit["source"] == "template" and told.text.startswith("Rated ")
    assert told.audit["before"]["numeric_faithfulness"] < 1.0
    assert told.to_dict()["llm_text"].endswith("3 % of it.") and len(asked) == 1
    marked = salhub.pipeline(MOVIES, mode="instruct", chat=answer, on_unfaithful="flag")
    assert marked("A wonderful film.").text.endswith("3 % of it.")
    with pytest.raises(ValueError, match="mode='instruct' needs a chat model"):
        salhub.pipeline(MOVIES, mode="instruct")


def test_several_models_are_compared_in_one_picture(explain):
    results = {"one": explain(REVIEW), "two": explain("Dull.")}
    picture = type(explain).compare(results)
    assert picture.width > 400
    with pytest.raises(ValueError, match="There are no results to compare"):
        type(explain).compare({})


def test_transformers_gives_the_same_pipeline():
    import transformers

    assert Path(sample_text_path("review")).is_file()
    task = transformers.pipelines.PIPELINE_REGISTRY.check_task("saliency-verbalization")
    assert task[1]["impl"].__name__ == "SaliencyVerbalizationPipeline"
    model = salhub.SaliencyVerbalizerModel.from_pretrained(MOVIES)
    explain = transformers.pipeline("saliency-verbalization", model=model)
    assert explain("A wonderful film.").text == salhub.pipeline(MOVIES)("A wonderful film.").text


def test_a_chat_model_that_fails_is_replaced_unless_strict():
    def answer(messages):
        raise ValueError("no luck")

    told = salhub.pipeline(MOVIES, mode="instruct", chat=answer)("A wonderful film.")
    assert told.audit["source"] == "template"
    strict = salhub.pipeline(MOVIES, mode="instruct", chat=answer, strict=True)
    with pytest.raises(RuntimeError, match="The chat function failed"):
        strict("A wonderful film.")
