"""Chat models that explain: a function, transformers, an endpoint; and what becomes of answers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForCausalLM

from salhub.errors import IntegrityError, ModelNotFoundError
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.instruction import instruct, prompt_for
from salhub.models.verbalizer.verbalizer import Verbalizer
from salhub.pipelines.chat import (
    CallableChat,
    EndpointChat,
    TransformersChat,
    as_chat,
    text_of,
)
from tests.models.verbalizer.networks import own_tokenizer

TOKENS, SCORES = ["a", "warm", "film", ",", "too", "long"], [0.0, 0.9, 0.1, 0.0, -0.1, -0.4]
GOOD = "[1] speaks for it."
FILLED = "“warm film” (100 % of the evidence) speaks for it."
BAD = 'It is "superb". [1] helps.'
TEMPLATE_START = "Rated positive mainly because of “warm film” (100 % of the evidence)"


def told(**settings):
    return Verbalizer(VerbalizerConfig(**settings)).verbalize(TOKENS, SCORES, "positive")


def answered(answer: str, **settings):
    config = VerbalizerConfig(**settings)
    return instruct([told()], CallableChat(lambda messages: answer), config)[0]


def test_the_prompt_holds_the_text_the_class_and_the_evidence():
    messages = prompt_for(told(), VerbalizerConfig())
    assert [one["role"] for one in messages[:2]] == ["system", "user"]
    asked = messages[-1]["content"]
    assert "a warm film , too long" in asked and "Verdict: positive" in asked
    assert "Words for it: [1] warm film" in asked and "Words against it: [2] too long" in asked
    # The example has as many slots.
    assert messages[2]["content"] == "The verdict rests on [1]; [2] speaks against it."
    tokens = prompt_for(told(), VerbalizerConfig(evidence="tokens"))[-1]["content"]
    assert "[1] warm; [2] film" in tokens and "[4] long" in tokens
    both = prompt_for(told(), VerbalizerConfig(evidence="both"))[-1]["content"]
    assert "warm (0.90)" in both and "long (-0.40)" in both and "[1] warm film" in both
    masked = prompt_for(told(), VerbalizerConfig(mask_label=True))[-1]["content"]
    assert "{placeholder}" in masked and "positive" not in masked
    assert "in German why" in prompt_for(told(), VerbalizerConfig(language="de"))[-1]["content"]


def test_the_prompt_names_the_class_that_it_is_compared_with():
    told = Verbalizer().verbalize(TOKENS, SCORES, "positive", "mixed")
    asked = prompt_for(told, VerbalizerConfig())[-1]["content"]
    assert "Verdict: positive rather than mixed" in asked
    assert "why the verdict is positive rather than mixed." in asked


@pytest.mark.parametrize("scores", [[0.0] * 6, [-0.5, -0.2, 0, 0, 0, -0.1]])
@pytest.mark.parametrize("prose", ["It is positive: everybody loves it.", "[1] is against it."])
@pytest.mark.parametrize("evidence", ["phrases", "tokens"])
def test_where_no_word_speaks_for_the_class_the_template_says_so(scores, prose, evidence):
    config = VerbalizerConfig(evidence=evidence)
    told = Verbalizer(config).verbalize(TOKENS, scores, "positive")
    found = instruct([told], CallableChat(lambda _: prose), config)[0]
    assert found.text == told.text and found.audit["source"] == "template"


def test_a_right_answer_is_filled_in():
    found = answered(GOOD)
    assert found.llm_text == GOOD and found.text == FILLED
    assert found.audit["source"] == "llm" and found.audit["is_faithful"]
    assert "a warm film" in found.prompt


@pytest.mark.parametrize(
    ("what", "source", "text"),
    [
        ("flag", "llm, unfaithful", 'It is "superb". “warm film” ('),
        ("repair", "llm, repaired", "“warm film” (100 % of the evidence) helps."),
        ("fallback_template", "template", TEMPLATE_START),
    ],
)
def test_a_wrong_answer_is_marked_repaired_or_replaced(what, source, text):
    found = answered(BAD, on_unfaithful=what)
    assert found.text.startswith(text) and found.audit["source"] == source
    assert found.audit["before"]["citation_precision"] == 0.5
    assert found.audit["is_faithful"] == (what != "flag")
    assert found.llm_text == BAD


def test_where_nothing_is_left_to_repair_the_template_is_given():
    found = answered('Because it is "superb".', on_unfaithful="repair")
    assert found.audit["source"] == "template" and found.text.startswith(TEMPLATE_START)


@pytest.fixture
def endpoint(monkeypatch):
    """A server that answers like OpenAI's, and keeps what it was asked."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers.get("Authorization"), body))
            content = f" <think>Is it [2]?</think> {GOOD} "
            answer = {"choices": [{"message": {"content": content}}]}
            if body["model"] == "parts":
                parts = [{"type": "reasoning", "text": "[2]"}, {"type": "text", "text": GOOD}]
                answer = {"choices": [{"message": {"content": parts}}]}
            if body["model"] == "broken":
                answer = {"error": "no such model"}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_answers(endpoint, monkeypatch):
    url, requests = endpoint
    monkeypatch.setenv("MY_KEY", "not-a-real-key")
    chat = EndpointChat(url, "small", key_variable="MY_KEY", max_new_tokens=30)
    found = instruct([told()], chat, VerbalizerConfig())[0]
    assert found.text == FILLED
    path, authorization, body = requests[0]
    assert path == "/v1/chat/completions" and authorization == "Bearer not-a-real-key"
    assert body["max_tokens"] == 30 and body["temperature"] == 0
    assert body["messages"][0]["role"] == "system"
    assert "not-a-real-key" not in repr(vars(chat))
    parts = EndpointChat(url, "parts")
    assert parts.answer([{"role": "user", "content": "?"}]) == GOOD


