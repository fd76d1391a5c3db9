"""Words of any tokenizer, with their exact places in the text."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from salhub.models.verbalizer.words import Words
from tests.models.verbalizer.networks import TEXTS, bert_tokenizer, own_tokenizer


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<pad>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TOKENIZERS = {
    "word pieces": bert_tokenizer,
    "ours": own_tokenizer,
    "bytes": byte_level_tokenizer,
    "metaspace": metaspace_tokenizer,
}


def words_of(tokenizer: PreTrainedTokenizerFast, text: str, word_level: bool = True) -> Words:
    encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    special = np.array(encoding["special_tokens_mask"], dtype=bool)
    word_ids = encoding.word_ids() if word_level else None
    return Words.of_encoding(text, np.array(encoding["offset_mapping"]), word_ids, special)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_slices_of_the_text_and_leave_nothing_out(name, text):
    words = words_of(TOKENIZERS[name](), text)
    starts, ends = words.spans[:, 0], words.spans[:, 1]
    assert (starts[1:] >= ends[:-1]).all() and (ends > starts).all()
    assert all(word == word.strip() for word in words.strings)
    between = text[: starts[0]] + "".join(
        text[a:b] for a, b in zip(ends, [*starts[1:], len(text)], strict=True)
    )
    assert not between.strip(), between


def test_pieces_are_joined_to_words_and_their_scores_added():
    tokenizer = bert_tokenizer()
    text = "good plot."
    words = words_of(tokenizer, text)
    assert words.strings == ["good", "plot", "."]
    assert words.is_punctuation.tolist() == [False, False, True]
    count = len(tokenizer(text)["input_ids"])
    scores = np.arange(count, dtype=float)
    scores[2] = -9
    expected = [
        sum(scores[place] for place in range(count) if words.token_words[place] == word)
        for word in range(3)
    ]
    assert words.merged(scores, "sum").tolist() == expected
    assert words.merged(scores, "max_abs").tolist() == [-9.0, scores[8], scores[9]]


def test_tokens_can_be_words_themselves():
    assert words_of(bert_tokenizer(), "good", word_level=False).strings == list("good")


def test_bytes_of_one_character_are_one_word_even_token_by_token():
    words = words_of(byte_level_tokenizer(), "a 🎬 b", word_level=False)
    assert words.strings == ["a", "🎬", "b"]


def test_given_words_are_joined_by_spaces():
    words = Words.of_tokens(["a", "", "film"])
    assert words.text == "a  film" and words.strings == ["a", "", "film"]
    assert words[0:3] == "a  film"


def llama_tokenizer(split: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    # No merges, so that no token reaches over two words.
    trainer = trainers.BpeTrainer(vocab_size=1, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, "isn't it 3.5 (so) snake_case\n7"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("split", [True, False])
def test_words_do_not_depend_on_what_the_tokenizer_calls_a_word(split):
    tokenizer = llama_tokenizer(split)
    words = words_of(tokenizer, "a warm film, isn't it (so)\nwitty.")
    assert words.strings == [
        "a", "warm", "film", ",", "isn't", "it", "(", "so", ")", "witty", ".",
    ]  # fmt: skip
    assert words_of(tokenizer, "3.5 snake_case 7").strings == ["3.5", "snake_case", "7"]


def test_a_script_without_spaces_has_more_than_one_word():
    for split in (True, False):
        words = words_of(llama_tokenizer(split), "这部电影很好看,但是结尾太长。")
        assert len(words) == 15 and "," in words.strings
        assert "".join(words.strings) == words.text


@pytest.mark.parametrize("text", ["नमस्ते दुनिया", "e\u0301te\u0301 cafe\u0301"])
def test_no_word_is_cut_at_a_combining_mark(text):
    for tokenizer in (byte_level_tokenizer(), llama_tokenizer(False)):
        assert words_of(tokenizer, text).strings == text.split()


def test_a_token_over_two_words_joins_them():
    offsets, special = np.array([[0, 3], [3, 6]]), np.zeros(2, dtype=bool)
    words = Words.of_encoding("a b cd", offsets, [0, 0], special)
    assert words.strings == ["a b", "cd"] and words.token_words.tolist() == [0, 1]


def test_the_end_of_a_word_is_not_named_alone():
    words = Words.of_tokens(["is", "n't", "it", "'s", "good"])
    assert words.are_weak(np.array([0, 0.9, 0, 0.5, 0.4])).tolist() == [
        True,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("name", ["ours", "bytes", "metaspace"])
def test_an_ending_that_was_cut_off_belongs_to_its_word(name):
    text = "it 's n't the film\u2019s end , and they 'll do n\u2019t 's"
    words = words_of(TOKENIZERS[name](), text)
    assert words.strings == [
        "it 's n't", "the", "film\u2019s", "end", ",", "and", "they 'll", "do n\u2019t 's",
    ]  # fmt: skip
    named = Words.of_tokens(["is n't", "they 'll", "film 's", "it's"])
    assert named.is_function_word.tolist() == [False, True, False, True]
