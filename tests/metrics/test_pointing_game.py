"""Pointing game: the published rules on hand-made cases."""

import pytest
import torch

from salhub.metrics.pointing_game import PointingGame, boxes_to_mask, pointed_at, pointing_hit


def peak_at(row, column, size=(60, 80)):
    saliency = torch.zeros(size)
    saliency[row, column] = 1.0
    return saliency


@pytest.mark.parametrize(
    ("row", "column", "hit"),
    [
        (30, 40, True),  # inside
        (30, 54, True),  # 14 right of the box's last column
        (30, 55, False),  # exactly 15: the inequality is strict
        (15, 40, False),  # exactly 15 above
        (16, 40, True),
        (18, 49, False),  # 12 up and 9 right: exactly 15 on the diagonal
        (18, 48, True),
    ],
)
def test_distance_fifteen_is_a_miss(row, column, hit):
    # 1-based inclusive box, so the pixel (30, 40) alone after subtracting one.
    mask = boxes_to_mask([(41, 31, 41, 31)], (60, 80))
    assert pointing_hit(peak_at(row, column), mask) is hit


def test_boxes_are_inclusive_and_one_based():
    mask = boxes_to_mask([(1, 1, 2, 3), (5, 4, 5, 4)], (4, 5))
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[0:3, 0:2] = True
    expected[3, 4] = True
    assert torch.equal(mask, expected)


def test_difficult_boxes_count_unless_all_are_difficult():
    boxes = [(1, 1, 1, 1), (3, 3, 3, 3)]
    assert boxes_to_mask(boxes, (4, 4), difficult=[True, True]) is None
    assert boxes_to_mask(boxes, (4, 4), difficult=[True, False]).sum() == 2


def test_first_of_equal_maxima_is_taken():
    saliency = torch.zeros(5, 6)
    saliency[1, 4] = saliency[3, 2] = 2.0
    assert pointed_at(saliency) == (1, 4)


def test_peak_is_taken_after_resizing_to_the_picture():
    saliency = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert pointed_at(saliency, (20, 40)) == (15, 35)
    mask = boxes_to_mask([(36, 16, 40, 20)], (20, 40))
    assert pointing_hit(saliency, mask, tolerance=1.0)


def test_accuracy_is_the_mean_over_classes_with_unseen_ones_as_zero():
    game = PointingGame(num_classes=4)
    for class_index, hit in [(0, True), (0, True), (0, False), (1, True), (3, False)]:
        game.add(class_index, hit)
    assert game.class_accuracies.tolist() == pytest.approx([2 / 3, 1.0, 0.0, 0.0])
    assert game.accuracy == pytest.approx((2 / 3 + 1.0) / 4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(0, 1, 2, 2\) is not inside a picture of 5x4"):
        boxes_to_mask([(0, 1, 2, 2)], (4, 5))
    with pytest.raises(ValueError, match="1 boxes and 2 flags"):
        boxes_to_mask([(1, 1, 1, 1)], (4, 5), difficult=[True, False])
    with pytest.raises(ValueError, match=r"0\.\.1, got 2"):
        PointingGame(2).add(2, True)
    with pytest.raises(ValueError, match="one map"):
        pointing_hit(torch.zeros(1, 4, 4), torch.zeros(4, 4, dtype=torch.bool))