def test_an_endpoint_is_never_sent_the_token_of_the_hub(endpoint, monkeypatch):
    url, requests = endpoint
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    EndpointChat(url, "small").answer([{"role": "user", "content": "?"}])
    assert "hf_not" not in str(requests) and constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (" Fine. ", "Fine."),
        ([{"type": "text", "text": "Fi"}, {"type": "text", "text": "ne."}], "Fine."),
        ([{"type": "thinking", "thinking": "no"}, {"type": "text", "text": "Fine."}], "Fine."),
        ([{"type": "image_url", "image_url": {"url": "x"}}, "Fine."], "Fine."),
        ({"role": "assistant", "content": [{"type": "text", "text": "Fine."}]}, "Fine."),
        ("<think>Well.\n\nHm.</think>\nFine.", "Fine."),
        ("well, hm</think>Fine.", "Fine."),
        ("Fine.<think>and", "Fine."),
    ],
)
def test_only_what_is_said_is_an_answer(content, text):
    assert text_of(content) == text
    assert CallableChat(lambda _: content).generate([[]]) == [text]


@pytest.mark.parametrize(
    "content", [None, 7, "", "<think>cut off", [], [{"type": "image"}], [None]]
)
def test_an_answer_without_a_text_is_none(content):
    with pytest.raises(RuntimeError, match="The chat model returned no text"):
        text_of(content)
    found = instruct([told()], CallableChat(lambda _: content), VerbalizerConfig())[0]
    assert found.audit["source"] == "template" and found.llm_text is None


def test_an_endpoint_that_fails_gives_the_template_unless_strict(endpoint, caplog):
    url, _ = endpoint
    down = EndpointChat("http://127.0.0.1:9/v1", "small")
    for chat in (down, EndpointChat(url, "broken")):
        with pytest.raises(RuntimeError, match="check its address and that it is running"):
            instruct([told()], chat, VerbalizerConfig(), strict=True)
        found = instruct([told()], chat, VerbalizerConfig())[0]
        assert found.audit["source"] == "template" and found.llm_text is None
    assert "The template is used instead" in caplog.text
    with pytest.raises(ValueError, match="base_url must begin with http"):
        EndpointChat("localhost:8000", "small")


CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def chat_model(**config):
    torch.manual_seed(0)
    tokenizer = own_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), num_attention_heads=2, num_key_value_heads=2, **sizes
        )
    )
    return network, tokenizer


def test_a_chat_model_of_transformers_answers_a_batch_as_one_by_one(tmp_path):
    network, tokenizer = chat_model()
    chat = TransformersChat(network, tokenizer, max_new_tokens=5)
    talks = [
        [{"role": "user", "content": text}]
        for text in ("a warm film", "a story about friends, long")
    ]
    together = chat.generate(talks)
    assert together == [chat.generate([talk])[0] for talk in talks] and all(together)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # What was given is as it was.
    assert chat.model is network and chat.tokenizer is not tokenizer
    named = as_chat(str(tmp_path), max_new_tokens=5)
    assert named.generate(talks) == together


