"""`salhub push` and `salhub demo` pass on what they were given."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

import salhub.publishing


@pytest.fixture
def pushed(monkeypatch):
    calls = []

    def push(*arguments, **keywords):
        calls.append((arguments, keywords))
        commit = type("Commit", (str,), {"oid": "1" * 40, "pr_url": None})
        return commit("https://hub/owner/name/commit/1")

    monkeypatch.setattr(salhub.publishing, "push", push)
    return calls


def test_push_passes_everything_on(call, call_json, pushed):
    words = ["--private", "--token", "t", "--revision", "trial", "--message", "Why"]
    output = call("push", "normgrad-efficientnet-lite0", "owner/name", *words).stdout
    assert output == "https://hub/owner/name/commit/1\n"
    [(arguments, keywords)] = pushed
    assert arguments == ("normgrad-efficientnet-lite0", "owner/name")
    assert keywords == {
        "private": True,
        "token": "t",
        "revision": "trial",
        "commit_message": "Why",
        "create_pr": False,
        "card": None,
    }
    [record] = call_json("push", "folder", "owner/name", "--create-pr")
    assert record["revision"] == "1" * 40
    assert pushed[-1][1]["create_pr"] is True


def test_a_push_that_cannot_work_is_one_sentence(call, tmp_path):
    error = call("push", "normgrad-efficientnet-lite0", "no-owner", code=1).stderr
    assert error == "Error: The repository must be written as 'owner/name', got 'no-owner'.\n"
    error = call("push", "normgrad-efficientnet-lite", "me/x", code=1).stderr
    assert "Did you mean 'normgrad-efficientnet-lite0'" in error


def test_demo_builds_the_page_and_serves_it(call, monkeypatch):
    calls = []
    ui = ModuleType("salhub.ui")
    ui.build_page = lambda name, classifier: SimpleNamespace(name=(name, classifier))
    ui.build_gallery = lambda: SimpleNamespace(name="every method")
    ui.launch = lambda page, **settings: calls.append((page.name, settings))
    monkeypatch.setitem(sys.modules, "salhub.ui", ui)
    call("demo", "gradcam-efficientnet-lite0", "--port", "7861", "--no-browser")
    call("demo")
    call("demo", "normgrad", "--classifier", "trained", "--no-browser")
    assert calls.pop()[0] == ("normgrad", "trained")
    assert calls == [
        (
            ("gradcam-efficientnet-lite0", None),
            {"server_name": "127.0.0.1", "server_port": 7861, "inbrowser": False},
        ),
        ("every method", {"server_name": "127.0.0.1", "server_port": None, "inbrowser": True}),
    ]
    assert "Did you mean 'normgrad'" in call("demo", "normgard", code=1).stderr
    assert "needs the name of a method" in call("demo", "--classifier", "n", code=2).stderr
    assert len(calls) == 2


def test_demo_without_its_extra_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("salhub.ui")]:
        monkeypatch.delitem(sys.modules, name)
    error = call("demo", code=1).stderr
    assert "pip install 'salhub[demo]'" in error and error.count("\n") == 1
