"""What a page says when the server has dropped the state of a visit."""

import html
import json

import httpx
import pytest

from salhub.ui import build_page, launch
from salhub.ui.page import FORGOTTEN

# gradio asks pandas for what pandas is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:::gradio.queueing")


class _Visit:
    """What a browser does: it keeps what each component shows, and sends it with every event."""

    def __init__(self, address: str, config: dict, session: str) -> None:
        self.address, self.config, self.session = address, config, session
        self.components = {one["id"]: one for one in config["components"]}
        self.shown = {one: made["props"].get("value") for one, made in self.components.items()}

    def find(self, label: str) -> int:
        return next(k for k, v in self.components.items() if v["props"].get("label") == label)

    def see(self, label: str):
        return self.shown[self.find(label)]

    @property
    def api(self) -> str:
        return f"{self.address.rstrip('/')}/gradio_api"

    def move(self, label: str, value) -> str:
        """Move a control; return what the server sent, as JSON."""
        return self.hear(self.press(self.find(label), value))

    def press(self, control: int, value) -> dict:
        """Move a control without waiting for the answer; return the event."""
        self.shown[control] = value
        event = next(one for one in self.config["dependencies"] if one["targets"][0][0] == control)
        data = [None if self.is_state(one) else self.shown[one] for one in event["inputs"]]
        asked = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        joined = httpx.post(f"{self.api}/queue/join", json=asked, timeout=60).json()
        return {**event, "event_id": joined["event_id"]}

    def hear(self, *events: dict) -> str:
        """Take the answers to events, in their order; return the last one as JSON."""
        waiting = {one["event_id"]: one for one in events}
        with httpx.stream(
            "GET", f"{self.api}/queue/data", params={"session_hash": self.session}, timeout=60
        ) as lines:
            messages = (json.loads(one[5:]) for one in lines.iter_lines() if one[:5] == "data:")
            while waiting:
                done = next(one for one in messages if one["msg"] == "process_completed")
                assert done["success"], done
                event = waiting.pop(done["event_id"])
                for component, sent in zip(event["outputs"], done["output"]["data"], strict=True):
                    if isinstance(sent, dict) and "value" in sent:
                        self.shown[component] = sent["value"]
        return json.dumps(done["output"]["data"])

    def upload(self, path) -> dict:
        """Send a file; return what a picture shows of it."""
        sent = {"files": (path.name, path.read_bytes())}
        [place] = httpx.post(f"{self.api}/upload", files=sent, timeout=60).json()
        meta = {"_type": "gradio.FileData"}
        return {"path": place, "orig_name": path.name, "meta": meta}

    def is_state(self, component: int) -> bool:
        return self.components[component]["type"] == "state"


@pytest.fixture(scope="module")
def page():
    page = build_page("salun-resnet8-cifar10")
    yield page, *launch(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    page.close(verbose=False)


def test_a_visit_that_the_server_has_dropped_is_not_answered_for_the_first_state(page):
    blocks, _, address, _ = page
    first = _Visit(address, blocks.get_config_file(), "first")
    first.move("Class to forget", "dog")
    assert FORGOTTEN not in first.move("Class to forget", "frog")
    blocks.app.state_holder.session_data.pop("first")
    for name in ("horse", "ship"):
        answer = first.move("Class to forget", name)
        assert FORGOTTEN in answer
        assert name not in answer
    second = _Visit(address, blocks.get_config_file(), "second")
    assert FORGOTTEN not in second.move("Class to forget", "ship")


def test_presses_that_did_not_wait_for_the_first_answer_are_answered(page):
    blocks, _, address, _ = page
    visit = _Visit(address, blocks.get_config_file(), "quick")
    before = dict(visit.shown)
    visit.move("Class to forget", "dog")
    visit.shown = before
    assert FORGOTTEN not in visit.move("Class to forget", "ship")


def test_a_second_press_before_the_first_answer_keeps_the_upload(page, sample):
    blocks, _, address, _ = page
    visit = _Visit(address, blocks.get_config_file(), "impatient")
    picture = visit.find("Picture")
    sent = visit.upload(sample)
    first = visit.press(picture, sent)
    # Of a list that the first answer may have replaced.
    second = visit.press(visit.find("Class to forget"), "a class of another list")
    answer = visit.hear(first, second)
    assert "list of choices" not in answer
    assert (
        "Class to forget has no option 'a class of another list'; choose one of airplane,"
        in html.unescape(answer)
    )
    assert visit.shown[picture] == sent
    assert "ship" in visit.move("Class to forget", "ship")


def test_no_control_answers_with_a_sentence_of_gradio(page):
    blocks, _, address, _ = page
    visit = _Visit(address, blocks.get_config_file(), "odd")
    chosen = [one for one, made in visit.components.items() if made["props"].get("choices")]
    assert chosen
    for number in chosen:
        for value in ("nonsense", 7, None, ["a"]):
            assert "list of choices" not in visit.hear(visit.press(number, value))
