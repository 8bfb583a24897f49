import json

import pytest

from secura.json_text import parsed_json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "Nested too deeply: line 1 column 1 (char 0)"),
        ('{"a": ' * 100_000, "Nested too deeply: line 1 column 1 (char 0)"),
        ("9" * 5_000, "A whole number of too many digits: line 1 column 1 (char 0)"),
        ('{"a\n": 1}', "Invalid control character at: line 1 column 4 (char 3)"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
    ],
    ids=["array", "object", "digits", "control", "empty"],
)
def test_whatever_is_wrong_with_a_text_is_an_error_of_json(text: str, says: str) -> None:
    with pytest.raises(json.JSONDecodeError) as refused:
        parsed_json(text)
    assert str(refused.value) == says
    assert not refused.value.msg.endswith(" at")


def test_json_is_read_as_python_reads_it() -> None:
    assert parsed_json('{"a": [1, 2.5, null, "é"]}') == {"a": [1, 2.5, None, "é"]}
