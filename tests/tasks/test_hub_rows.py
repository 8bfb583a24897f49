import json
import socket
from pathlib import Path

import datasets
import datasets.config
import pytest

from secura.tasks.hub_rows import hub_rows

ROWS = [{"text": "one"}, {"text": "two"}, {"text": "three"}]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of the hub as `datasets` leaves it in its cache, and no way to the network."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    prepared = tmp_path / "prepared"
    datasets.load_dataset("json", data_files={"test": str(rows)}, cache_dir=str(prepared))
    info_file = next(prepared.rglob("dataset_info.json"))
    info = json.loads(info_file.read_text())
    info["config_name"], info["dataset_name"] = "default", "rows"
    folder = tmp_path / "cache" / "org___rows" / "default" / "0.0.0" / "1234"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    next(prepared.rglob("json-test.arrow")).rename(folder / "rows-test.arrow")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return "org/rows"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that were looked up or connected to."""
    seen: list[str] = []

    def refuse(*where: object, **_: object) -> None:
        seen.append(str(where))
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return seen


def test_a_data_set_in_the_cache_is_read_without_a_network_call(cached: str, calls: list[str]) -> None:
    assert list(hub_rows(cached, None, "test")) == ROWS
    assert list(hub_rows(cached, "default", "test[1:]")) == ROWS[1:]
    assert calls == []
    assert datasets.config.HF_HUB_OFFLINE is False


def test_offline_a_data_set_that_is_not_in_the_cache_is_refused_without_a_network_call(
    cached: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert list(hub_rows(cached, None, "test")) == ROWS
    with pytest.raises(LookupError, match=r"not in the local cache, and HF_HUB_OFFLINE is set: .*org/other"):
        hub_rows("org/other", None, "test")
    assert calls == []


def test_a_hub_that_cannot_be_reached_is_asked_once(cached: str, calls: list[str]) -> None:
    with pytest.raises(LookupError, match=r"^not in the local cache, and https?://\S+ cannot be reached$"):
        hub_rows("org/other", None, "test")
    assert len(calls) == 1


def test_online_a_data_set_that_is_not_in_the_cache_is_asked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("secura.tasks.hub_rows.check_hub_answers", lambda: None)

    def load_dataset(*where: object, **options: object) -> datasets.Dataset:
        asked.append((where, options, datasets.config.HF_HUB_OFFLINE))
        if datasets.config.HF_HUB_OFFLINE:
            raise ConnectionError("not in the cache")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(hub_rows("org/rows", "main", "test", revision="v2")) == ROWS
    assert asked == [(("org/rows", "main"), {"split": "test", "revision": "v2"}, offline) for offline in (True, False)]


def test_the_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("secura.tasks.hub_rows.check_hub_answers", lambda: None)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(LookupError, match=r"^no route to host$"):
        hub_rows("org/rows", None, "test")
