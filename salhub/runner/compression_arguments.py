"""Options that every compression of a language model takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salhub.runner.arguments import RunArguments, check_count


@dataclass(kw_only=True)
class CompressionArguments(RunArguments):
    """What every compression of a language model takes.

    Args:
        model: A causal language model: a folder, a shipped name, a Hub repository, or a GGUF file,
            whose weights are unpacked to half precision first.
        gguf_file: Name of a GGUF file in the folder or repository `model`, to read it instead.
        calibration: Text for the compression: a text file, a table, the name of a data set, or a
            file of tokens (.npy, .safetensors).
        text_column: Column of `calibration` with the documents; None to find it by its heading.
        dataset_config_name: The configuration of `calibration`, if it is a data set on the Hub.
        num_calibration_windows: Number of windows of tokens drawn from it with the seed.
        context_length: Number of tokens in a window.
        batch_size: Number of windows that pass through a block together.
        bits: Bits per weight, on average.
        group_size: Number of columns that share a scale in each row.
        quantize_embeddings: "int8" stores the embedding, and a head that shares its weights, with
            8 bits per value and one scale per row; None does not quantize them.
        test_data: Text or tokens for measuring perplexity before and after; None not to measure it.
        test_text_column: Column of `test_data` with the documents; None for `text_column` if
            `test_data` is a table.
        test_dataset_config_name: The configuration of `test_data`, if it is a data set on the Hub;
            None for `dataset_config_name` where both are the same data.
        test_context_length: Number of tokens in a window of the test text.
        num_test_tokens: Number of tokens of the test text to measure; None for all.
    """

    model: str
    calibration: str
    gguf_file: str | None = None
    text_column: str | None = None
    dataset_config_name: str | None = None
    num_calibration_windows: int = 128
    context_length: int = 2048
    batch_size: int = 4
    bits: float = 2
    group_size: int = 64
    quantize_embeddings: Literal["int8"] | None = None
    test_data: str | None = None
    test_text_column: str | None = None
    test_dataset_config_name: str | None = None
    test_context_length: int = 512
    num_test_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.gguf_file is not None and Path(self.model, self.gguf_file).is_file():
            # What is in the file then counts when a run goes on.
            self.model, self.gguf_file = str(Path(self.model, self.gguf_file)), None
        super().__post_init__()

    def validate(self) -> None:
        """Check the options of compression, and those of every run."""
        super().validate()
        for name in ("num_calibration_windows", "batch_size", "group_size"):
            check_count(name, getattr(self, name))
        for name in ("context_length", "test_context_length"):
            check_count(name, getattr(self, name), least=2)
        if self.num_test_tokens is not None:
            check_count("num_test_tokens", self.num_test_tokens)
        for name in ("test_text_column", "test_dataset_config_name"):
            if self.test_data is None and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} has no effect without test_data; give it, or leave it out."
                )
        self.check_bits()

    def check_bits(self) -> None:
        """Refuse a mean of bits that cannot be kept."""
        if self.bits not in (2, 3, 4):
            raise ValueError(f"bits must be 2, 3 or 4, got {self.bits}.")
