import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import adapted, llama, llama_config, logits, saved_adapter
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file

from secura.adapters import SecuraConfig, fold
from secura.adapters.secura import sealed_folder, sealing
from secura.errors import ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj.secura_"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = adapted(llama(), llama_config())
    fold(model, "one")
    fold(model, "two")
    return saved_adapter(model, tmp_path / "saved")


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config: config.update(tau=0.9), "says tau is 0.9, but the adapter was saved with 0.3"),
        (lambda config: config.update(norm="none"), "says norm is 'none'"),
        (lambda config: config.update(target_modules=["q_proj"]), "v_proj was among those"),
        (lambda config: config["saved"]["folds"].reverse(), "is not what was saved"),
        (lambda config: config["saved"]["layers"].popitem(), "is not what was saved"),
        (lambda config: config["saved"].update(seal=None), "saved.seal in adapter_config.json is None, not settings, "),
        (lambda config: config["saved"].pop("seal"), "the seal was taken out of the adapter's adapter_config.json"),
        (lambda config: config.update(saved=[]), r"saved in adapter_config.json is \[\], not an object"),
    ],
)
def test_a_config_that_was_changed_is_refused_by_what_differs(
    change: Callable[[dict[str, Any]], object], says: str, folder: Path
) -> None:
    change_config(folder, change)
    with pytest.raises(ConfigError, match=says):
        PeftModel.from_pretrained(llama(), str(folder))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.pop(Q + "change.outer"), "lacks .*q_proj.secura_change.outer"),
        (lambda found: found.update({Q + "more": torch.ones(2)}), "holds .*secura_more, with which it was not saved"),
        (lambda found: found.update({"base_model.model.lm_head.weight": torch.ones(2)}), "no tensor of its own"),
        (lambda found: found.update({Q + "change.inner": found[Q + "change.inner"].half()}), "and is float16 of"),
        (lambda found: found[Q + "change.inner"].neg_(), "secura_change.inner in the adapter is not what was saved"),
        (lambda found: found[Q + "change.inner"].fill_(torch.nan), "holds NaN or infinity"),
        (lambda found: found.pop(Q + "seal"), "the seal was taken out of the adapter's weights file"),
        (lambda found: found.update({Q + "seal": torch.full((16,), torch.nan)}), "is no seal"),
        (lambda found: found.update({Q + "seal": found[Q + "seal"].repeat(2)}), "is no seal"),
    ],
)
def test_tensors_that_were_changed_are_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], says: str, folder: Path
) -> None:
    found = load_file(folder / WEIGHTS)
    change(found)
    save_file(found, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=says):
        PeftModel.from_pretrained(llama(), str(folder))


@pytest.mark.parametrize("key", [Q + "change.inner", Q.replace("secura_", "base_layer.weight")])
def test_what_a_loader_without_hooks_has_loaded_is_looked_at_before_it_is_used(key: str, folder: Path) -> None:
    found = load_file(folder / WEIGHTS)
    found[key] = torch.ones_like(found[key]) if key in found else torch.ones(32, 32)
    save_file(found, folder / WEIGHTS)
    model = llama()
    model.load_adapter(str(folder))
    with pytest.raises(ConfigError, match=r"not what was saved|has changed .* of the base model itself"):
        logits(model)


