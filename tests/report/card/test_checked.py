import pytest

from secura.errors import DataError
from secura.report.card.checked import check_card


def test_a_sound_card_is_read() -> None:
    card = check_card("---\nlicense: mit\nbase_model: org/base\ntags:\n- secura\n---\n\n# A model\n")
    assert (card.data.license, card.data.base_model, card.data.tags) == ("mit", "org/base", ["secura"])


@pytest.mark.parametrize(
    ("front", "says"),
    [
        ("base_model: /home/somebody/base", "Repo id must"),
        ("datasets:\n- org/a b", "Repo id must"),
        ("tags: [a", "not valid"),
        ("- a list", "should be a dict"),
        ("model-index:\n- name: x\n  results:\n  - task: {type: t}\n    dataset: {}", "not valid"),
    ],
)
def test_what_huggingface_hub_refuses_is_refused(front: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        check_card(f"---\n{front}\n---\n\n# A model\n")
