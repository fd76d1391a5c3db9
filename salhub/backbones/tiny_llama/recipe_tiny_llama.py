"""`salhub train tiny-llama`: a small LLaMA with its own tokenizer, from scratch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from salhub.backbones.text_classifier.recipe_text_classifier import save_in_half_precision
from salhub.backbones.tiny_llama.tokenizer_tiny_llama import train_tokenizer
from salhub.data.documents import encode_documents, read_documents, windows_of
from salhub.evaluation.language_model import next_token_losses
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import Scheduler, TrainingArguments, check_count, check_share
from salhub.runner.batches import Batch, generator_of
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe

USAGE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{model}")
tokenizer = AutoTokenizer.from_pretrained("{model}")
"""
_WINDOWS_TO_EVALUATE = 16
# Tells the draws of a run apart.
_SHIFT = 1


@dataclass(kw_only=True)
class TinyLlamaArguments(TrainingArguments):
    """Options of `TinyLlamaRecipe`.

    Args:
        data: A text file with documents separated by blank lines, or a table with one document per
            row, see `read_documents`.
        text_column: Column with the documents; None to find it by its heading.
        dataset_config_name: The configuration of a data set on the Hub.
        held_out_every: Hold out one in every so many documents for measuring.
        context_length: Number of tokens in a window; `batch_size` counts windows.
        vocab_size: Maximum number of tokens in the vocabulary.
        hidden_size: Size of a token's vector inside the network.
        intermediate_size: Size of the gated layer of a block.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Number of attention heads per block.
        num_key_value_heads: Number of key and value heads that these share.
        weight_decay: Weight decay of the matrices.
        adam_beta2: Decay of the running average of squared gradients.
    """

    data: str
    text_column: str | None = None
    dataset_config_name: str | None = None
    held_out_every: int = 50
    context_length: int = 512
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    batch_size: int = 4
    learning_rate: float = 2e-3
    lr_scheduler: Scheduler = "linear"
    lr_warmup_steps: int = 100
    max_grad_norm: float | None = 1.0

    def validate(self) -> None:
        """Check the options of the network, and those of every run."""
        super().validate()
        for name in (
            "held_out_every",
            "context_length",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
        ):
            check_count(name, getattr(self, name))
        for name in ("held_out_every", "context_length"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be 2 or more, got {getattr(self, name)}.")
        for name, parts in (
            ("hidden_size", "num_attention_heads"),
            ("num_attention_heads", "num_key_value_heads"),
        ):
            if getattr(self, name) % getattr(self, parts):
                raise ValueError(
                    f"{name} must be a multiple of {parts}, got {getattr(self, name)} and "
                    f"{getattr(self, parts)}."
                )
        check_share("adam_beta2", self.adam_beta2)
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}.")


