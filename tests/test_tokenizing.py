"""Tokenizers that are missing, the lengths that networks take, and batches that stay in memory."""

import pytest
import torch
import transformers

from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.sentence_encoder import SentenceEncoder
from salhub.tokenizing import batches_of, load_tokenizer, refuse_empty, token_limit
from tests.models.verbalizer.networks import bert, bert_tokenizer

SIZES = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "num_labels": 2,
}  # fmt: skip
LIMITS = {
    "Bert": ({"max_position_embeddings": 40}, 40),
    "Roberta": ({"max_position_embeddings": 42}, 40),
    "XLMRoberta": ({"max_position_embeddings": 42}, 40),
    "Camembert": ({"max_position_embeddings": 42}, 40),
    "MPNet": ({"max_position_embeddings": 42}, 40),
    "RobertaPreLayerNorm": ({"max_position_embeddings": 42}, 40),
    "Data2VecText": ({"max_position_embeddings": 42}, 40),
    "Longformer": ({"max_position_embeddings": 45, "attention_window": [8]}, 40),
    "BigBird": ({"max_position_embeddings": 43, "block_size": 8}, 40),
    "OPT": ({"max_position_embeddings": 40, "ffn_dim": 16, "word_embed_proj_dim": 16}, 40),
    "GPT2": ({"n_positions": 40}, 40),
    "Bloom": ({}, None),
}


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **LIMITS[kind][0])
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


@pytest.mark.parametrize("kind", LIMITS)
def test_a_network_takes_as_many_tokens_as_its_positions_allow(kind):
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = 10**30
    own = network(kind)
    own.config.pad_token_id = 1
    limit = token_limit(own, tokenizer)
    assert limit == LIMITS[kind][1]
    model = SaliencyVerbalizerModel.from_classifier(own)
    ids = torch.full((2, limit or 50), 5)
    assert model(ids, baseline_token=1).logits.shape == (2, 2)
    tokenizer.model_max_length = 17
    assert token_limit(own, tokenizer) in (16, 17)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta", "XLNet", "DebertaV2", "GPT2"])
def test_a_folder_without_a_tokenizer_is_refused(kind, tmp_path):
    config = getattr(transformers, f"{kind}Config")()
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="' has no tokenizer, so every word would be unknown; save it"
    ):
        load_tokenizer(tmp_path)
    # A note about the tokenizer is none.
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).tokenize("ab") == ["a", "##b"]
    refuse_empty(bert_tokenizer(), "")


def test_a_sentence_encoder_without_a_tokenizer_is_refused_and_positions_are_kept_to(tmp_path):
    own = transformers.RobertaModel(
        transformers.RobertaConfig(**SIZES, max_position_embeddings=42, pad_token_id=1)
    )
    own.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer"):
        SentenceEncoder(str(tmp_path))
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    encode = SentenceEncoder(str(tmp_path))
    texts = ["a " * 90, "b", "a b c", "b"]
    together = encode(texts)
    assert together.shape == (4, 16)
    for text, vector in zip(texts, together, strict=True):
        assert abs(encode([text])[0] - vector).max() < 1e-6


def test_batches_hold_few_long_texts():
    lengths = [4, 9, 300, 400, 5000, 60_000]
    assert [*batches_of(range(6), lengths, 2)] == [[0, 1], [2, 3], [4], [5]]
    assert [*batches_of([], [], 3)] == []
    assert max(map(len, batches_of(range(100), [512] * 100, 64))) == 32


def test_a_classifier_comes_with_its_tokenizer(tmp_path):
    import salhub

    bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer.*or give tokenizer="):
        salhub.pipeline("verbalizer", classifier=tmp_path)
    empty = transformers.BertTokenizerFast()
    with pytest.raises(ValueError, match="has no tokenizer"):
        salhub.pipeline("verbalizer", classifier=tmp_path, tokenizer=empty)
