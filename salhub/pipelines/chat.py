"""Chat models that write explanations: of transformers, behind an endpoint, or a function."""

import copy
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from huggingface_hub import constants

from salhub.errors import UnknownSettingError
from salhub.loading_keywords import HUB_KEYWORDS, with_one_precision
from salhub.modeling import load_trained
from salhub.tokenizing import load_tokenizer, refuse_empty

Messages = list[dict[str, str]]
_TIMEOUT_SECONDS = 120
_SETTINGS = ("max_new_tokens", "batch_size", "temperature", "seed", "tokenizer")
# What reasoning models think aloud; an answer that is cut off in the middle of it is none.
_THOUGHT = re.compile(
    r"^.*</(?:think|thinking|reasoning)>|<(think|thinking|reasoning)>.*", re.DOTALL | re.IGNORECASE
)


class Chat(Protocol):
    """Answers conversations."""

    def generate(self, conversations: Sequence[Messages]) -> list[str]:
        """Return one answer a conversation, each a list of {"role", "content"}."""
        ...


class CallableChat:
    """A function as a chat model.

    Args:
        function: Takes the messages of one conversation and gives the answer, see `text_of`.

    Example:
        >>> CallableChat(lambda messages: "fine").generate([[{"role": "user", "content": "?"}]])
        ['fine']
    """

    def __init__(self, function: Callable[[Messages], Any]) -> None:
        self.function = function

    def generate(self, conversations: Sequence[Messages]) -> list[str]:
        """See `Chat`.

        Raises:
            RuntimeError: The function fails, or gives no text.
        """
        return [self.answer(messages) for messages in conversations]

    def answer(self, messages: Messages) -> str:
        """Answer one conversation; see `generate`."""
        try:
            answer = self.function(messages)
        except Exception as error:
            raise RuntimeError(
                f"The chat function failed ({type(error).__name__}: {error})."
            ) from error
        return text_of(answer)


class TransformersChat:
    """Any chat model of transformers, by default decoding the most likely answer.

    Args:
        model: A folder, a Hub repository, or a loaded model.
        tokenizer: Of a loaded model.
        max_new_tokens: Longest answer.
        batch_size: Conversations that are answered together.
        temperature: Above 0, answers are drawn at random, the flatter the higher.
        seed: Of what is drawn; that of the caller, see `as_chat`, where None.
        **loading: Of a model by name, keywords of `from_pretrained`, such as `gguf_file` or
            `dtype`. Pickles are not loaded, and code of repositories is not run.

    Raises:
        ValueError: A loaded model without a tokenizer, a tokenizer without a chat template, or a
            checkpoint that is no chat model.
        ModelNotFoundError: Nothing of that name was found, or it has no safetensors weights.
        UnknownSettingError: A keyword of loading for a loaded model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        max_new_tokens: int = 80,
        batch_size: int = 8,
        temperature: float = 0.0,
        seed: int | None = None,
        **loading: Any,
    ) -> None:
        from transformers import AutoModelForCausalLM, TextGenerationPipeline

        loading = with_one_precision(loading)
        if isinstance(model, str | os.PathLike):
            if tokenizer is None:
                names = (*HUB_KEYWORDS, "gguf_file")
                tokenizer = load_tokenizer(
                    model, **{key: loading[key] for key in names if key in loading}
                )
            model = load_trained(AutoModelForCausalLM, model, "chat model", **loading)
            if model.device.type == "cpu" and "dtype" not in loading:
                # Processors are slower in half precision.
                model = model.float()
        elif loading:
            raise UnknownSettingError("A loaded chat model", sorted(loading)[0], _SETTINGS)
        if tokenizer is None:
            raise ValueError("A loaded chat model needs its tokenizer too; give tokenizer=...")
        refuse_empty(tokenizer, getattr(model, "name_or_path", type(model).__name__))
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "The tokenizer has no chat template, so the model cannot chat; choose a "
                "model trained to follow instructions."
            )
        # The pipeline pads on the left, and the tokenizer may be somebody else's too.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        # Without a device the pipeline would move the model; what accelerate placed stays too.
        device = None if hasattr(model, "hf_device_map") else model.device
        self.pipeline = TextGenerationPipeline(
            model=model.eval(), tokenizer=tokenizer, device=device
        )
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.temperature, self.seed = temperature, seed

    @property
    def model(self) -> Any:
        """The model that answers."""
        return self.pipeline.model

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, a copy of the one that was given."""
        return self.pipeline.tokenizer

    def generate(self, conversations: Sequence[Messages]) -> list[str]:
        """See `Chat`."""
        device = self.pipeline.model.device
        settings: dict[str, Any] = {"do_sample": False, "temperature": None}
        if self.temperature > 0:
            settings = {"do_sample": True, "temperature": self.temperature}
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed or 0)
            answers = self.pipeline(
                list(conversations),
                batch_size=self.batch_size,
                max_new_tokens=self.max_new_tokens,
                return_full_text=False,
                top_p=None,
                top_k=None,
                **settings,
            )
        return [str(one[0]["generated_text"]).strip() for one in answers]