class TinyLlamaRecipe(TrainingRecipe):
    """Trains a small language model, and the tokenizer that goes with it.

    Documents follow each other, and windows are cut anew in every epoch. The finished weights are
    rounded to the half precision that they are kept in.

    Example:
        >>> arguments = TinyLlamaArguments(output_dir="out", data="books.txt")
        >>> TinyLlamaRecipe(arguments).arguments.num_hidden_layers
        6

    Source: Touvron et al. 2023 (arXiv 2302.13971), section 2.2, for the network.
    """

    name = "tiny-llama"
    arguments_class = TinyLlamaArguments
    metric_words = {
        "perplexity/held-out": "Perplexity per token on held-out documents: {}",
        "bits_per_byte/held-out": "Bits per byte on the same documents: {}",
    }

    def learned_options(self) -> dict[str, Any]:
        # Where the file is does not matter, and what is in it does, see `sources`.
        return {**super().learned_options(), "data": Path(self.arguments.data).name}

    def build_model(self) -> nn.Module:
        options = self.arguments
        documents = read_documents(
            options.data,
            text_column=options.text_column,
            dataset_config_name=options.dataset_config_name,
        )
        every = options.held_out_every
        held_out = documents[every - 1 :: every]
        learned = [text for place, text in enumerate(documents) if (place + 1) % every]
        self.num_documents = (len(learned), len(held_out))
        self.tokenizer = train_tokenizer(
            learned, options.vocab_size, model_max_length=2 * options.context_length
        )
        self.tokens = encode_documents(learned, self.tokenizer)
        self.held_out_tokens = encode_documents(held_out, self.tokenizer) if held_out else None
        # The end of a document counts as a byte.
        self.held_out_bytes = sum(len(text.encode()) + 1 for text in held_out)
        if len(self.tokens) < 2 * options.context_length:
            raise ValueError(
                f"{Path(options.data).name} has {len(self.tokens)} training tokens, fewer "
                f"than two windows of {options.context_length}; give more text, or a smaller "
                "context_length."
            )
        config = LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=options.hidden_size,
            intermediate_size=options.intermediate_size,
            num_hidden_layers=options.num_hidden_layers,
            num_attention_heads=options.num_attention_heads,
            num_key_value_heads=options.num_key_value_heads,
            max_position_embeddings=2 * options.context_length,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            use_cache=True,
        )
        return LlamaForCausalLM(config)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        options = self.arguments
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (0.9, options.adam_beta2)
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=betas, fused=True)

    def stages(self, epoch: int) -> Iterable[Stage]:
        length = self.arguments.context_length
        generator = generator_of(self.arguments.seed, _SHIFT, epoch)
        first = int(torch.randint(length, (), generator=generator))
        windows = windows_of(self.tokens, length, first)

        def fetch(batch: Batch) -> dict[str, Tensor]:
            return {"input_ids": windows[batch.rows]}

        return [Stage("train", len(windows), fetch)]

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        return StepLoss(next_token_losses(model, inputs["input_ids"]).mean(dim=1))

    def can_validate(self) -> bool:
        return self.held_out_tokens is not None

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        return {"loss": float(self._held_out_losses(model, accelerator.device).mean())}

    def _held_out_losses(self, model: nn.Module, device: torch.device) -> Tensor:
        """Of every token but the first of its window, float64 (n,); the last window is shorter."""
        length = self.arguments.context_length
        whole = windows_of(self.held_out_tokens, length)
        rest = self.held_out_tokens[whole.numel() :]
        parts = [*whole.split(_WINDOWS_TO_EVALUATE), rest[None]]
        losses = [
            next_token_losses(model, part.to(device)).double().flatten()
            for part in parts
            if part.numel() and part.shape[1] > 1
        ]
        return torch.cat(losses).cpu()

    def finish(self, model: nn.Module) -> nn.Module:
        # Measured as it is kept.
        return model.half().float()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        learned, held_out = self.num_documents
        results.data = {
            "name": Path(self.arguments.data).name,
            "num_documents": learned,
            "num_held_out": held_out,
            "num_tokens": len(self.tokens),
            "num_held_out_tokens": 0 if self.held_out_tokens is None else len(self.held_out_tokens),
        }
        if self.held_out_tokens is None:
            return
        losses = self._held_out_losses(model, accelerator.device)
        bits = float(losses.mean()) * len(self.held_out_tokens) / math.log(2)
        count = len(losses)
        results.add_metric("perplexity/held-out", math.exp(float(losses.mean())), n=count)
        results.add_metric(
            "bits_per_byte/held-out", bits / self.held_out_bytes, n=count, unit="bits"
        )

    def export(self, model: Any, folder: Path) -> None:
        save_in_half_precision(model, folder)
        self.tokenizer.save_pretrained(folder)

    def card_facts(self) -> Facts:
        learned, _ = self.num_documents
        weights = sum(parameter.numel() for parameter in self.run.model.parameters())
        return Facts(
            summary=f"A LLaMA of {weights / 1e6:.1f} million weights, trained from scratch on "
            f"{learned:,} documents of {Path(self.arguments.data).name}.",
            example=USAGE,
            pipeline_tag="text-generation",
        )
