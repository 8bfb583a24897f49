from pathlib import Path

import pytest

from secura.experiments.files import RUN_RECORD
from secura.experiments.run.run_record import has_record
from secura.whole_files import write_json


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"settings": [], "rows": {}}'])
def test_a_damaged_record_counts_as_none_so_that_the_settings_beside_it_are_compared(
    tmp_path: Path, content: bytes
) -> None:
    assert not has_record(tmp_path)
    write_json(tmp_path / RUN_RECORD, {"settings": {}, "rows": {}})
    assert has_record(tmp_path)
    (tmp_path / RUN_RECORD).write_bytes(content)
    assert not has_record(tmp_path)