class EndpointChat:
    """A chat model behind an endpoint that speaks OpenAI's protocol.

    Args:
        base_url: Such as "http://localhost:8000/v1".
        model: Name of the model there.
        key_variable: Environment variable with the key; it is read for each call and never kept.
        max_new_tokens: Longest answer.
        seed: Sent along, for servers that know what to do with it; that of
            the caller, see `as_chat`, where None.

    Raises:
        ValueError: An address that is not http or https.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        max_new_tokens: int = 80,
        seed: int | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, got '{base_url}'.")
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model, self.key_variable = model, key_variable
        self.max_new_tokens, self.seed = max_new_tokens, seed

    def generate(self, conversations: Sequence[Messages]) -> list[str]:
        """See `Chat`.

        Raises:
            RuntimeError: The endpoint cannot be reached, or answers something else.
        """
        return [self.answer(messages) for messages in conversations]

    def answer(self, messages: Messages) -> str:
        """Answer one conversation; see `generate`."""
        from huggingface_hub import InferenceClient

        # Without a key of its own the client would send the user's token of the Hub.
        key = os.environ.get(self.key_variable) or "none"
        client = InferenceClient(base_url=self.url, api_key=key, timeout=_TIMEOUT_SECONDS)
        try:
            with _BEYOND_THE_HUB:
                answer = client.chat_completion(
                    messages,
                    model=self.model,
                    max_tokens=self.max_new_tokens,
                    temperature=0,
                    seed=self.seed or 0,
                )
            return text_of(answer.choices[0].message.content)
        except Exception as error:
            raise RuntimeError(
                f"The chat endpoint {self.url} did not answer ({error}); check its address "
                "and that it is running."
            ) from error


class _BeyondTheHub:
    """Lets clients call where HF_HUB_OFFLINE is set: that speaks of the Hub, and they do not."""

    def __init__(self) -> None:
        self.lock, self.num_calls, self.before = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self.lock:
            if not self.num_calls:
                self.before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
            self.num_calls += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.num_calls -= 1
            if not self.num_calls:
                constants.HF_HUB_OFFLINE = self.before


_BEYOND_THE_HUB = _BeyondTheHub()


def text_of(content: Any) -> str:
    """The text of an answer: without its parts that are none, and without what it thought aloud.

    Args:
        content: A text, a part such as {"type": "text", "text": ...}, a message, or a list of them.

    Raises:
        RuntimeError: It holds no text.

    Example:
        >>> text_of([{"type": "image"}, {"type": "text", "text": "<think>well</think> Fine."}])
        'Fine.'
    """
    if not has_text(content):
        raise RuntimeError("The chat model returned no text.")
    return _spoken(content)


def has_text(content: Any) -> bool:
    """Whether an answer holds a text, see `text_of`."""
    return bool(_spoken(content))


def _spoken(content: Any) -> str:
    return _THOUGHT.sub("", "".join(_texts(content))).strip()


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        is_spoken = content.get("type", "text") in ("text", "output_text", "message")
        if is_spoken and content.get("role", "assistant") == "assistant":
            yield from _texts(content.get("text", content.get("content")))
    elif isinstance(content, list | tuple):
        for part in content:
            yield from _texts(part)


def as_chat(chat: Any, max_new_tokens: int = 80, seed: int = 0) -> Chat:
    """Make a chat model of a name, a folder, a function, or what is one already.

    Args:
        chat: One of these.
        max_new_tokens: Longest answer of a model that is loaded by name.
        seed: Of a chat model that has none of its own.
    """
    if hasattr(chat, "generate") and not hasattr(chat, "config"):
        if getattr(chat, "seed", seed) is None:
            chat = copy.copy(chat)
            chat.seed = seed
        return chat
    if isinstance(chat, str | os.PathLike):
        return TransformersChat(chat, max_new_tokens=max_new_tokens, seed=seed)
    if callable(chat) and not hasattr(chat, "config"):
        return CallableChat(chat)
    raise TypeError(
        "A chat model must be a name, a function, or an object with "
        f"generate(conversations), got {type(chat).__name__}. Wrap a loaded model in "
        "TransformersChat(model, tokenizer)."
    )
