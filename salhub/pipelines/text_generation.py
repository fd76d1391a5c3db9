"""The pipeline of the language models, which go on writing a text."""

from typing import Any, Self

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from salhub.data.documents import check_tokens
from salhub.entries import Model
from salhub.evaluation.language_model import vocab_size_of
from salhub.hub import hub_keywords
from salhub.modeling import load_trained, refuse_broken_weights
from salhub.pipelines.base import TextPipeline, number, whole_number
from salhub.pipelines.text_generation_result import TextGenerationResult
from salhub.tokenizing import load_tokenizer, refuse_empty, token_limit

_NEW_TOKENS = 50


class TextGenerationPipeline(TextPipeline):
    """Continue texts.

    It is what `salhub.pipeline` gives for language models; `transformers.pipeline` gives its own
    pipeline of this task, which works with them too.

    Example:
        >>> import salhub
        >>> write = salhub.pipeline("salhub/tiny-llama-en")  # doctest: +SKIP
        >>> write("The film", max_new_tokens=20).text  # doctest: +SKIP
        'The film is ...'
    """

    output_suffix = ".txt"
    result_class = TextGenerationResult
    writes_by_default = False
    call_settings = ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "seed")
    sample = "The film"
    example = """
import salhub

result = salhub.pipeline("{model}")("The film", temperature=0.8, seed=1)
print(result.text)
result.save("written.png")  # or .txt, .json
"""
    hub_task = "text-generation"
    required_files = ("tokenizer_config.json",)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        tokenizer = tokenizer or load_tokenizer(model.config.name_or_path)
        refuse_empty(tokenizer, type(tokenizer).__name__)
        super().__init__(model, tokenizer=tokenizer, **kwargs)

    @classmethod
    def from_name(
        cls,
        name: str | None,
        method: Model,
        /,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Load a model by name; see `TaskPipeline.from_name`.

        Args:
            name: The model.
            method: Its method, or the network itself.
            tokenizer: Its tokenizer; the one saved with the model by default.
            device: Where to run; an accelerator where there is one, else the CPU.
            dtype: Precision of the weights.
            batch_size: Taken, and without effect: texts are continued one after another.
            **settings: Keywords of every call, fields of the configuration, and keywords of the
                Hub.

        Raises:
            ValueError: No name or a classifier, which language models do not explain; a model that
                lacks weights or a tokenizer.
        """
        calling = cls._take_calling(settings)
        if name is None or settings.get("classifier") is not None:
            raise ValueError(
                f"'{name or method.name}' does not explain classifiers; give the name of a "
                "language model, without classifier=..."
            )
        precision = {} if dtype is None else {"dtype": dtype}
        tokenizer = tokenizer or load_tokenizer(name, **hub_keywords(settings))
        model = load_trained(method.model_class, name, "language model", **precision, **settings)
        return cls(model, tokenizer, device=device, batch_size=batch_size, **calling)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str | int | torch.device | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Self:
        """Make a pipeline of a model that is already loaded; see `TaskPipeline.from_model`.

        Args:
            model: The model.
            tokenizer: Its tokenizer; needed where the model was not loaded from anywhere.
            device: Where to run; an accelerator where there is one, else the CPU.
            batch_size: As of `from_name`.
            **settings: Keywords of every call.
        """
        cls._refuse_loading_settings(settings)
        if tokenizer is None and not model.config.name_or_path:
            raise ValueError(
                "The model was not loaded by name, so its tokenizer is unknown; give tokenizer=..."
            )
        return cls(model, tokenizer, device=device, batch_size=batch_size, **settings)

    def __call__(self, texts: Any, **kwargs: Any) -> Any:
        """Continue one text, or several.

        Args:
            texts: A text; a `pathlib` path of a text file; an open file; or a list or generator of
                these. Each is continued by itself, so that it gives what it gives alone.
            **kwargs: `max_new_tokens`, 50 by default; `temperature`, 0 to take the likeliest token
                each time, or above it to draw; `top_p`, to draw only from the likeliest tokens that
                have this probability together; `repetition_penalty`, above 1 to repeat less; and
                `seed`, which draws the same again.

        Returns:
            One `TextGenerationResult` a text.

        Raises:
            ValueError: A setting out of its range, or an empty text to a model that has no token
                for the beginning of one.
            TypeError: Something that is no text, or no number.
        """
        return super().__call__(texts, **{**kwargs, "batch_size": 1})

    def _sanitize_parameters(self, **settings):
        own = {name: settings.pop(name, None) for name in self.call_settings}
        self._refuse_unknown(settings)
        given = {name: value for name, value in own.items() if value is not None}
        for name, least in (("max_new_tokens", 1), ("seed", 0)):
            if name in given:
                given[name] = whole_number(name, given[name], least)
        for name in {"temperature", "top_p", "repetition_penalty"} & given.keys():
            given[name] = number(name, given[name])
        if given.get("temperature", 0) < 0:
            raise ValueError(f"temperature must be 0 or more, got {given['temperature']}.")
        if not 0 < given.get("top_p", 1) <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {given['top_p']}.")
        if given.get("repetition_penalty", 1) <= 0:
            raise ValueError(
                f"repetition_penalty must be above 0, got {given['repetition_penalty']}."
            )
        limit = token_limit(self.model, self.tokenizer)
        if limit is not None and given.get("max_new_tokens", 1) >= limit:
            raise ValueError(
                f"max_new_tokens is {given['max_new_tokens']}, but the model accepts {limit} "
                "tokens in all, including the text."
            )
        return {}, given, {}

    def prepare(self, text: Any) -> dict[str, Any]:
        prompt = self.read(text)
        ids = self.tokenizer(prompt, verbose=False)["input_ids"]
        if not ids:
            begin = self.tokenizer.bos_token_id
            if begin is None:
                raise ValueError(
                    "The text is empty, and the model has no start token; write a few words."
                )
            ids = [begin]
        ids = torch.tensor([ids])
        check_tokens(ids, vocab_size_of(self.model), "The text")
        return {"prompt": prompt, "input_ids": ids}

    def _forward(
        self,
        model_inputs,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
    ):
        notes, ids = [], model_inputs["input_ids"]
        limit = token_limit(self.model, self.tokenizer)
        if max_new_tokens is None:
            max_new_tokens = _NEW_TOKENS if limit is None else min(_NEW_TOKENS, limit // 2)
        if limit is not None and ids.shape[1] > limit - max_new_tokens:
            room = limit - max_new_tokens
            notes.append(
                f"Only the last {room} of the {ids.shape[1]} tokens of the text were read, "
                f"because the model accepts {limit} including the {max_new_tokens} new ones."
            )
            ids = ids[:, -room:]
        ends = self._ends()
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature or 1.0,
            top_p=top_p if temperature else 1.0,
            # Its default of 50 would leave out tokens that nobody asked to leave out.
            top_k=0 if temperature else 50,
            repetition_penalty=repetition_penalty,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            output = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=LogitsProcessorList([self._checked]),
            )
        found = output[0, ids.shape[1] :].tolist()
        if temperature:
            notes.append(f"Sampled with temperature {temperature:g} and seed {seed}.")
        if found[-1] not in ends:
            notes.append(
                f"The text stopped after {len(found)} tokens; raise max_new_tokens for more."
            )
        return {
            "prompt": model_inputs["prompt"],
            "read": ids[0].tolist(),
            "written": found,
            "notes": notes,
        }

    def _checked(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of the next token, which are numbers."""
        refuse_broken_weights(self.model, scores)
        return scores

    def _ends(self) -> list[int]:
        found = self.model.generation_config.eos_token_id
        if found is None:
            found = self.tokenizer.eos_token_id
        return [] if found is None else [found] if isinstance(found, int) else list(found)

    def postprocess(self, model_outputs) -> TextGenerationResult:
        read, written = model_outputs["read"], model_outputs["written"]
        # Decoded together, as a token may be the first of its text, or half of a character.
        before, whole = self._decoded(read), self._decoded([*read, *written])
        is_kept = whole.startswith(before)
        return TextGenerationResult(
            prompt=model_outputs["prompt"],
            completion=whole[len(before) :] if is_kept else self._decoded(written),
            tokens=[self.tokenizer.decode([token]) for token in written],
            token_ids=written,
            model_name=self._model_name(),
            notes=model_outputs["notes"],
        )

    def _decoded(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
