"""The tokenizer of the small text classifier, learned from its training texts."""

from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN = "[PAD]", "[UNK]"
# Chinese characters and marks one by one, other words whole, and contractions cut as in the Penn
# Treebank: "isn't" is "is" and "n't".
_LETTERS = r"[\w&&[^\p{Han}]]"
_APOSTROPHE = "['\u2019]"
_WORDS = Regex(
    rf"\p{{Han}}|{_LETTERS}+?(?=n{_APOSTROPHE}t\b)|n{_APOSTROPHE}t\b|{_APOSTROPHE}{_LETTERS}+"
    rf"|{_LETTERS}+|[^\w\s]"
)
_MAX_LENGTH = 512
_MAX_CHARACTERS = 200
# Endings that unknown words may be cut into, such as "##ness", and their lengths.
_MAX_ENDINGS = 500
_ENDING_LENGTHS = range(2, 6)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, more_texts: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Make a WordPiece vocabulary of lower-cased words without accents.

    First come characters and frequent endings, which unknown words are cut into; then the words of
    the texts that occur twice or more, and then those of all texts, the most frequent first. The
    same texts always give the same tokens.

    Args:
        texts: Training texts.
        vocab_size: Most tokens, "[PAD]" (0) and "[UNK]" (1) included.
        more_texts: Texts without labels, whose words are good to know too.

    Returns:
        A fast tokenizer, so that every token knows its place in the text.

    Raises:
        ValueError: Fewer than 3 tokens were asked for.

    Source: Wu et al. 2016 (arXiv 1609.08144), section 4.1, for cutting words, longest piece first;
        the vocabulary of whole words and endings is ours.

    Example:
        >>> tokenizer = train_tokenizer(["a good film", "a bad film"], vocab_size=40)
        >>> tokenizer.tokenize("a filma")
        ['a', 'film', '##a']
    """
    if vocab_size < 3:
        raise ValueError(f"vocab_size must be at least 3, got {vocab_size}.")
    steps = [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
    normalizer = normalizers.Sequence(steps)
    cut = pre_tokenizers.Split(_WORDS, behavior="removed", invert=True)

    def words(of: Iterable[str]) -> Iterator[str]:
        for text in of:
            pieces = cut.pre_tokenize_str(normalizer.normalize_str(text))
            yield from (piece for piece, _ in pieces)

    own = Counter(words(texts))
    tokens = _vocabulary(own, own + Counter(words(more_texts)), vocab_size)
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cut
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=_MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def _vocabulary(own: Counter[str], words: Counter[str], size: int) -> dict[str, int]:
    characters, endings = Counter(), Counter()
    for word, count in words.items():
        characters.update({character: count * word.count(character) for character in set(word)})
        endings.update(word[-length:] for length in _ENDING_LENGTHS if length < len(word) - 1)
    letters = _by_count(characters)[:_MAX_CHARACTERS]
    # Half of the room at most is for pieces of words.
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    pieces += [f"##{ending}" for ending in _by_count(endings)[:_MAX_ENDINGS]]
    frequent = Counter({word: count for word, count in own.items() if count > 1})
    ordered = [PAD, UNKNOWN, *pieces[: size // 2], *_by_count(frequent), *_by_count(words)]
    return {token: index for index, token in enumerate(list(dict.fromkeys(ordered))[:size])}


def _by_count(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda token: (-counts[token], token))
