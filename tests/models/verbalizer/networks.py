"""Small text classifiers and tokenizers for the verbalizer's tests."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from salhub.backbones.text_classifier.configuration_text_classifier import TextClassifierConfig
from salhub.backbones.text_classifier.modeling_text_classifier import (
    TextClassifierForSequenceClassification,
)
from salhub.backbones.text_classifier.tokenizer_text_classifier import train_tokenizer

LABELS = {0: "negative", 1: "positive", 2: "mixed"}
TEXTS = [
    "This film isn't bad, it is a warm and witty story about friends.",
    "Dull.",
    "A clumsy plot <b>ruins</b> what could have been grand & moving 🎬🎬",
    "فيلم جميل جدا لكن النهاية طويلة",
    "这部电影很好看,但是结尾太长。",
    "यह फ़िल्म बहुत अच्छी है, पर अंत लंबा है।",
]


def own_network(seed: int = 0, **fields) -> TextClassifierForSequenceClassification:
    """Our own classifier with random weights."""
    torch.manual_seed(seed)
    config = TextClassifierConfig(
        **{"vocab_size": 300, "embedding_size": 12, "num_filters": 8, "id2label": LABELS, **fields}
    )
    network = TextClassifierForSequenceClassification(config)
    with torch.no_grad():
        network.embeddings.weight.mul_(8)
        network.embeddings.weight[0] = 0
    return network.eval()


def own_tokenizer() -> PreTrainedTokenizerFast:
    """Its tokenizer."""
    return train_tokenizer(TEXTS * 2, 300)


def bert(seed: int = 0, **fields) -> BertForSequenceClassification:
    """A transformer of two layers with random weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        **{
            "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 24, "max_position_embeddings": 24, "id2label": LABELS, **fields,
        }
    )  # fmt: skip
    network = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return network.eval()


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces with [CLS] and [SEP]; most words are cut into letters."""
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{one}" for one in letters)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=24,
    )  # fmt: skip
