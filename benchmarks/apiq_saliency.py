"""What ApiQ with saliency costs, and what its regularizer changes.

    python -m benchmarks.apiq_saliency
    python -m benchmarks.apiq_saliency --model SmolLM2-135M-Instruct \
        --calibration wiki.valid.raw --test wiki.test.raw --seeds 3

Always: a training step of a layer with the rounding that keeps nothing of its size, beside the same
left to autograd. With a model: perplexity, error of the outputs and of the weights for several
factors of the regularizer, over seeds that draw the calibration text. Other methods stand beside it
in `benchmarks.slim_llm`.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.quantizers import register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.report import (
    RESULTS,
    Requirement,
    add_race,
    add_requirements,
    existing_file,
    finish,
)
from salhub.data.documents import calibration_windows, encode_text, read_texts
from salhub.evaluation.language_model import perplexity
from salhub.models.apiq_saliency.quantization_apiq_saliency import (
    ApiQSaliencyQuantizationConfig,
    ApiQSaliencyQuantizer,
)
from salhub.models.apiq_saliency.quantize_model import quantize_apiq_saliency
from salhub.quantization.learned_clipping import LearnedClipping
from salhub.results import Results, Table, measured

OURS, AUTOGRAD = "LearnedClipping", "the same left to autograd"
STEP = "A training step of one layer"
ROWS, COLUMNS, GROUP, TOKENS = 1536, 576, 64, 256
FACTORS = (0.0, 0.01, 0.1, 1.0)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def rounded_by_autograd(weight: Tensor, upper: Tensor, lower: Tensor, bits: int = 2) -> Tensor:
    """Learned clipping as it is written down, (n, m)."""
    groups = weight.unflatten(1, (-1, GROUP))
    high = groups.amax(-1).clamp(min=0) * upper.sigmoid()
    low = groups.amin(-1).clamp(max=0) * lower.sigmoid()
    top = 2**bits - 1
    scale = ((high - low) / top).clamp(1e-5, 1e4)[..., None]
    zero = (-low[..., None] / scale).round()
    codes = (_Straight.apply(groups / scale) + zero).clamp(0, top)
    return ((codes - zero) * scale).flatten(1)


def steps_of_a_layer() -> dict[str, Callable[[], Tensor]]:
    """A forward and a backward pass of each way to round; each gives the gradient of a logit."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, COLUMNS, generator=draw)
    inputs = torch.randn(TOKENS, COLUMNS, generator=draw)
    clipping = LearnedClipping(weight, GROUP, 2)
    logits = [torch.full((ROWS, COLUMNS // GROUP), 4.0, requires_grad=True) for _ in range(2)]

    def ours() -> Tensor:
        clipping.zero_grad()
        (inputs @ clipping().T).square().mean().backward()
        return clipping.upper.grad

    def by_autograd() -> Tensor:
        for one in logits:
            one.grad = None
        (inputs @ rounded_by_autograd(weight, *logits).T).square().mean().backward()
        return logits[0].grad

    return {OURS: ours, AUTOGRAD: by_autograd}


def add_factors(results: Results, options: argparse.Namespace) -> None:
    """Measure a model with several factors of the regularizer."""
    if ApiQSaliencyQuantizationConfig.method not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(ApiQSaliencyQuantizationConfig.method)(ApiQSaliencyQuantizer)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    test = encode_text(read_texts(str(options.test), part=None).whole, tokenizer)
    rows: list[list[str | float | int | None]] = []
    for factor in FACTORS:
        found = [_measured(options, tokenizer, test, factor, seed) for seed in range(options.seeds)]
        names = ("perplexity", "error", "weights", "bits", "seconds")
        columns = dict(zip(names, zip(*found, strict=True), strict=True))
        for name, values in columns.items():
            key = f"{options.model.rstrip('/').rpartition('/')[2]}/{factor}/{name}"
            results.add_mean(key, list(values))
        rows.append(
            [factor, *(f"{statistics.fmean(one):.4g}" for one in columns.values()),
             " ".join(f"{one:.4g}" for one in columns["perplexity"])]
        )  # fmt: skip
    note = (
        f"{options.bits} bits, groups of {options.group_size}, rank {options.rank}, "
        f"{options.epochs} epochs over {options.windows} windows of {options.length} tokens, "
        "which the seed draws. "
        "The error of the outputs is that of the last block, that of the weights their squared "
        "error, weighed by saliency and relative to them, summed over the layers of a block and "
        "averaged over the last epoch; it is not computed where the factor is 0."
    )
    headings = ["factor", "perplexity", "error of outputs", "error of weights", "bits", "s"]
    headings.append("perplexity of each seed")
    results.tables.append(Table("Factors of the regularizer", note, headings, rows))


def _measured(
    options: argparse.Namespace, tokenizer: object, test: Tensor, factor: float, seed: int
) -> tuple[float, ...]:
    windows = calibration_windows(
        options.calibration, tokenizer, options.windows, options.length, seed=seed
    )
    model = AutoModelForCausalLM.from_pretrained(options.model)
    done = quantize_apiq_saliency(
        model, None, windows, bits=options.bits, group_size=options.group_size,
        lora_r=options.rank, reg_lambda=factor, joint_epochs=options.epochs, seed=seed,
    )  # fmt: skip
    # transformers' own `float` refuses packed models.
    score = perplexity(nn.Module.float(done.model), test[: options.test_tokens], options.context)
    last = [epochs[-1] for [epochs] in done.regularizers.values()]
    return (
        score.value,
        list(done.errors.values())[-1],
        statistics.fmean(last),
        done.bits_with_adapters,
        sum(done.seconds.values()),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race, and with a model the table of factors."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.apiq_saliency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--model", help="folder or name of a causal language model")
    parser.add_argument("--calibration", type=existing_file)
    parser.add_argument("--test", type=existing_file)
    for name, default in (
        ("seeds", 3), ("bits", 2), ("group-size", 64), ("rank", 8), ("epochs", 3), ("windows", 16),
        ("length", 256), ("context", 512), ("test-tokens", 20_480),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=RESULTS / "apiq_saliency.json")
    options = parser.parse_args(arguments)
    if options.model and not (options.calibration and options.test):
        parser.error("--model needs --calibration and --test")
    command = "python -m benchmarks.apiq_saliency"
    results = Results("apiq_saliency", command, seed=0)
    with measured(results):
        steps = steps_of_a_layer()
        ours, theirs = steps[OURS](), steps[AUTOGRAD]()
        # Scales in half precision move some weights to a neighbour.
        assert float((ours - theirs).norm() / theirs.norm()) < 0.05
        contenders = [Contender(OURS, steps[OURS]), Contender(AUTOGRAD, steps[AUTOGRAD], "torch")]
        found = race(contenders, rounds=options.rounds, title=STEP)
        note = f"{ROWS} x {COLUMNS} weights in groups of {GROUP}, {TOKENS} tokens, 2 bits."
        add_race(results, STEP, note, found, {"time by autograd": AUTOGRAD})
        peaks = [results.metric(f"{STEP}/{name}/peak_memory").value for name in (OURS, AUTOGRAD)]
        ratio = found.ratio(OURS, AUTOGRAD)
        add_requirements(
            results,
            [
                Requirement("memory of a step by autograd's", peaks[0] / peaks[1], 0.6),
                Requirement.of_ratio("time of a step by autograd's", ratio, 1.0),
            ],
        )
        if options.model:
            add_factors(results, options)
    finish(results, {}, options.output)


if __name__ == "__main__":
    use_one_thread()
    main()
