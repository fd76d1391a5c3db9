"""Make the folders that this one keeps, with the version of salhub that is to be remembered.

They were made by commit f6301bf, from a checkout of it:

    PYTHONPATH=. python .../tests/former/make.py

Later versions have to load every folder and give the outputs in `outputs.safetensors` and
`outputs.json`. Whoever makes them anew forgets what the former version did.
"""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)
from typer.testing import CliRunner

import salhub
from salhub.cli import app
from salhub.publishing import files_to_push

HERE = Path(__file__).parent
SENTENCES = [
    "The old bridge is shut.",
    "Cats sleep near the river.",
    "The bridge of the town is old and shut.",
]
TEXT = " ".join(SENTENCES)
REVIEW = "A dull plot, but grand and moving pictures."
COLLECTION = ["the bridge is old", "the cats sleep", "the town has a river", "the plot is dull"]
TENSORS: dict[str, torch.Tensor] = {}
FACTS: dict[str, object] = {}


def keep_map(name: str, folder: str, picture: str = "picture.png") -> None:
    """The explanation of one class of the picture."""
    result = salhub.pipeline(folder)(picture, class_labels=1)
    TENSORS[f"{name}/saliency"] = torch.from_numpy(np.ascontiguousarray(result.saliency))
    FACTS[name] = {"label": result.label, "probability": float(result.probability)}


def classifier() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
        id2label={0: "apple", 1: "pear", 2: "plum"}, label2id={"apple": 0, "pear": 1, "plum": 2},
    )  # fmt: skip
    network = ResNetForImageClassification(config)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5) if "var" in name else buffer.uniform_(-0.5, 0.5)
    return network.eval()


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    words = sorted({word.strip(".,").lower() for text in texts for word in text.split()})
    vocabulary = {token: place for place, token in enumerate(["[PAD]", "[UNK]", ".", ",", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )


def make_explainers() -> None:
    network, processor = classifier(), ViTImageProcessorPil(size={"height": 32, "width": 32})
    for name, kind in (
        ("normgrad", salhub.NormGradForImageSaliency),
        ("salient-relevance", salhub.SalientRelevanceForImageSaliency),
    ):
        kind.from_classifier(network).save_pretrained(name)
        processor.save_pretrained(name)
        keep_map(name, name)
    salhub.pipeline("./normgrad", method="grad_cam").save_pretrained("grad-cam-by-pipeline")
    keep_map("grad-cam-by-pipeline", "grad-cam-by-pipeline")
    model = salhub.NormGradForImageSaliency.from_classifier(
        "salhub/efficientnet-lite0", method="grad_cam"
    )
    model.save_pretrained("grad-cam-by-name", save_backbone=False)
    keep_map("grad-cam-by-name", "grad-cam-by-name")


def make_lexrank() -> None:
    model = salhub.LexRankModel(salhub.LexRankConfig())
    model.fit_idf(COLLECTION, min_documents=1)
    model.save_pretrained("lexrank")
    words = tokenizer([TEXT])
    torch.manual_seed(0)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8, max_position_embeddings=64,
        )
    )  # fmt: skip
    encoder.save_pretrained("encoder")
    words.save_pretrained("encoder")
    config = salhub.LexRankConfig(
        representation="embedding", encoder="encoder", redundancy_limit=0.99
    )
    salhub.LexRankModel(config).save_pretrained("lexrank-by-encoder")
    for name in ("lexrank", "lexrank-by-encoder"):
        model = salhub.AutoModelForSaliency.from_pretrained(name)
        TENSORS[f"{name}/scores"] = model.rank(SENTENCES).scores.clone()
        FACTS[name] = salhub.pipeline(name)(TEXT).to_dict()


def make_verbalizer() -> None:
    words = tokenizer([REVIEW, *COLLECTION])
    torch.manual_seed(0)
    config = salhub.TextClassifierConfig(
        vocab_size=len(words), embedding_size=6, num_filters=4,
        id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
    )  # fmt: skip
    network = salhub.TextClassifierForSequenceClassification(config)
    with torch.no_grad():
        network.embeddings.weight.mul_(8)
        network.embeddings.weight[0] = 0
    salhub.SaliencyVerbalizerModel.from_classifier(network.eval()).save_pretrained("verbalizer")
    words.save_pretrained("verbalizer")
    result = salhub.pipeline("verbalizer")(REVIEW)
    TENSORS["verbalizer/scores"] = torch.from_numpy(np.ascontiguousarray(result.scores))
    FACTS["verbalizer"] = {
        "label": result.label, "probability": result.probability, "tokens": list(result.tokens),
    }  # fmt: skip


