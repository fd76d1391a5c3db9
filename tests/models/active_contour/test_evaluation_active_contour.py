"""Measuring a contour: on a folder of pictures and masks, and on the drawn suite."""

import numpy as np
import pytest
from PIL import Image

from salhub.models.active_contour.configuration_active_contour import SaliencyActiveContourConfig
from salhub.models.active_contour.contour_suite import DEGRADATIONS, KINDS, make_contour_case
from salhub.models.active_contour.evaluation_active_contour import (
    THRESHOLD,
    TUNED,
    Scores,
    evaluate,
    random_starts,
)
from salhub.models.active_contour.image_processing_active_contour import (
    SaliencyActiveContourImageProcessor,
)
from salhub.models.active_contour.masked_pictures import draw_suite, read_masked_folder
from salhub.models.active_contour.modeling_active_contour import (
    SaliencyActiveContourForSegmentation,
)
from tests.evaluation.sharing import check_shared


@pytest.fixture
def folder(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, kind in enumerate(("disk", "three")):
        image, mask = make_contour_case(kind, "noise", number, size=72)
        Image.fromarray((255 * image).astype("u1")).save(tmp_path / "images" / f"{kind}.png")
        Image.fromarray((255 * mask).astype("u1")).save(tmp_path / "masks" / f"{kind}.png")
    return tmp_path


def test_a_folder_is_measured(folder):
    model = SaliencyActiveContourForSegmentation(SaliencyActiveContourConfig()).eval()
    processor = SaliencyActiveContourImageProcessor()
    results = evaluate(model, processor, folder, ablations=False, num_starts=6, progress=False)
    assert results.data["pictures"] == 2
    assert results.metric(f"Quality/dice/{TUNED}").value > 0.93
    assert results.metric(f"Quality/dice/{THRESHOLD}").value > 0.9
    assert results.metric(f"starts/largest sd/{TUNED}").value < 0.01
    assert [table.title for table in results.tables] == ["Quality", "First contours"]


def test_masks_follow_their_pictures_to_the_working_size(folder):
    processor = SaliencyActiveContourImageProcessor(longest_edge=36)
    [first, _] = read_masked_folder(folder, processor)
    assert first.pixels.shape == (1, 36, 36) and first.mask.shape == (36, 36)


def test_a_folder_that_lacks_something_is_refused(folder):
    processor = SaliencyActiveContourImageProcessor()
    Image.new("L", (72, 71), 9).save(folder / "masks" / "disk.png")
    with pytest.raises(ValueError, match=r"disk.png is \(72, 72\) but its mask \(71, 72\)"):
        read_masked_folder(folder, processor)
    Image.new("L", (72, 72), 9).save(folder / "masks" / "disk.png")
    with pytest.raises(ValueError, match="no pixels inside or none outside"):
        read_masked_folder(folder, processor)
    (folder / "masks" / "disk.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"disk.png has no mask"):
        read_masked_folder(folder, processor)
    with pytest.raises(FileNotFoundError, match="no folder 'images'"):
        read_masked_folder(folder / "masks", processor)


def test_masks_of_lossy_turned_and_loudly_named_files_are_read(folder, caplog):
    processor = SaliencyActiveContourImageProcessor()
    exact = [one.mask for one in read_masked_folder(folder, processor)]
    for place in ("images", "masks"):
        for path in (folder / place).iterdir():
            # Lying on its side, as cameras store what was upright.
            exif = Image.Exif()
            exif[0x0112] = 6
            lying = Image.open(path).transpose(Image.Transpose.ROTATE_90)
            if place == "masks":
                path.unlink()
                path = path.with_suffix(".JPG" if path.stem == "disk" else ".PNG")
            options = {"quality": 80} if path.suffix == ".JPG" else {}
            lying.save(path, exif=exif, **options)
    [disk, three] = [one.mask for one in read_masked_folder(folder, processor)]
    assert (disk != exact[0]).mean() < 0.002 and (three == exact[1]).all()
    assert "JPG: everything above half of their brightest tone is" in caplog.text


def test_the_suite_is_drawn_alike_whatever_is_asked_for():
    whole = draw_suite([7])
    assert len(whole) == len(KINDS) * len(DEGRADATIONS)
    [one] = draw_suite([7], kinds=["tee"], degradations=["bias"])
    same = next(picture for picture in whole if picture.name == one.name)
    assert bool((same.pixels == one.pixels).all()) and (same.mask == one.mask).all()
    for picture in whole:
        assert 0.01 < picture.mask.mean() < 0.3
        edge = np.ones_like(picture.mask)
        edge[3:-3, 3:-3] = False
        assert not (picture.mask & edge).any()


def test_the_wrong_side_is_counted_as_wrong():
    [picture] = draw_suite([0], kinds=["disk"], degradations=["clean"])
    masks = [picture.mask, ~picture.mask, np.zeros_like(picture.mask)]
    scores = Scores(masks, [picture] * 3)
    assert scores.inverted.tolist() == [False, True, True]
    assert scores.dice[0] == 1 and scores.dice[1:].tolist() == [0, 0]
    assert scores.best[1] == 1 and scores.hd95[0] == 0
    assert scores.hd95[1] > 0 and np.isinf(scores.hd95[2])
    sideless = Scores(masks[:2], [picture] * 2, has_sides=False)
    assert sideless.dice.tolist() == [1, 1] and sideless.hd95.tolist() == [0, 0]


def test_the_headline_is_of_the_masks_that_come_out(folder):
    # A plate around a hole: what stands out from the frame is the plate, and the truth the hole.
    for path in (folder / "masks").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    model = SaliencyActiveContourForSegmentation(SaliencyActiveContourConfig()).eval()
    processor = SaliencyActiveContourImageProcessor()
    results = evaluate(model, processor, folder, ablations=False, num_starts=2, progress=False)
    assert results.metric(f"Quality/dice/{TUNED}").value < 0.1
    assert results.metric(f"Quality/better side/{TUNED}").value > 0.9
    assert results.metric(f"Quality/inverted/{TUNED}").value == 2
    row = dict(zip(results.tables[0].columns, results.tables[0].rows[0], strict=True))
    assert float(row["mean"]) < 0.1 and float(row["better side"]) > 0.9 and row["inverted"] == 2
    assert float(results.tables[1].rows[0][1]) < 0.1


def test_starts_are_many_and_have_both_sides():
    starts = random_starts(12, (40, 50), seed=0)
    share = starts.flatten(1).float().mean(1)
    assert starts.shape == (12, 40, 50)
    assert bool(((share > 0.02) & (share < 0.98)).all())
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 12


def test_bad_drawings_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'star'"):
        make_contour_case("stars", "clean", 0)
    with pytest.raises(ValueError, match="size must be 32 or more"):
        make_contour_case("star", "clean", 0, size=16)


def test_two_jobs_measure_what_one_measures(folder, tmp_path):
    model = SaliencyActiveContourForSegmentation(SaliencyActiveContourConfig()).eval()
    processor = SaliencyActiveContourImageProcessor()
    small = {"ablations": False, "num_starts": 3, "progress": False}
    assert check_shared(lambda: evaluate(model, processor, folder, **small), tmp_path / "rows") == 2
