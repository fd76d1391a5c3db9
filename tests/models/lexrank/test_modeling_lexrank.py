"""The model class: saving, loading, batches, and what it refuses."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from salhub import LexRankConfig, LexRankModel
from tests.testers import BatchTester, SavingTester

TEXTS = ["The bridge is old.", "The old bridge is shut.", "Cats sleep.", "The town is old."]


def similarities(batch: int = 3, number: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(
        torch.rand(batch, number, 4, generator=generator), dim=-1
    )
    return vectors @ vectors.mT


class TestLexRankModel(SavingTester, BatchTester):
    model_class = LexRankModel
    shipped = ("salhub/lexrank-news-en", "salhub/lexrank-minilm")
    half_tolerance = 0.03

    def config(self):
        return LexRankConfig(threshold=0.7, vocab_size=2, vocab_bytes=3, num_documents=5)

    def inputs(self):
        mask = torch.ones(3, 6)
        mask[1, 4:] = 0
        return {"similarity": similarities(), "attention_mask": mask}

    def bad_inputs(self):
        good = similarities()
        lopsided, infinite = good.clone(), good.clone()
        lopsided[1, 2, 3] += 0.1
        infinite[2, 0, 1] = infinite[2, 1, 0] = float("nan")
        return [
            ({"similarity": [[1.0]]}, TypeError, "floating-point tensor, got list"),
            ({"similarity": good.long()}, TypeError, r"got torch\.int64"),
            ({"similarity": good[:, :5]}, ValueError, r"\(B, N, N\), got \(3, 5, 6\)"),
            ({"similarity": lopsided}, ValueError, r"transposed entry at \(1, 2, 3\)"),
            ({"similarity": infinite}, ValueError, r"is not finite at \(2, 0, 1\)"),
            ({"attention_mask": torch.ones(3, 5)}, ValueError, r"\(3, 6\), got \(3, 5\)"),
            ({"attention_mask": torch.zeros(3, 6)}, ValueError, "keep at least one"),
            ({"personalization": -torch.ones(3, 6)}, ValueError, "finite, 0 or more"),
        ]


def test_half_precision_is_that_of_the_weights_and_of_the_scores(tmp_path):
    LexRankModel(TestLexRankModel().config()).save_pretrained(tmp_path)
    model = LexRankModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.idf.dtype == torch.bfloat16
    assert model(similarities().bfloat16()).scores.dtype == torch.bfloat16


def test_padding_has_no_share_and_a_matrix_needs_no_batch():
    model, matrix = LexRankModel(LexRankConfig()), similarities(1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    found = model(matrix, attention_mask=mask)
    assert found.scores[0, 4:].tolist() == [0, 0]
    alone = model(matrix[0, :4, :4])
    assert alone.scores.shape == (4,)
    assert found.scores[0, :4].tolist() == pytest.approx(alone.scores.tolist(), abs=1e-6)


@pytest.mark.parametrize(("how", "expected"), [("sum", 1.0), ("mean", 6.0)])
def test_scores_are_scaled_as_asked_for(how, expected):
    model = LexRankModel(LexRankConfig(normalize=how))
    assert model(similarities()).scores.sum(-1).tolist() == pytest.approx([expected] * 3)
    highest = LexRankModel(LexRankConfig(normalize="max"))
    assert highest(similarities()).scores.amax(-1).tolist() == [1, 1, 1]
    texts = LexRankModel(LexRankConfig(normalize=how, idf="uniform")).rank(TEXTS)
    assert texts.scores.sum().item() == pytest.approx(expected * (4 / 6 if how == "mean" else 1))


def test_negative_similarities_are_clipped_shifted_or_refused():
    matrix = torch.tensor(
        [[1.0, -0.5, 0.2], [-0.5, 1.0, 0.0], [0.2, 0.0, 1.0]], dtype=torch.float64
    )
    clipped = LexRankModel(LexRankConfig(negative="clip"))(matrix)
    assert clipped.degrees.tolist() == pytest.approx([1.2, 1.0, 1.2])
    shifted = LexRankModel(LexRankConfig(negative="shift"))(matrix)
    assert shifted.degrees.tolist() == pytest.approx([1.85, 1.75, 2.1])
    with pytest.raises(
        ValueError, match=r"below 0; set negative='clip' or negative='shift' at \(0, 1"
    ):
        LexRankModel(LexRankConfig(negative=None))(matrix)


# --- the collection -----------------------------------------------------------------------------


def test_rareness_is_counted_one_text_at_a_time_and_survives_saving(tmp_path):
    seen = []

    def collection():
        for text in ["a b", "a c", "a b d"]:
            seen.append(text)
            yield text

    model = LexRankModel(LexRankConfig()).fit_idf(collection(), min_documents=1)
    assert len(seen) == 3 and model.config.num_documents == 3
    log = torch.tensor([3 / 3, 3 / 2, 3.0, 3.0]).log()
    assert list(model.vocabulary) == ["a", "b", "c", "d"]
    assert model.idf.tolist() == pytest.approx(log.tolist())
    model.save_pretrained(tmp_path)
    for loaded in (LexRankModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert loaded.vocabulary == model.vocabulary and torch.equal(loaded.idf, model.idf)
        sentences = ["a b", "b d", "a c", "x y"]
        assert torch.equal(loaded.rank(sentences).scores, model.rank(sentences).scores)


def test_words_of_one_text_weigh_the_same_whether_they_are_kept_or_not():
    texts = ["a b", "a c", "b d a", "e f"]
    full, short = (
        LexRankModel(LexRankConfig()).fit_idf(texts, min_documents=least) for least in (1, 2)
    )
    assert len(short.vocabulary) < len(full.vocabulary)
    sentences = ["a b c", "c d new", "e f new"]
    assert short.rank(sentences).scores.tolist() == pytest.approx(
        full.rank(sentences).scores.tolist()
    )


def test_collections_that_say_nothing_are_refused():
    model = LexRankModel(LexRankConfig())
    with pytest.raises(TypeError, match="takes several texts"):
        model.fit_idf("one text")
    with pytest.raises(ValueError, match="max_words must be 1 or more, got -5"):
        model.fit_idf(["a", "b"], max_words=-5)
    with pytest.raises(ValueError, match="at least two texts, got 1"):
        model.fit_idf(["one text"])
    with pytest.raises(TypeError, match="must be a str, got bytes"):
        model.fit_idf([b"a", b"b"])
    with pytest.raises(ValueError, match="no word occurs in 2 or more texts"):
        model.fit_idf(["a", "b"])


# --- sentences ----------------------------------------------------------------------------------


def test_sentences_that_cannot_be_ranked_are_refused():
    model = LexRankModel(LexRankConfig(idf="uniform"))
    with pytest.raises(TypeError, match="must be a list of texts, got one text"):
        model.rank("One sentence.")
    with pytest.raises(TypeError, match="must be a str, got bytes"):
        model.rank([b"One."])
    for nothing in ([], ["", "  \n"]):
        with pytest.raises(ValueError, match="no sentences"):
            model.rank(nothing)
    with pytest.raises(ValueError, match="2 sentences and 3 documents"):
        model.rank(["One.", "Two."], documents=[0, 0, 1])


def test_one_sentence_equal_sentences_and_sentences_without_words():
    model = LexRankModel(LexRankConfig(idf="uniform"))
    assert model.rank(["One."]).scores.tolist() == [1]
    assert model.rank(["Same."] * 4).scores.tolist() == pytest.approx([0.25] * 4)
    found = model.rank(["The bridge.", "The bridge is old.", "The bridge fell.", "🙂 !!"])
    assert found.degrees[3] == 1
    # Whoever is there stays or jumps, and whoever jumps comes as often as leaves.
    assert found.scores[3].item() == pytest.approx(0.25) and found.scores.max() > 0.25


def test_without_a_collection_rareness_is_counted_in_what_is_ranked(caplog):
    fresh, cluster = LexRankModel(LexRankConfig()), LexRankModel(LexRankConfig(idf="cluster"))
    assert torch.equal(fresh.rank(TEXTS).scores, cluster.rank(TEXTS).scores)
    assert "No collection was fitted" in caplog.text
    # In one text every word would be as common as can be, so sentences are what is counted.
    single = cluster.rank(TEXTS, documents=[0] * 4).scores
    assert torch.equal(single, cluster.rank(TEXTS).scores)
    several = cluster.rank(TEXTS, documents=[0, 0, 1, 1]).scores
    assert not torch.equal(single, several)


def test_clusters_have_a_threshold_of_their_own():
    model = LexRankModel(LexRankConfig(idf="uniform", cluster_threshold=0.1))
    assert model.rank(TEXTS).degrees.frac().any()
    assert not model.rank(TEXTS, documents=[0, 0, 1, 1]).degrees.frac().any()


def test_a_walk_that_does_not_come_to_rest_is_told(caplog):
    LexRankModel(LexRankConfig(idf="uniform", max_iterations=1)).rank(TEXTS)
    assert "still moved by" in caplog.text and "raise max_iterations" in caplog.text


def test_a_query_that_nothing_answers_is_left_out(caplog):
    model = LexRankModel(LexRankConfig(idf="uniform"))
    assert torch.equal(model.rank(TEXTS, query="xyz").scores, model.rank(TEXTS).scores)
    assert "random jumps" not in caplog.text and "in common with it" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 1.0}, "threshold must be at least 0 and below 1, got 1"),
        ({"damping": 0}, "damping must be above 0 and at most 1, got 0"),
        ({"negative": "clipp"}, "Did you mean 'clip'"),
        ({"representation": "embedding"}, "needs an encoder"),
        ({"solver": "matrix_free", "threshold": 0.1}, "set threshold=None"),
        ({"solver": "matrix_free", "top_edges": 3}, "set top_edges=None"),
        ({"stopwords": "xx"}, "no list of stop words for 'xx'; lists exist for en"),
        ({"redundancy_limit": 2.0}, "must be at least 0 and at most 1, got 2"),
        ({"top_edges": 0}, "top_edges must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        LexRankConfig(**settings)


def test_stop_words_and_stems():
    model = LexRankModel(LexRankConfig(idf="uniform", stopwords="en", stemmer="english"))
    assert model.read_words("The bridges were closing") == ["bridg", "close"]
    own = LexRankModel(LexRankConfig(idf="uniform", stopwords=["Bridges"]))
    assert own.read_words("The bridges") == ["the"]
    with pytest.raises(ValueError, match="Did you mean 'english'"):
        LexRankModel(LexRankConfig(stemmer="englsh")).rank(TEXTS)


# --- encoders -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A tiny encoder of random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    words = sorted({word.strip(".").lower() for text in TEXTS for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    from transformers import BertTokenizer

    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("negative", ["clip", "shift"])
def test_vectors_of_an_encoder_instead_of_words(encoder, negative):
    settings = {"representation": "embedding", "encoder": encoder, "negative": negative}
    model = LexRankModel(LexRankConfig(**settings, tolerance=1e-12))
    tokens = AutoTokenizer.from_pretrained(encoder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(encoder).eval()(**tokens).last_hidden_state.double()
    mask = tokens["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    plain = LexRankModel(LexRankConfig(negative=negative, tolerance=1e-12))(vectors @ vectors.T)
    assert model.rank(TEXTS).scores.tolist() == pytest.approx(plain.scores.tolist(), abs=1e-6)


def test_words_and_vectors_together(encoder):
    settings = {
        "representation": "hybrid",
        "encoder": encoder,
        "idf": "uniform",
        "negative": "shift",
    }
    ends = [
        LexRankModel(LexRankConfig(**settings, lexical_weight=weight)).rank(TEXTS).scores
        for weight in (0.0, 0.5, 1.0)
    ]
    words = LexRankModel(LexRankConfig(idf="uniform")).rank(TEXTS).scores
    assert ends[2].tolist() == pytest.approx(words.tolist(), abs=1e-6)
    assert not torch.allclose(ends[0], ends[1]) and not torch.allclose(ends[1], ends[2])


def test_an_encoder_that_is_not_there_and_sentences_that_are_cut(encoder, caplog):
    missing = LexRankConfig(representation="embedding", encoder="nowhere/at-all")
    with pytest.raises(
        OSError,
        match=r"sentence encoder 'nowhere/at-all' cannot be loaded: The model .* was not found",
    ):
        LexRankModel(missing).rank(TEXTS)
    model = LexRankModel(LexRankConfig(representation="embedding", encoder=encoder))
    model.rank(["old " * 30, "bridge"])
    assert "1 sentences were cut to 12 tokens" in caplog.text


def test_a_query_without_jumps_is_told_to_change_nothing(caplog):
    for settings in ({"centrality": "degree"}, {"damping": 1.0}):
        caplog.clear()
        model = LexRankModel(LexRankConfig(idf="uniform", **settings))
        assert torch.equal(model.rank(TEXTS, query="old").scores, model.rank(TEXTS).scores)
        assert "it steers the random jumps of the walk" in caplog.text


@pytest.mark.parametrize("threshold", [None, 0.1])
def test_groups_that_a_walk_without_jumps_never_leaves_are_told(caplog, threshold):
    model = LexRankModel(LexRankConfig(idf="uniform", damping=1.0, threshold=threshold))
    model.rank(["The bridge.", "The bridge fell."])
    assert "never leaves a group" not in caplog.text
    model.rank([*TEXTS, "cats sleep"])
    assert "never leaves a group" in caplog.text


def test_a_collection_of_equal_texts_says_nothing_of_rareness(caplog):
    model = LexRankModel(LexRankConfig()).fit_idf(["old bridge cats sleep"] * 2)
    uniform = LexRankModel(LexRankConfig(idf="uniform"))
    known = ["Old bridge.", "Bridge cats.", "Cats sleep sleep."]
    assert model.rank(known).scores.tolist() == pytest.approx(uniform.rank(known).scores.tolist())
    assert "all words count equally" in caplog.text


def test_sentences_without_words_count_alike_however_many_there_are(encoder, monkeypatch):
    settings = {"representation": "hybrid", "encoder": encoder, "idf": "uniform"}
    model = LexRankModel(LexRankConfig(**settings, tolerance=1e-12))
    sentences = [*TEXTS, "🙂", "!!!"]
    few = model.rank(sentences).scores
    monkeypatch.setattr("salhub.models.lexrank.similarity_graph.MAX_DENSE", 2)
    many = model.rank(sentences).scores
    assert many.tolist() == pytest.approx(few.tolist(), abs=1e-6)


def test_a_matrix_that_does_not_come_to_rest_is_told(caplog):
    LexRankModel(LexRankConfig(max_iterations=1))(similarities())
    assert "A walk has not converged: it still moved by" in caplog.text
