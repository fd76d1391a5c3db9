"""`salhub run` on scans: a series of slices, a folder of files, and what lies beside them."""

import json

import numpy as np
import pytest
import torch

from salhub.cli import app
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.phantom import make_breast_phantom

nib = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on a small model; return what it printed."""
    torch.manual_seed(0)
    config = SDLSegConfig(channels=[4, 8], anisotropic_levels=1, foreground_prior=0.5)
    SDLSegForVolumeSegmentation(config).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(["run", "model/", *words], prog_name="salhub")
        said = capsys.readouterr()
        assert ended.value.code == code, said.out + said.err
        return said.out + said.err

    return run


def save(path, array):
    kind = np.uint8 if array.dtype == bool else np.int16
    nib.save(nib.Nifti1Image(array.T.astype(kind), np.diag([1.5, 1.5, 3.0, 1.0])), path)


def test_a_dicom_folder_becomes_a_mask(run, tmp_path):
    pytest.importorskip("pydicom", reason="DICOM needs the extra 'medical'")
    from tests.models.sdl_seg import scanner

    hu = np.rint(make_breast_phantom(3).volume[:, ::-1, ::-1].clip(-1024, 3000))
    at = np.outer(np.arange(len(hu)) * 3.0, (0, 0, 1))
    scanner.write_series(tmp_path / "series", hu, at=at, PixelSpacing=[1.5, 1.5])
    said = run("series", "-o", "out.nii.gz")
    assert "Wrote" in said and "cm³" in said
    assert nib.load(tmp_path / "out.nii.gz").shape == (96, 96, 24)
    said = run("series", "-o", "again.json", "--json")
    assert json.loads(said)["volume_cc"] > 0
    (tmp_path / "series" / "IM0003").unlink()
    assert "missing" in run("series", "-o", "bad.nii.gz", code=1)
    assert not (tmp_path / "bad.nii.gz").exists()


def test_a_folder_of_scans_with_their_masks_and_markers_beside_them(run, tmp_path):
    (tmp_path / "scans").mkdir()
    for number in (1, 2):
        phantom = make_breast_phantom(number)
        save(tmp_path / "scans" / f"p{number}.nii.gz", phantom.volume)
        save(tmp_path / "scans" / f"p{number}-truth.nii.gz", phantom.mask)
    (tmp_path / "scans" / "p1.csv").write_text("z,y,x\n10,40,40\n12,44,50\n")
    records = [json.loads(line) for line in run("scans", "-o", "out", "--json").splitlines()]
    assert [record["input"] for record in records] == ["scans/p1.nii.gz", "scans/p2.nii.gz"]
    assert records[0]["companions"] == {
        "markers": "scans/p1.csv", "truth": "scans/p1-truth.nii.gz",
    }  # fmt: skip
    assert records[0]["markers_voxel"] == [[10, 40, 40], [12, 44, 50]]
    assert all(record["scores"]["dice"] >= 0 for record in records)
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {
        "p1-model.nii.gz", "p2-model.nii.gz",
    }  # fmt: skip


def test_a_json_file_beside_a_scan_is_not_always_of_markers(run, tmp_path):
    save(tmp_path / "scan.nii.gz", make_breast_phantom(1).volume)
    beside = tmp_path / "scan.json"
    beside.write_text('{"Manufacturer": "Siemens", "Modality": "CT"}')
    said = run("scan.nii.gz", "-o", "scan-mask.nii.gz")
    assert "Skipped scan.json: it contains no markers." in said and "Using" not in said
    assert "has no list of markers" in run(
        "scan.nii.gz", "-o", "b.nii.gz", "--markers", "scan.json", code=1
    )
    # A saved result goes in again where it is named.
    run("scan.nii.gz", "-o", "scan.json", "--overwrite")
    assert "Skipped scan.json" in run("scan.nii.gz", "-o", "c.nii.gz")
    beside.write_text('{"markers_mm": [[60, 60, 30], [66, 60, 36]]}')
    assert "Using scan.json as markers" in run("scan.nii.gz", "-o", "d.nii.gz")


def test_what_cannot_be_read_is_one_sentence(run, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"nothing")
    assert "gz is damaged or not a NIfTI file; export it again" in run("scan.nii.gz", code=1)
    assert "no sample volume" in run("sample:cat", "-o", "a.json", code=1)
    assert "threshold" in run("sample:phantom", "-o", "a.json", "threshold=3", code=1)


def test_arrays_take_their_spacing_from_the_command(run, tmp_path):
    np.save(tmp_path / "v.npy", make_breast_phantom(1).volume)
    assert "cm³" in run("v.npy", "-o", "a.json", "--spacing", "3,1.5,1.5")
    assert "cm³" in run("v.npy", "-o", "b.json", "spacing=[3,1.5,1.5]")
    assert "spacing is missing" in run("v.npy", "-o", "c.json", code=1)
    assert "three numbers" in run("v.npy", "-o", "c.json", "spacing=a,b,c", code=1)
