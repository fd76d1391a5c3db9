"""The small CLIP that is shipped: plain transformers loads it, and it knows its classes by name."""

import pytest
import torch
from transformers import AutoModelForZeroShotImageClassification, CLIPModel, CLIPProcessor, pipeline

import salhub
from salhub.data.labelled_pictures import read_labelled_pictures
from salhub.data.picture_preparation import PicturePreparation
from salhub.evaluation.zero_shot_image_classification import (
    image_features,
    spoken_names,
    text_features,
)
from salhub.hub import load
from salhub.manifest import WEIGHTS_ROOT
from salhub.results import read_results
from tests.conftest import DATA

NAME = "salhub/tiny-clip-32"
FOLDER = WEIGHTS_ROOT / "tiny-clip-32"
PICTURES = DATA / "vl" / "tin32_320.npz"


def test_plain_transformers_loads_the_folder_and_classifies_a_photo():
    model, info = CLIPModel.from_pretrained(FOLDER, output_loading_info=True)
    assert type(model) is CLIPModel and not any(info.values()) and model.dtype == torch.float32
    names = ["tabby", "school bus", "volleyball"]
    found = pipeline("zero-shot-image-classification", model=str(FOLDER))(
        salhub.load_image("sample:cat"), candidate_labels=names
    )
    assert {one["label"] for one in found} == set(names)
    assert sum(one["score"] for one in found) == pytest.approx(1, abs=1e-5)


def test_it_loads_by_name_and_is_small():
    model = load(AutoModelForZeroShotImageClassification, NAME)
    processor = load(CLIPProcessor, NAME)
    assert type(model) is CLIPModel
    assert sum(parameter.numel() for parameter in model.parameters()) < 1.1e6
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2.2 * 2**20
    ends = (processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id)
    text = model.config.text_config
    assert ends == (text.vocab_size - 2, text.vocab_size - 1)
    assert (text.bos_token_id, text.eos_token_id) == ends
    assert processor.tokenizer.model_max_length == text.max_position_embeddings


def test_its_accuracy_is_that_of_its_card():
    if not PICTURES.is_file():
        pytest.skip(f"there is no {PICTURES}; set SALHUB_DATA to the folder above")
    data = read_labelled_pictures(PICTURES)
    places = data.test_places[::20]
    model, processor = load(CLIPModel, NAME).eval(), load(CLIPProcessor, NAME)
    pixels = PicturePreparation(processor.image_processor)(data.images(places))
    classes = text_features(model, processor.tokenizer, spoken_names(data.class_names))
    guesses = (image_features(model, pixels) @ classes.T).argmax(1)
    accuracy = float((guesses == data.labels[places]).float().mean())
    published = read_results(NAME).metric("accuracy/all").value
    # Four standard errors of so few pictures.
    assert abs(accuracy - published) < 4 * (published * (1 - published) / len(places)) ** 0.5
    assert published > 0.1