def test_a_chat_model_of_a_stranger_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks on the terminal"))
    network, tokenizer = chat_model()
    tokenizer.save_pretrained(tmp_path)
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ModelNotFoundError,
        match=r"only pytorch_model\.bin, and salhub does not load",
    ):
        as_chat(str(tmp_path))
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True is not supported"):
        TransformersChat(tmp_path, trust_remote_code=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    code = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    path.write_text(json.dumps({**config, "model_type": "evil", "auto_map": code}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ValueError, match="' needs custom code, but salhub does not run code from"):
        TransformersChat(tmp_path)
    assert not (tmp_path / "ran").exists()
    path.write_text(json.dumps({**config, "num_hidden_layers": 9}))
    with pytest.raises(ValueError, match="is not a trained chat model: its checkpoint lacks"):
        TransformersChat(tmp_path)
    path.write_text(json.dumps(config))
    chat = TransformersChat(tmp_path, torch_dtype="bfloat16")
    assert chat.model.dtype == torch.bfloat16
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises((ValueError, IntegrityError), match="tokenizer"):
        TransformersChat(tmp_path)
    with pytest.raises(
        ModelNotFoundError, match="The model 'nobody/nothing' was not found: it is not a"
    ):
        as_chat("nobody/nothing")
    with pytest.raises(ValueError, match="has no setting 'dtype'"):
        TransformersChat(network, tokenizer, dtype=torch.bfloat16)


def test_a_tokenizer_that_is_given_stays_as_it_was():
    network, tokenizer = chat_model()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    chat = TransformersChat(network, tokenizer)
    assert tokenizer.pad_token is None and chat.tokenizer.pad_token == "[SEP]"
    assert chat.model.device == network.device


def test_what_holds_no_conversation_is_refused():
    network, tokenizer = chat_model()
    with pytest.raises(ValueError, match="needs its tokenizer too"):
        TransformersChat(network)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        TransformersChat(network, tokenizer)
    with pytest.raises(
        TypeError, match="A chat model must be a name, a function, or an object with"
    ):
        as_chat(7)
    with pytest.raises(TypeError, match="Wrap a loaded model in TransformersChat"):
        as_chat(network)
    assert as_chat(lambda messages: "x").generate([[]]) == ["x"]
    chat = CallableChat(str)
    assert as_chat(chat) is chat


def test_one_failing_answer_does_not_discard_the_others(caplog):
    asked = []

    def answer(messages):
        asked.append(messages)
        if len(asked) == 2:
            raise KeyError("choices")
        return GOOD

    found = instruct([told()] * 3, CallableChat(answer), VerbalizerConfig())
    assert [one.audit["source"] for one in found] == ["llm", "template", "llm"]
    assert len(asked) == 3 and "The chat function failed (KeyError" in caplog.text
    asked.clear()
    with pytest.raises(RuntimeError, match="The chat function failed"):
        instruct([told()] * 3, CallableChat(answer), VerbalizerConfig(strict=True))
    with pytest.raises(RuntimeError, match="The chat model returned no text"):
        CallableChat(lambda messages: None).generate([[]])


class Grumpy:
    """Answers one conversation at a time only."""

    def generate(self, conversations):
        if len(conversations) > 1:
            raise OSError("too many")
        return [GOOD]


class Partly:
    """Answers in parts, and once with nothing."""

    def __init__(self):
        self.asked = 0

    def generate(self, conversations):
        self.asked += 1
        parts = [{"type": "text", "text": f"<think>[9]</think>{GOOD}"}]
        return [parts, "<think>and so on", GOOD]


def test_one_answer_without_a_text_does_not_ask_for_the_others_again():
    chat = Partly()
    found = instruct([told()] * 3, chat, VerbalizerConfig())
    assert [one.audit["source"] for one in found] == ["llm", "template", "llm"]
    assert chat.asked == 1 and found[0].text == found[2].text == FILLED
    with pytest.raises(RuntimeError, match="The chat model returned no text"):
        instruct([told()] * 3, chat, VerbalizerConfig(strict=True))


class Mute:
    """Never answers."""

    asked = 0

    def generate(self, conversations):
        self.asked += 1
        return []


def test_objects_that_fail_are_asked_again_and_not_forever():
    found = instruct([told()] * 3, Grumpy(), VerbalizerConfig())
    assert [one.audit["source"] for one in found] == ["llm"] * 3
    with pytest.raises(RuntimeError, match=r"The chat model failed.*too many"):
        instruct([told()] * 3, Grumpy(), VerbalizerConfig(), strict=True)
    mute = Mute()
    found = instruct([told()] * 9, mute, VerbalizerConfig())
    assert all(one.audit["source"] == "template" for one in found) and mute.asked == 4


def test_the_seed_reaches_the_chat(endpoint):
    url, requests = endpoint
    chat = as_chat(EndpointChat(url, "small"), seed=7)
    instruct([told()], chat, VerbalizerConfig())
    own = as_chat(EndpointChat(url, "small", seed=3), seed=7)
    instruct([told()], own, VerbalizerConfig())
    assert [body["seed"] for _, _, body in requests] == [7, 3]
    network, tokenizer = chat_model()
    talk = [[{"role": "user", "content": "a warm film"}]]
    drawn = []
    for seed in (1, 1, 2):
        chat = TransformersChat(network, tokenizer, max_new_tokens=12, temperature=3.0)
        drawn.append(as_chat(chat, seed=seed).generate(talk))
    assert drawn[0] == drawn[1] != drawn[2]
