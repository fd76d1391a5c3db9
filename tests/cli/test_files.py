"""Files appear whole or not at all."""

import pytest

from salhub.cli.files import draft


def test_a_file_appears_when_the_block_ends_in_a_folder_made_for_it(tmp_path):
    target = tmp_path / "new" / "folder" / "map.png"
    with draft(target) as path:
        path.write_bytes(b"content")
        assert path.name == target.name and not target.exists()
    assert target.read_bytes() == b"content"
    assert [entry.name for entry in target.parent.iterdir()] == ["map.png"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    target = tmp_path / "map.png"
    target.write_bytes(b"old")
    with pytest.raises(failure), draft(target) as path:
        path.write_bytes(b"half")
        raise failure
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
