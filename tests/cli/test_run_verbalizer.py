"""`salhub run` on texts to explain: the sentence is printed, and the shaded words are written."""

import json
import re

import pytest
from PIL import Image

NAME = "verbalizer-movie-reviews"


def test_it_prints_the_sentence_and_writes_the_heat_map(call, tmp_path):
    done = call("run", NAME, "A wonderful <b>film</b>.")
    assert "“wonderful" in done.output and "Rated positive" in done.output
    (picture,) = tmp_path.glob("*.png")
    with Image.open(picture) as image:
        assert image.width > 400


def test_other_outputs_settings_and_standard_input(call, tmp_path):
    call("run", NAME, "A wonderful film.", "-o", "why.html", "--language", "de")
    page = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert "hauptsächlich wegen" in page and "<mark" in page
    call("run", NAME, "-", "-o", "why.json", "--class", "positive", stdin="Dull. 🎬".encode())
    record = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    assert record["label"] == "positive" and record["words"][0]["word"] == "Dull"


@pytest.mark.parametrize(
    ("setting", "value", "pattern"),
    [("--language", "it", "language.*one of"), ("--contrast", "posittive", "Did you mean")],
)
def test_mistakes_get_one_sentence(call, setting, value, pattern):
    done = call("run", NAME, "A film.", setting, value, code=1)
    assert re.search(pattern, done.output + str(done.exception))
