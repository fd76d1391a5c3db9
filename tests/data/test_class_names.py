"""Which class is meant: an exact name before all else, an index last."""

import numpy as np
import pytest
import torch

from salhub.data.class_names import ClassNames
from salhub.data.subset import choose_subset

STARS = ["1", "2", "3", "4", "5"]
BIRDS = {3: "crane", 7: "cock", 8: "Tiger cat", 9: "tench, Tinca tinca", 12: "crane", 20: "hen"}


@pytest.mark.parametrize(
    ("asked", "index"),
    [("3", 2), ("5", 4), ("0", 0), (3, 3), (np.int64(1), 1), (torch.tensor(2), 2), ("1", 0)],
)
def test_an_exact_name_wins_over_an_index_and_a_number_is_an_index(asked, index):
    assert ClassNames(STARS).index_of(asked) == index
    assert ClassNames(dict(enumerate(STARS))).index_of(asked) == index


@pytest.mark.parametrize(
    ("asked", "index"), [("hen", 20), ("tiger_cat", 8), ("TENCH", 9), ("12", 12), (" Cock ", 7)]
)
def test_names_in_other_letters_the_first_synonym_and_numbers(asked, index):
    assert ClassNames(BIRDS).index_of(asked) == index


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ("crane", ValueError, "2 classes are called 'crane'; give an index, one of 3, 12"),
        ("tigr cat", ValueError, "Did you mean 'tiger cat'.* index of 0 to 20"),
        ("4", ValueError, "There is no class '4'"),
        (True, TypeError, "A class must be an index or a name, got True"),
        (1.0, TypeError, "A class must be an index or a name, got"),
        (None, TypeError, "A class must be an index or a name, got"),
    ],
)
def test_what_means_no_class_or_several_is_refused(asked, error, words):
    with pytest.raises(error, match=words):
        ClassNames(BIRDS).index_of(asked)


def test_a_model_that_names_no_classes_takes_any_number():
    assert ClassNames({}).index_of("17") == 17


def test_parts_of_data_are_named_by_the_same_rule():
    labels = torch.tensor([0, 1, 2, 3, 4])
    found = choose_subset("class:3", labels, torch.arange(5), STARS, torch.Generator())
    assert found.classes == (2,)
    assert choose_subset("class:1,5,0", labels, torch.arange(5), STARS, None).classes == (0, 4)