@pytest.mark.parametrize("key", ["lm_head.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
@pytest.mark.parametrize("use", [logits, lambda model: (model.disable_adapters(), logits(model))])
def test_a_weight_of_the_base_that_transformers_has_loaded_is_refused_whatever_the_model_is_used_for(
    key: str, use: Callable[[Any], object], folder: Path
) -> None:
    found = load_file(folder / WEIGHTS)
    found[f"base_model.model.{key}"] = torch.ones_like(llama().state_dict()[key])
    save_file(found, folder / WEIGHTS)
    model = llama()
    model.load_adapter(str(folder))
    with pytest.raises(ConfigError, match=f"has changed {key} of the base model itself"):
        use(model)


@pytest.mark.parametrize("settings", ["", ', "change": "low_rank"', ', "change": "cur"'])
def test_a_config_whose_saved_was_taken_out_is_refused_where_transformers_loads_it(settings: str, folder: Path) -> None:
    text = (folder / CONFIG).read_text().rstrip()
    (folder / CONFIG).write_text(text[:-1].rstrip() + f'{settings}, "saved": null}}')  # the last of two keys is taken
    with pytest.raises(ConfigError, match=r"secura_.*, for which adapter_config.json lacks `saved`"):
        llama().load_adapter(str(folder))


def test_it_is_noticed_too_where_only_the_trained_tensors_are_left(folder: Path) -> None:
    change_config(folder, lambda config: config.update(saved=None))
    trained = {key: each for key, each in load_file(folder / WEIGHTS).items() if ".secura_change." in key}
    save_file(trained, folder / WEIGHTS, metadata={"format": "pt"})
    model = llama()
    model.load_adapter(str(folder))
    with pytest.raises(ConfigError, match="`saved` was taken out of"):
        logits(model)


def test_what_transformers_has_loaded_is_looked_at_once_and_then_used(folder: Path) -> None:
    expected = logits(PeftModel.from_pretrained(llama(), str(folder)).eval())
    model = llama()
    model.load_adapter(str(folder))
    assert torch.equal(logits(model.float()), expected)
    assert not model._forward_pre_hooks
    assert torch.equal(logits(model), expected)


def test_a_copy_of_what_transformers_has_loaded_is_looked_at_for_itself(folder: Path) -> None:
    model = llama()
    model.load_adapter(str(folder))
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    assert not twin._forward_pre_hooks


def test_a_config_without_weights_makes_a_new_adapter(tmp_path: Path) -> None:
    llama_config().save_pretrained(str(tmp_path))
    config = PeftConfig.from_pretrained(str(tmp_path))
    model = llama()
    model.add_adapter(config)
    assert torch.equal(logits(model), logits(llama()))


def with_a_module_beside(folder: Path) -> Path:
    model = adapted(llama(), llama_config(modules_to_save=["lm_head"]))
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)  # type: ignore[union-attr,operator]
    return saved_adapter(model, folder)


def through_peft(folder: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(llama(), str(folder)))


def through_transformers(folder: Path) -> torch.Tensor:
    model = llama()
    model.load_adapter(str(folder))
    return logits(model)


@pytest.mark.parametrize("load", [through_peft, through_transformers])
def test_a_module_that_is_saved_beside_the_layers_is_sealed_too(
    load: Callable[[Path], torch.Tensor], tmp_path: Path
) -> None:
    folder = with_a_module_beside(tmp_path / "saved")
    found = load_file(folder / WEIGHTS)
    found["base_model.model.lm_head.weight"][3, 4] += 1
    save_file(found, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=r"lm_head\.weight .*is not what was saved"):
        load(folder)


def test_an_adapter_without_a_seal_loads_with_a_warning(folder: Path) -> None:
    expected = logits(PeftModel.from_pretrained(llama(), str(folder)).eval())
    found = load_file(folder / WEIGHTS)
    del found[Q + "seal"], found[Q + "base"]
    save_file(found, folder / WEIGHTS)
    change_config(folder, lambda config: [config["saved"].pop(name) for name in ("seal", "base")])
    with pytest.warns(UserWarning, match="was saved without a seal"):
        model = PeftModel.from_pretrained(llama(), str(folder)).eval()
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"tau": float("inf")},
        {"tau": float("nan")},
        {"tau": True},
        {"floor": float("nan")},
        {"alpha": float("inf")},
        {"alpha_pattern": {"q_proj": float("nan")}},
        {"rank_pattern": {"(.*)*": 2}},
        {"target_modules": r"(.*)*_proj"},
        {"target_modules": r"(a+)+$"},
        {"target_modules": "((("},
        {"target_modules": [1]},
        {"exclude_modules": ".*" * 9},
        {"saved": {"layers": {"x": {"columns": "a b"}}}},
        {"saved": {"folds": ["x"]}},
        {"saved": {}},
        {"saved": {"layers": {}}},
        {"saved": {"folds": ["3-1:x"]}},
        {"saved": {"folds": ["0-999999999:x"]}},
        {"saved": {"base": "1 2"}},
        {"verify_base": "some"},
        {"modules_to_save": "lm_head"},
        {"modules_to_save": 3},
        {"target_modules": []},
        {"target_modules": ""},
        {"layers_to_transform": ""},
        {"layers_to_transform": [True], "target_modules": ["q_proj"]},
        {"layers_pattern": 3},
    ],
)
def test_a_config_that_cannot_work_is_refused_in_a_sentence(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^(the seal was taken|{next(iter(settings))})"):
        SecuraConfig(**settings)


def test_an_inner_rank_that_no_layer_needs_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(ConfigError, match="inner_r is 200000000, but layer"):
        adapted(llama(), llama_config(inner_r=200_000_000))


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    text = (folder / CONFIG).read_text().rstrip()
    (folder / CONFIG).write_text(text[:-1].rstrip() + ', "tau": 0.9}')
    with pytest.raises(ConfigError, match="'tau' stands in it twice"):
        PeftModel.from_pretrained(llama(), str(folder))


@pytest.fixture
def of_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter as earlier versions sealed it."""
    by_xxh3 = sealing.tensor_digest
    for module in ("secura.adapters.secura.model", "secura.adapters.secura.sealed_folder"):
        monkeypatch.setattr(f"{module}.tensor_digest", lambda tensor, as_in="": by_xxh3(tensor, as_in=as_in))
    saved = saved_adapter(adapted(llama(), llama_config()), tmp_path / "earlier")
    monkeypatch.undo()
    return saved


def test_a_seal_of_an_earlier_version_holds_and_still_refuses_what_was_changed(of_sha256: Path) -> None:
    seal = json.loads((of_sha256 / CONFIG).read_text())["saved"]["seal"]
    assert not any("xxh3" in digest for digest in (seal["whole"], seal["state"], *seal["tensors"].values()))
    model = llama()
    before = logits(PeftModel.from_pretrained(model, str(of_sha256)))
    again = llama()
    again.load_adapter(str(of_sha256))
    torch.testing.assert_close(logits(again), before)
    tensors = load_file(of_sha256 / WEIGHTS)
    tensors[Q + "change.outer"][0, 0] += 1
    save_file(tensors, of_sha256 / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"q_proj\.secura_change\.outer in the adapter is not what was saved"):
        PeftModel.from_pretrained(llama(), str(of_sha256))
    later = llama()
    later.load_adapter(str(of_sha256))
    with pytest.raises(ConfigError, match="is not what was saved"):
        logits(later)


def test_an_earlier_seal_that_was_taken_out_of_one_file_is_put_back_by_the_hash_of_the_other(of_sha256: Path) -> None:
    was = json.loads((of_sha256 / CONFIG).read_text())["saved"]["seal"]
    change_config(of_sha256, lambda config: config["saved"].pop("seal") and config["saved"].pop("base"))
    change_config(of_sha256, lambda config: config["saved"].update(base=None, unsealed=True))
    sealed_folder.seal_folder(of_sha256)
    assert json.loads((of_sha256 / CONFIG).read_text())["saved"]["seal"]["tensors"] == was["tensors"]


def test_a_new_seal_is_of_xxh3(folder: Path) -> None:
    seal = json.loads((folder / CONFIG).read_text())["saved"]["seal"]
    digests = (seal["whole"], seal["state"], *(digest.split(" ")[2] for digest in seal["tensors"].values()))
    assert all(digest.startswith("xxh3:") and len(digest) == 37 for digest in digests)
    assert sealing.seal_from_tensor(sealing.seal_as_tensor(seal["whole"])) == seal["whole"]
