"""NIfTI, arrays, markers, outlines and nnU-Net folders: in, out, and what is refused."""

import json

import numpy as np
import pytest

nib = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")

from salhub.models.sdl_seg.contours import area, outlines  # noqa: E402
from salhub.models.sdl_seg.marker_files import read_markers  # noqa: E402
from salhub.models.sdl_seg.nifti import write_nifti  # noqa: E402
from salhub.models.sdl_seg.nnunet_folder import read_nnunet, write_nnunet  # noqa: E402
from salhub.models.sdl_seg.volume import Volume  # noqa: E402
from salhub.models.sdl_seg.volume_files import load_mask, load_volume  # noqa: E402
from tests.conftest import DATA  # noqa: E402
from tests.models.sdl_seg import scanner  # noqa: E402

SHAPE = (20, 30, 12)  # as stored: i, j, k


def rotation(angle):
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def affine_of(axes, rotate=0.0):
    """Stored axes as letters of where they lead, such as "RAS" or "PSL"."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0),
                  "S": (0, 0, 1), "I": (0, 0, -1)}  # fmt: skip
    affine = np.eye(4)
    for column, (letter, step) in enumerate(zip(axes, (0.9, 1.3, 2.7), strict=True)):
        affine[:3, column] = rotation(rotate) @ directions[letter] * step
    affine[:3, 3] = 12.3, -45.6, 78.9
    # As a file keeps it.
    return affine.astype(np.float32).astype(np.float64)


def ct(shape=SHAPE):
    values = np.random.default_rng(0).integers(-900, 1500, size=shape).astype(np.int16)
    values[0, 0, 0] = -1000
    return values


def save(path, values, affine, unit="mm", has_codes=True):
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    if not has_codes:
        # nibabel would write one of its own.
        patch(path, 252, np.zeros(2, dtype="<i2"))
    return path


def patch(path, offset, numbers):
    """Write numbers over the bytes of a file."""
    raw = bytearray(path.read_bytes())
    raw[offset : offset + numbers.nbytes] = numbers.tobytes(order="F")
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSL", "SAR", "AIL"])
@pytest.mark.parametrize("rotate", [0.0, 0.2])
def test_a_mask_goes_back_to_its_file_voxel_by_voxel(tmp_path, axes, rotate):
    values, affine = ct(), affine_of(axes, rotate)
    path = save(tmp_path / "ct.nii.gz", values, affine)
    volume = load_volume(path)
    # Every voxel is where the file says.
    stored = np.argwhere(values > 1450)
    theirs = stored @ affine[:3, :3].T + affine[:3, 3]
    ours = volume.to_mm(np.argwhere(volume.array > 1450))
    np.testing.assert_allclose(sorted(map(tuple, ours)), sorted(map(tuple, theirs)), atol=1e-5)
    assert (np.diag(volume.affine)[:3] > 0.5).all()
    write_nifti(tmp_path / "mask.nii.gz", volume.array > 100, volume)
    found, source = nib.load(tmp_path / "mask.nii.gz"), nib.load(path)
    assert found.shape == source.shape
    assert found.affine.tobytes() == source.affine.tobytes()
    assert (found.header["sform_code"], found.header["qform_code"]) == (
        source.header["sform_code"], source.header["qform_code"])  # fmt: skip
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(found.dataobj), values > 100)
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.nii.gz", volume), volume.array > 100)
    write_nifti(tmp_path / "map.nii.gz", volume.array / 7, volume)
    np.testing.assert_array_equal(
        np.asarray(nib.load(tmp_path / "map.nii.gz").dataobj), values.astype(np.float32) / 7
    )


def test_a_scaled_file_of_integers_is_read_in_hu(tmp_path):
    path = save(tmp_path / "ct.nii", ct(), affine_of("RAS"))
    patch(path, 112, np.array([0.5, -10], dtype="<f4"))
    np.testing.assert_allclose(load_volume(path).array, (ct() * 0.5 - 10).T, atol=1e-4)
    patch(path, 112, np.array([0.5, np.nan], dtype="<f4"))
    with pytest.raises(ValueError, match="is damaged"):
        load_volume(path)


def test_a_volume_from_elsewhere_says_where_it_lies(tmp_path):
    hu, _ = scanner.blob()
    affine = affine_of("RAS", 0.3)
    volume = Volume(ct((6, 5, 4)), (2.7, 1.3, 0.9), affine)
    write_nifti(tmp_path / "a.nii.gz", volume.array > 0, volume)
    found = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    assert found.header.get_xyzt_units()[0] == "mm"
    volume = Volume(hu, scanner.SPACING)
    write_nifti(tmp_path / "b.nii.gz", volume.array > 0, volume)
    found = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(found.header.get_zooms(), scanner.SPACING[::-1], rtol=1e-6)
    # One order of voxels for every program, and for the volume it was made of.
    np.testing.assert_array_equal(found.affine, np.diag([*scanner.SPACING[::-1], 1]).astype("f4"))
    assert (found.header["sform_code"], found.header["qform_code"]) == (2, 2)
    np.testing.assert_array_equal(np.asarray(found.dataobj).T, volume.array > 0)
    np.testing.assert_array_equal(load_mask(tmp_path / "b.nii.gz", volume), volume.array > 0)


def test_a_mask_of_an_array_is_taken_in_its_order_or_refused(tmp_path):
    values = ct((6, 5, 4))
    array, mask = values.T, (values > 0).astype(np.uint8)
    volume = Volume(array, (2.7, 1.3, 0.9))
    nothing = save(tmp_path / "a.nii", mask, np.diag([0.9, 1.3, 2.7, 1]), has_codes=False)
    np.testing.assert_array_equal(load_mask(nothing, volume), array > 0)
    turned = save(tmp_path / "b.nii", mask, affine_of("LPS"))
    with pytest.raises(
        ValueError, match="is stored in another orientation, but the orientation of"
    ):
        load_mask(turned, volume)
    other = save(tmp_path / "c.nii", mask, np.diag([0.9, 1.3, 5.0, 1]))
    with pytest.raises(
        ValueError,
        match=r"has a spacing of 5, 1\.3, 0\.9 mm, but the volume has 2\.7, 1\.3, 0\.9 mm along z, "
        "y and x",
    ):
        load_mask(other, volume)
    for name, given in {"spacing": (5.0, 1.3, 0.9), "affine": affine_of("LPS")}.items():
        np.savez(tmp_path / "d.npz", mask=array > 0, **{name: given})
        where = Volume(array, (2.7, 1.3, 0.9), affine_of("RAS"))
        with pytest.raises(ValueError, match=f"another {name} than the volume"):
            load_mask(tmp_path / "d.npz", where)


def test_a_flipped_bit_is_found(tmp_path):
    path = save(tmp_path / "ct.nii.gz", ct(), affine_of("RAS"))
    np.savez_compressed(tmp_path / "ct.npz", volume=ct(), spacing=(2.7, 1.3, 0.9))
    for one in (path, tmp_path / "ct.npz"):
        raw = bytearray(one.read_bytes())
        raw[len(raw) // 2] ^= 255
        one.write_bytes(bytes(raw))
        with pytest.raises(ValueError, match="is damaged"):
            load_volume(one)


def test_guesses_are_said(tmp_path):
    path = tmp_path / "ct.nii"
    save(path, ct(), affine_of("RAS"), unit="unknown", has_codes=False)
    nothing, unit = load_volume(path).warnings
    assert "salhub assumes that x grows to the left as stored, and" in nothing
    assert "mm is assumed" in unit
    image = nib.Nifti1Image(ct(), affine_of("RAS"))
    image.header.set_xyzt_units("mm")
    image.set_qform(affine_of("RAS", 0.5), code=1)
    image.set_sform(affine_of("RAS"), code=1)
    nib.save(image, tmp_path / "two.nii")
    [twice] = load_volume(tmp_path / "two.nii").warnings
    assert "The sform and the qform of" in twice
    lost = save(tmp_path / "lost.nii", ct(), np.eye(4))
    assert (
        "has steps of exactly 1 mm and its origin at 0, which often"
        in load_volume(lost).warnings[0]
    )
    [small] = Volume(ct((6, 5, 4)), (0.3, 0.15, 0.15)).warnings
    assert "only 1.8 mm across" in small


_SHEARED = np.eye(4)
_SHEARED[0, 1] = 0.3
_COLOURS = np.zeros((4, 5, 6), [(c, "u1") for c in "RGB"])
_HOLED = np.where(ct() > 1400, np.nan, ct()).astype(np.float32)
REFUSED = {
    "four axes": (
        {"values": ct((4, 5, 6, 2))},
        r"has shape \(4, 5, 6, 2\), but a volume has 3 axes",
    ),
    "colours": ({"values": _COLOURS}, "has colours; a CT has one number in HU per voxel"),
    "metres": ({"unit": "meter"}, "gives its spacing in meter instead of mm; convert it first"),
    "centimetres": ({"affine": np.diag([0.01, 0.01, 0.03, 1])}, "is it in cm"),
    "no spacing": (
        {"affine": np.eye(4), "has_codes": False},
        "add it to the header, or give the array with spacing=",
    ),
    "two spacings": ({"pixdim": (0.7, 0.7, 5)}, r"mm in its affine; repair its header\."),
    "shear": ({"affine": _SHEARED}, "7 degrees from being perpendicular, as with a tilted"),
    "8-bit": ({"values": ct().astype(np.uint8)}, "looks like 8-bit"),
    "raw numbers": ({"values": ct() + np.int16(1024)}, "apply the slope and intercept"),
    "NaN": ({"values": _HOLED}, r"\d+ of 7200 voxels are NaN or infinite"),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_ct_in_mm_is_refused(tmp_path, changes, sentence):
    given = {"values": ct(), "affine": affine_of("RAS"), **changes}
    pixdim = given.pop("pixdim", None)
    path = save(tmp_path / "ct.nii", given.pop("values"), given.pop("affine"), **given)
    if pixdim:
        patch(path, 80, np.array(pixdim, dtype="<f4"))
        patch(path, 252, np.zeros(1, dtype="<i2"))  # no qform, whose steps pixdim would be
    with pytest.raises(ValueError, match=sentence):
        load_volume(tmp_path / "ct.nii")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_damaged_file_is_refused(tmp_path, ending):
    path = save(tmp_path / f"ct{ending}", ct(), affine_of("RAS"))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="is damaged or not a NIfTI file; export it again"):
        load_volume(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged or not a NIfTI file; export it again"):
        load_volume(path)
    with pytest.raises(FileNotFoundError, match=r"The file .*gone.* does not exist"):
        load_volume(tmp_path / f"gone{ending}")


def test_a_volume_larger_than_memory_is_refused_by_its_header(tmp_path):
    path = save(tmp_path / "ct.nii", ct(), affine_of("RAS"))
    patch(path, 42, np.array([30000, 30000, 20000], dtype="<i2"))
    with pytest.raises(ValueError, match=r"30000 x 30000 x 20000 voxels and needs about 402,\d+"):
        load_volume(path)


@pytest.mark.parametrize("name", ["CT_pitch.nii.gz", "CT_AVM.nii.gz"])
def test_real_files_that_are_not_in_hu_are_refused(name):
    path = DATA / "ct" / name
    if not path.is_file():
        pytest.skip(f"the CT files are not in {path.parent}; set SALHUB_DATA to their parent")
    with pytest.raises(ValueError, match=r"looks like 8-bit|apply the slope"):
        load_volume(path)


def test_arrays_come_with_their_spacing(tmp_path):
    hu, mask = scanner.blob()
    np.savez(tmp_path / "a.npz", volume=hu, spacing=scanner.SPACING, mask=mask)
    volume = load_volume(tmp_path / "a.npz")
    assert volume.spacing == scanner.SPACING
    np.testing.assert_array_equal(volume.array, hu.astype(np.float32))
    np.testing.assert_array_equal(load_mask(tmp_path / "a.npz", volume), mask)
    np.save(tmp_path / "a.npy", hu)
    assert load_volume(str(tmp_path / "a.npy"), scanner.SPACING).spacing == scanner.SPACING
    with pytest.raises(ValueError, match="spacing is missing"):
        load_volume(tmp_path / "a.npy")
    with pytest.raises(
        ValueError, match=r"The file has a spacing of 2\.5, 1\.25, 0\.8 mm, but spacing= gives"
    ):
        load_volume(tmp_path / "a.npz", (1, 1, 1))
    np.savez(tmp_path / "b.npz", image=hu)
    with pytest.raises(ValueError, match=r"no array called volume, only image"):
        load_volume(tmp_path / "b.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:2000])
    with pytest.raises(ValueError, match="is damaged"):
        load_volume(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(
        ValueError, match="is damaged or not a NumPy file of numbers; save it again"
    ):
        load_volume(tmp_path / "c.npy", (1, 1, 1))


def test_a_mask_of_another_grid_is_refused(tmp_path):
    path = save(tmp_path / "ct.nii.gz", ct(), affine_of("RAS"))
    volume = load_volume(path)
    moved = affine_of("RAS")
    moved[0, 3] += 5
    save(tmp_path / "moved.nii.gz", (ct() > 0).astype(np.uint8), moved)
    with pytest.raises(
        ValueError, match="is not at the same place as the volume; give the mask that"
    ):
        load_mask(tmp_path / "moved.nii.gz", volume)
    save(tmp_path / "small.nii.gz", np.ones((4, 5, 6), np.uint8), affine_of("RAS"))
    with pytest.raises(ValueError, match="give a mask on the grid of the volume"):
        load_mask(tmp_path / "small.nii.gz", volume)
    save(tmp_path / "labels.nii.gz", (ct() % 3).astype(np.uint8), affine_of("RAS"))
    with pytest.raises(ValueError, match="has 3 values such as 0, 1, 2"):
        load_mask(tmp_path / "labels.nii.gz", volume)
    save(tmp_path / "chance.nii", ((ct() > 0) * 0.3).astype(np.float32), affine_of("RAS"))
    with pytest.raises(ValueError, match=r"contains 0\.3, so it looks like"):
        load_mask(tmp_path / "chance.nii", volume)
    with pytest.raises(ValueError, match=r"The mask must have the shape of the volume"):
        load_mask(np.ones((2, 2, 2)), volume)
    with pytest.raises(ValueError, match=r"The mask must contain only 0 and 1"):
        load_mask(volume.array, volume)


def test_markers_are_read_in_voxels_and_in_mm(tmp_path):
    volume = Volume(ct((6, 5, 4)), (2.7, 1.3, 0.9), affine_of("RAS", 0.3))
    places = np.array([[1.0, 2.0, 3.0], [4.5, 0.0, 1.25]])
    files = {
        "a.json": json.dumps({"markers_voxel": places.tolist()}),
        "b.json": json.dumps({"markers_mm": volume.to_mm(places).tolist()}),
        "a.csv": "z,y,x\n1,2,3\n4.5,0,1.25\n\n",
        "b.csv": "x_mm, y_mm, z_mm\n"
        + "\n".join(",".join(map(repr, row)) for row in volume.to_mm(places).tolist()),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        np.testing.assert_allclose(read_markers(tmp_path / name, volume), places, atol=1e-9)
    plain = Volume(ct((6, 5, 4)), (2.7, 1.3, 0.9))
    (tmp_path / "b.csv").write_text("x_mm,y_mm,z_mm\n0.9,2.6,8.1\n")
    np.testing.assert_allclose(read_markers(tmp_path / "b.csv", plain), [[3, 2, 1]])


def test_voxels_of_a_turned_file_are_never_taken_for_those_as_read(tmp_path):
    stored, affine = np.array([[3, 20, 5], [17, 2, 9]]), affine_of("LPS", 0.1)
    volume = load_volume(save(tmp_path / "ct.nii", ct(), affine))
    mm = stored @ affine[:3, :3].T + affine[:3, 3]
    rows = "\n".join(",".join(map(str, row)) for row in stored)
    (tmp_path / "a.csv").write_text(f"i,j,k\n{rows}\n")
    np.testing.assert_allclose(volume.to_mm(read_markers(tmp_path / "a.csv", volume)), mm)
    (tmp_path / "a.json").write_text(json.dumps({"markers_ijk": stored.tolist()}))
    np.testing.assert_allclose(volume.to_mm(read_markers(tmp_path / "a.json", volume)), mm)
    (tmp_path / "b.csv").write_text(f"z,y,x\n{rows}\n")
    (tmp_path / "b.json").write_text(json.dumps({"markers_voxel": stored.tolist()}))
    for name in ("b.csv", "b.json"):
        with pytest.raises(ValueError, match="may be mirrored; give i,j,k as stored or x_mm"):
            read_markers(tmp_path / name, volume)
    plain = Volume(ct((6, 5, 4)), (2.7, 1.3, 0.9))
    with pytest.raises(ValueError, match="of a NIfTI file, but the volume does not come from one"):
        read_markers(tmp_path / "a.csv", plain)


def test_places_that_are_said_twice_must_agree(tmp_path):
    volume = load_volume(save(tmp_path / "ct.nii", ct(), affine_of("LPS")))
    places = np.array([[3.0, 4.0, 5.0], [8.0, 20.0, 9.0]])
    said = {"markers_voxel": places.tolist(), "markers_mm": volume.to_mm(places).tolist()}
    path = tmp_path / "bed.json"
    path.write_text(json.dumps(said))
    np.testing.assert_allclose(read_markers(path, volume), places)
    said["markers_mm"][1][2] += 5.4
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"differ \(places 2\.0 voxels apart for marker 2\)"):
        read_markers(path, volume)
    del said["markers_voxel"]
    path.write_text(json.dumps(said))
    places[1, 0] += 2
    np.testing.assert_allclose(read_markers(path, volume), places)
    path.write_text(json.dumps({**said, "markers_voxel": [[1, 2, 3]]}))
    with pytest.raises(ValueError, match=r"differ \(2 markers and 1\)"):
        read_markers(path, volume)


MARKERS = {
    "a.json": ("{", "is not a JSON file; save it again"),
    "b.json": ('{"points": []}', "has no list of markers"),
    "c.json": (
        '{"markers_voxel": [[1, 2], [3, 4], [5, 6]]}',
        "is not three numbers; repair the file",
    ),
    "d.json": ('{"markers_voxel": [[1, 2, "x"]]}', "is not three numbers; repair the file"),
    "a.csv": ("1,2,3\n", "begins with '1,2,3'; its first line must be x_mm,y_mm,z_mm"),
    "b.csv": ("z,y,x\n1,2\n", "is not three numbers; repair the file"),
    "c.csv": ("z,y,x\n1,2,nan\n", "is not three numbers; repair the file"),
    "d.csv": ("", "begins with ''"),
    "e.csv": ("z,y,x\n1,2,\N{NO-BREAK SPACE}", "is not three numbers; repair the file"),
    "f.csv": (
        "x_mm,y_mm,z_mm\n1,2,-300\n",
        r"has a marker at \(1, 2, -300\) mm, outside the volume",
    ),
}


@pytest.mark.parametrize(("name", "case"), MARKERS.items(), ids=MARKERS)
def test_a_bad_file_of_markers_is_refused(tmp_path, name, case):
    (tmp_path / name).write_text(case[0])
    with pytest.raises(ValueError, match=case[1]):
        read_markers(tmp_path / name, Volume(ct((6, 5, 4)), (3, 1.5, 1.5)))


def test_a_table_in_utf_16_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("z,y,x\n1,2,3\n", encoding="utf-16")
    with pytest.raises(ValueError, match="save it as CSV UTF-8"):
        read_markers(tmp_path / "a.csv", Volume(ct((6, 5, 4)), (3, 1.5, 1.5)))


@pytest.mark.parametrize("seed", range(4))
def test_outlines_hold_exactly_the_mask(seed):
    mask = np.random.default_rng(seed).random((9, 11)) < 0.55
    polygons = outlines(mask)
    assert sum(map(area, polygons)) == mask.sum()
    # A pixel is in the mask where polygons run around its centre.
    for row, column in np.ndindex(mask.shape):
        turns = sum(_winding(polygon, row, column) for polygon in polygons)
        assert turns == int(mask[row, column])
    for polygon in polygons:
        steps = np.roll(polygon, -1, axis=0) - polygon
        assert ((steps == 0).sum(axis=1) == 1).all()  # along the edges, without straight corners


def _winding(polygon, row, column):
    """How often a polygon runs around a point: crossings of the ray to the right."""
    turns = 0
    for (y, x), (end, _) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if x > column and min(y, end) < row < max(y, end):
            turns += 1 if end > y else -1
    return turns


def test_outlines_of_a_ring_are_an_outer_one_and_a_hole():
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    assert [area(one) for one in outlines(mask)] == [25, -1]
    assert outlines(np.zeros((3, 3))) == []


def test_an_nnunet_folder_goes_out_and_comes_in(tmp_path):
    paths = [save(tmp_path / f"{axes}.nii.gz", ct(), affine_of(axes)) for axes in ("RAS", "PSL")]
    volumes = [load_volume(path) for path in paths]
    maps = [np.random.default_rng(1).random(one.shape, dtype=np.float32) for one in volumes]
    cases = [
        (f"bed_{number}", one, one.array > 50 * number, saliency)
        for number, (one, saliency) in enumerate(zip(volumes, maps, strict=True), start=1)
    ]
    assert write_nnunet(tmp_path / "Dataset001_Bed", cases) == 2
    folder = tmp_path / "Dataset001_Bed"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "dataset.json",
        *(f"imagesTr/bed_{n}_000{channel}.nii.gz" for n in (1, 2) for channel in (0, 1)),
        *(f"labelsTr/bed_{n}.nii.gz" for n in (1, 2)),
    }
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT", "1": "noNorm"},
        "labels": {"background": 0, "tumor_bed": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    found = read_nnunet(folder)
    assert [case.name for case in found] == ["bed_1", "bed_2"]
    for case, (_, volume, mask, saliency) in zip(found, cases, strict=True):
        loaded, truth = case.load()
        np.testing.assert_array_equal(loaded.array, volume.array)
        np.testing.assert_array_equal(truth, mask)
        np.testing.assert_allclose(loaded.affine, volume.affine)
        channel = nib.load(folder / "imagesTr" / f"{case.name}_0001.nii.gz")
        np.testing.assert_array_equal(
            loaded.source.from_stored(np.asarray(channel.dataobj)), saliency
        )
    # Test cases need no mask.
    (folder / "imagesTs").mkdir()
    (folder / "imagesTr" / "bed_2_0000.nii.gz").rename(folder / "imagesTs" / "new_0000.nii.gz")
    assert [(case.name, case.is_test, case.label) for case in read_nnunet(folder)][1] == (
        "new", True, None)  # fmt: skip


def test_a_broken_nnunet_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no dataset\.json"):
        read_nnunet(tmp_path)
    facts = {"channel_names": {"0": "T1"}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(
        ValueError, match="names the channels T1, but none is CT; the values must be HU"
    ):
        read_nnunet(tmp_path)
    facts["channel_names"] = {"0": "CT"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="has no cases: there is no imagesTr/"):
        read_nnunet(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    save(tmp_path / "imagesTr" / "a_0000.nii.gz", ct(), affine_of("RAS"))
    with pytest.raises(FileNotFoundError, match="The case a has no mask"):
        read_nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged or lacks file_ending"):
        read_nnunet(tmp_path)
    volume = Volume(ct((6, 5, 4)), (3, 1.5, 1.5))
    case = ("a", volume, volume.array > 0, None)
    with pytest.raises(ValueError, match="a come twice"):
        write_nnunet(tmp_path / "out", [case, case])
    with pytest.raises(ValueError, match="others have none"):
        write_nnunet(tmp_path / "out", [case, ("b", *case[1:3], volume.array)])
    with pytest.raises(ValueError, match="There are no cases to save; give at least one"):
        write_nnunet(tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
