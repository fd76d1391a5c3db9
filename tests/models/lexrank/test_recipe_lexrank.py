"""Counting words through the runner, and measuring summaries."""

import json

import pytest
from typer.testing import CliRunner

from salhub import LexRankConfig, LexRankModel
from salhub.cli import app
from salhub.models.lexrank.evaluation_lexrank import evaluate, ranker_of
from salhub.models.lexrank.evaluation_summaries import cut_summary
from salhub.models.lexrank.recipe_lexrank import LexRankArguments, LexRankRecipe
from salhub.models.lexrank.summarizing import summarize
from salhub.results import Results
from tests.evaluation.sharing import check_shared
from tests.testers.recipe import RecipeTester

TEXTS = ["The old bridge is shut.", "The new bridge is open.", "Cats and dogs sleep.", "Dogs bark."]


@pytest.fixture
def collection(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(TEXTS))
    return path


class TestLexRank(RecipeTester):
    @pytest.fixture
    def make(self, collection):
        def recipe(folder, **options):
            settings = {"data": str(collection), "cpu": True, "min_documents": 1, **options}
            return LexRankRecipe(LexRankArguments(output_dir=str(folder), **settings))

        return recipe


def test_it_takes_no_option_of_training(tmp_path, collection):
    command = ["train", "lexrank", f"data={collection}", f"output_dir={tmp_path / 'out'}"]
    said = CliRunner().invoke(app, [*command, "learning_rate=5"])
    assert said.exit_code == 2 and not (tmp_path / "out").exists()
    assert said.output.strip() == (
        "Error: The recipe 'lexrank' has no option 'learning_rate', because it takes no gradient "
        "steps; leave it out."
    )


def test_a_collection_becomes_a_model_by_one_command(tmp_path, collection):
    folder = tmp_path / "out"
    command = ["train", "lexrank", f"data={collection}", f"output_dir={folder}", "cpu=true"]
    said = CliRunner().invoke(app, [*command, "stopwords=en", "min_documents=1"])
    assert said.exit_code == 0, said.output
    model = LexRankModel.from_pretrained(folder)
    plain = LexRankModel(LexRankConfig(stopwords="en")).fit_idf(TEXTS, min_documents=1)
    assert model.vocabulary == plain.vocabulary
    assert model.rank(TEXTS).scores.tolist() == plain.rank(TEXTS).scores.tolist()
    results = Results.load(folder / "results.json")
    assert results.metric("texts").value == 4
    assert results.metric("words").value == len(plain.vocabulary)
    assert results.data["name"] == "texts.txt" and len(results.data["fingerprint"]) == 16
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_a_collection_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    command = ["train", "lexrank", "data=none.txt", f"output_dir={tmp_path / 'out'}", "cpu=true"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 1 and "does not exist; give a folder or file of texts" in said.output
    assert not (tmp_path / "out").exists()


def test_evaluation_measures_what_the_model_would_choose(tmp_path):
    rows = [
        {"sentences": [*TEXTS, "The bridge is old."], "references": ["The old bridge is shut."]},
        {"sentences": TEXTS[::-1], "references": ["Dogs bark.", "Cats sleep."]},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    model = LexRankModel(LexRankConfig(idf="uniform"))
    found = evaluate(
        model, path, clusters=str(path), budget=5, cluster_budget=3, half="all", progress=False
    )
    assert [table.title for table in found.tables] == ["Texts", "Clusters"]
    names = [row[0] for row in found.tables[0].rows]
    assert names[0] == "this model" and "threshold 0.1" in names and "first sentences" in names
    assert found.metric("Texts/rouge1/this model").n == 2
    files = {"texts": "set.jsonl", "clusters": "set.jsonl"}
    assert found.data == {"name": "set", "half": "all", **files}
    short = evaluate(model, path, half="test", variants=False, progress=False)
    assert len(short.tables[0].rows) == 3 and short.metric("Texts/rouge1/this model").n == 1


def test_a_ranking_is_what_summaries_of_any_length_begin_with():
    model = LexRankModel(LexRankConfig(idf="uniform", redundancy=None))
    sentences = [TEXTS[0], "  ", *TEXTS[1:]]
    ranking = ranker_of(model)(sentences)
    assert sorted(ranking) == [0, 2, 3, 4]  # blank ones are never chosen
    best = summarize(model, [sentences], budget=1).text
    assert cut_summary(sentences, ranking, len(best.split())) == best


def test_two_jobs_measure_what_one_measures(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"sentences": TEXTS, "references": ["Dogs bark."]}))
    model = LexRankModel(LexRankConfig(idf="uniform"))
    jobs = check_shared(
        lambda: evaluate(model, path, budget=5, half="all", progress=False), tmp_path / "rows"
    )
    assert jobs == 2