def archive(path: Path, size: int, channels: int) -> None:
    """Noise of three colours or at three heights."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    pictures = generator.integers(0, 120, (60, size, size, channels), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        if channels == 3:
            picture[..., label] += 100
        else:
            picture[2 * label : 2 * label + 2] += 100
    np.savez(
        path, train_images=pictures[:42].squeeze(), train_labels=labels[:42],
        test_images=pictures[42:].squeeze(), test_labels=labels[42:],
        class_names=np.array(["one", "two", "three"]),
    )  # fmt: skip


def call(*words: str) -> None:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, (result.output, result.exception)


def make_runs() -> None:
    archive(Path("colours.npz"), 12, 3)
    archive(Path("heights.npz"), 8, 1)
    for recipe, folder in (("cifar-resnet", "cifar-resnet"), ("salun-resnet8", "original")):
        call(
            "train", recipe, "data=colours.npz", f"output_dir={folder}", "width=4",
            "stem_stride=1", "batch_size=14", "num_train_epochs=2", "augment=false", "cpu=true",
        )  # fmt: skip
    call(
        "unlearn", "salun", "model=original", "data=colours.npz", "forget=class:two",
        "output_dir=unlearned", "batch_size=14", "num_train_epochs=1", "attack=none", "cpu=true",
    )  # fmt: skip
    call(
        "train", "salun-ddpm", "data=heights.npz", "output_dir=diffusion", "image_size=8",
        "base_channels=4", "batch_size=14", "max_train_steps=2",
        "cpu=true",
    )  # fmt: skip
    call(
        "unlearn", "salun-diffusion", "model=diffusion", "data=heights.npz", "forget=class:two",
        "output_dir=unlearned-diffusion", "batch_size=14", "max_train_steps=1", "cpu=true",
        "learning_rate=1e-3",
    )  # fmt: skip
    for name in ("cifar-resnet", "original", "unlearned", "diffusion", "unlearned-diffusion"):
        shutil.rmtree(Path(name, "checkpoints"), ignore_errors=True)
    for path in (Path("colours.npz"), Path("heights.npz")):
        path.unlink()
    pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    TENSORS["pixels"] = pixels
    for name in ("cifar-resnet", "original", "unlearned"):
        model = AutoModelForImageClassification.from_pretrained(name).eval()
        with torch.no_grad():
            TENSORS[f"{name}/logits"] = model(pixels).logits.clone()
    result = salhub.pipeline("unlearned")("picture.png")
    FACTS["unlearned"] = result.to_dict()
    for name in ("diffusion", "unlearned-diffusion"):
        result = salhub.pipeline(name)("one", num_images=2, num_steps=2, seed=7)
        TENSORS[f"{name}/pixels"] = torch.from_numpy(np.ascontiguousarray(result.pixels))


def main() -> None:
    os.chdir(tempfile.mkdtemp())
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((40, 48), Image.Resampling.BICUBIC).save("picture.png")
    make_explainers()
    make_lexrank()
    make_verbalizer()
    make_runs()
    FACTS["pushed"] = {}
    for folder in sorted(path for path in Path().iterdir() if path.is_dir()):
        with contextlib.suppress(ValueError):  # the encoder is no model of ours
            FACTS["pushed"][folder.name] = sorted(files_to_push(folder, "me/mine"))
    salhub.seed_cache(["lexrank-minilm"], cache_dir="cache")
    os.environ["SALHUB_PREFER_HUB"] = "1"
    cached = salhub.AutoModelForSaliency.from_pretrained(
        "salhub/lexrank-minilm", cache_dir="cache", encoder="encoder"
    )
    TENSORS["cache/scores"] = cached.rank(SENTENCES).scores.clone()
    save_file(TENSORS, "outputs.safetensors")
    Path("outputs.json").write_text(json.dumps(FACTS, indent=1, ensure_ascii=False) + "\n")
    shutil.copytree(".", HERE, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
