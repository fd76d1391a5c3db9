"""Chat models that write explanations: of transformers, behind an endpoint, or a function."""

import copy
import json
import os
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

Messages = list[dict[str, str]]
_TIMEOUT_SECONDS = 120


class Chat(Protocol):
    """Answers conversations."""

    def generate(self, conversations: Sequence[Messages]) -> list[str]:
        """Return one answer a conversation, each a list of {"role", "content"}."""
        ...


class CallableChat:
    """A function as a chat model.

    Args:
        function: Takes the messages of one conversation and gives the answer.

    Example:
        >>> CallableChat(lambda messages: "fine").generate([[{"role": "user", "content": "?"}]])
        ['fine']
    """

    def __init__(self, function: Callable[[Messages], str]) -> None:
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
        if not isinstance(answer, str):
            raise RuntimeError(
                f"The chat function must give a text, and gave {type(answer).__name__}."
            )
        return answer


class TransformersChat:
    """Any chat model of transformers, by default decoding the most likely answer.

    Args:
        model: A folder, a Hub repository, or a loaded model.
        tokenizer: Of a loaded model.
        max_new_tokens: Longest answer.
        batch_size: Conversations that are answered together.
        temperature: Above 0, answers are drawn at random, the flatter the higher.
        seed: Of what is drawn; the verbalizer's where None.
        **loading: Keywords of `from_pretrained`, such as `gguf_file` or `dtype`.

    Raises:
        ValueError: A loaded model without a tokenizer, or a tokenizer without a chat template.
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
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if isinstance(model, str | os.PathLike):
            gguf = {key: loading[key] for key in ("gguf_file",) if key in loading}
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model, **gguf)
            model = AutoModelForCausalLM.from_pretrained(model, **loading)
            if model.device.type == "cpu" and "dtype" not in loading:
                # Processors are slower in half precision.
                model = model.float()
        if tokenizer is None:
            raise ValueError("A loaded chat model needs its tokenizer too; give tokenizer=...")
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "The tokenizer has no chat template, so the model holds no conversation; choose "
                "one that was trained for instructions."
            )
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.temperature, self.seed = temperature, seed

    @torch.no_grad()
    def generate(self, conversations: Sequence[Messages]) -> list[str]:
        """See `Chat`."""
        answers: list[str] = []
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed or 0)
            for begin in range(0, len(conversations), self.batch_size):
                answers += self._answer(list(conversations[begin : begin + self.batch_size]))
        return answers

    def _answer(self, conversations: list[Messages]) -> list[str]:
        tokenizer = self.tokenizer
        prompts = [
            tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
            for one in conversations
        ]
        pad = tokenizer.pad_token or tokenizer.eos_token
        # The answers go on where the prompts end, so the padding stands in front.
        inputs = tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(self.model.device)
        produced = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=self.temperature > 0,
            temperature=self.temperature or None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.convert_tokens_to_ids(pad),
        )
        new = produced[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


class EndpointChat:
    """A chat model behind an endpoint that speaks OpenAI's protocol.

    Args:
        base_url: Such as "http://localhost:8000/v1".
        model: Name of the model there.
        key_variable: Environment variable with the key; it is read for each call and never kept.
        max_new_tokens: Longest answer.
        seed: Sent along, for servers that know what to do with it; the verbalizer's where None.

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
        content = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_new_tokens,
            "temperature": 0,
            "seed": self.seed or 0,
        }
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(self.url, json.dumps(content).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                answer = json.load(response)
            return str(answer["choices"][0]["message"]["content"]).strip()
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = getattr(error, "reason", None) or error
            raise RuntimeError(
                f"The chat endpoint {self.url} gave no answer ({reason}); check its address and "
                "that it runs."
            ) from error


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
        f"A chat model is a name, a function, or an object with generate(conversations); got "
        f"{type(chat).__name__}. Wrap a loaded model in TransformersChat(model, tokenizer)."
    )
