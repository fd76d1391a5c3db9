"""What a compression takes beside the stored weights, for models of 12 and of 24 blocks.

    python -m benchmarks.compression_memory

Both have the same width. A process of its own compresses each and measures its perplexity; its
largest resident memory is counted, less what it had before the work and less the file of weights.
Ten minutes on a core.
"""

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.report import RESULTS, print_tables, save_results
from salhub.backbones.tiny_llama.tokenizer_tiny_llama import train_tokenizer
from salhub.models.slim_llm.arguments_slim_llm import SlimLLMArguments
from salhub.models.slim_llm.recipe_slim_llm import SlimLLMRecipe
from salhub.results import Results, Table, measured, peak_memory_mib
from salhub.runner.run import run

TITLE = "Memory of a compression"
BLOCKS = (12, 24)
CONTEXT, WINDOWS = 128, 16
# Of the larger model's working memory to the smaller one's.
LARGEST_RATIO = 1.1


def save_model(folder: Path, blocks: int, width: int) -> None:
    """Write a model of random weights in bfloat16, with a tokenizer, and a text."""
    lines = [f"once there was a {word} king who said {word}" for word in ("old", "good", "wise")]
    text = "\n\n".join(" ".join(lines[place % 3 :] * 4) for place in range(200))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    train_tokenizer([text], 280, model_max_length=CONTEXT).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def working_memory(source: Path, options: dict[str, str | int]) -> float:
    """Compress a model in this process; the MiB that it took beside the stored weights."""
    before = psutil.Process().memory_info().rss / 2**20
    stored = sum(path.stat().st_size for path in source.glob("model*.safetensors")) / 2**20
    text = str(source / "text.txt")
    arguments = SlimLLMArguments.from_settings(
        {
            "output_dir": str(source / "out"),
            "model": str(source),
            "calibration": text,
            "num_calibration_windows": WINDOWS,
            "context_length": CONTEXT,
            "test_data": text,
            "test_context_length": CONTEXT,
            "num_test_tokens": 16 * CONTEXT,
            "cpu": True,
            **options,
        }
    )
    run(SlimLLMRecipe(arguments))
    return peak_memory_mib() - before - stored


def _in_a_child(blocks: int, width: int, options: dict[str, str | int], answers) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = multiprocessing.get_context("spawn").Process(
            target=save_model, args=(Path(folder), blocks, width)
        )
        made.start()
        made.join()
        answers.put(working_memory(Path(folder), options))


def main(arguments: list[str] | None = None) -> None:
    """Measure both, and save what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--options", type=json.loads, default={"bits": 2, "group_size": 64})
    parser.add_argument("--output", type=Path, default=RESULTS / "compression_memory.json")
    options = parser.parse_args(arguments)
    results = Results("compression_memory", "python -m benchmarks.compression_memory", seed=0)
    context = multiprocessing.get_context("spawn")
    found = {}
    with measured(results):
        for blocks in BLOCKS:
            answers = context.Queue()
            child = context.Process(
                target=_in_a_child, args=(blocks, options.width, options.options, answers)
            )
            child.start()
            found[blocks] = answers.get()
            child.join()
            results.add_metric(f"working memory/{blocks} blocks", found[blocks], unit="MiB")
    ratio = found[BLOCKS[1]] / found[BLOCKS[0]]
    results.add_metric("working memory/ratio", ratio, unit="ratio")
    note = (
        f"Largest resident memory of a process that compresses a LLaMA of width {options.width} on "
        f"{WINDOWS} windows of {CONTEXT} tokens and measures its perplexity, less what it had "
        f"before and less the stored weights. At most {LARGEST_RATIO:g} times as much is required "
        f"for twice as many blocks; it is {ratio:.3f}."
    )
    rows = [[blocks, round(one, 1)] for blocks, one in found.items()]
    results.tables.append(Table(TITLE, note, ["blocks", "MiB"], rows))
    print_tables(results)
    save_results(results, options.output, TITLE)


if __name__ == "__main__":
    main()
