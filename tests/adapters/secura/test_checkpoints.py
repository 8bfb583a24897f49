"""Saving an adapter, and every way of getting it back."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from adapted_models import (
    COMBINATIONS,
    adapted,
    crossed,
    first_layer,
    gpt2,
    llama,
    llama_config,
    logits,
    moved,
    outputs,
    saved_adapter,
    secura_layers,
    small_config,
    two_linears,
)
from oldest_versions import LOADS_WHOLE_MODULES
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch.testing import assert_close

from secura import BaseMismatchError, ConfigError, SecuraConfig, fold, folded_tasks, undo

CHOICES = [choice for choice in COMBINATIONS if choice["change"] == "cabr"] + [
    choice
    for choice in COMBINATIONS
    if choice["change"] != "cabr"
    and (choice["norm"], choice["reference"]) in {("none", "fixed"), ("bounded", "moving")}
]
AWKWARD_TASK = "t.one 50%"


def plain_config(folder: Path) -> SecuraConfig:
    """The config as its author wrote it, without what saving has added."""
    config = PeftConfig.from_pretrained(str(folder))
    assert isinstance(config, SecuraConfig)
    config.saved = None
    config.inference_mode = False
    return config


def through_peft(base: Any, folder: Path) -> Any:
    return PeftModel.from_pretrained(base, folder)


def through_peft_on_meta(base: Any, folder: Path) -> Any:
    return PeftModel.from_pretrained(base, folder, low_cpu_mem_usage=True)


def through_transformers(base: Any, folder: Path) -> Any:
    base.load_adapter(str(folder))
    return base


def onto_an_existing_adapter(base: Any, folder: Path) -> Any:
    """As the Trainer resumes a run, or loads its best checkpoint."""
    model = moved(get_peft_model(base, plain_config(folder)), seed=13)  # type: ignore[arg-type]
    fold(model, "to be replaced")
    model.load_adapter(folder, "default", is_trainable=True)
    return model


def through_a_state_dict(base: Any, folder: Path) -> Any:
    model = get_peft_model(base, plain_config(folder))
    set_peft_model_state_dict(model, load_peft_weights(str(folder)))
    return model


def through_injection(base: Any, folder: Path) -> Any:
    inject_adapter_in_model(plain_config(folder), base)
    set_peft_model_state_dict(base, load_peft_weights(str(folder)))
    return base


LOADERS: list[Callable[[Any, Path], Any]] = [
    through_peft,
    through_peft_on_meta,
    through_transformers,
    onto_an_existing_adapter,
    through_a_state_dict,
    through_injection,
]
on_every_path = pytest.mark.parametrize("load", LOADERS)


def with_folds(base: Any, config: SecuraConfig, **arguments: Any) -> PeftModel:
    model = adapted(base, config, **arguments)
    fold(model, AWKWARD_TASK)
    moved(model, seed=4)
    fold(model, "two")
    return moved(model, seed=5)


# ------------------------------------------------------------------ what comes back


@on_every_path
@crossed(CHOICES)
def test_a_reloaded_adapter_gives_the_same_bits(
    tmp_path: Path, load: Callable[[Any, Path], Any], choice: dict[str, str]
) -> None:
    model = with_folds(llama(), llama_config(**choice, alpha=6.0, output_bias=True))
    loaded = load(llama(), saved_adapter(model, tmp_path)).eval()
    assert torch.equal(logits(loaded), logits(model))
    assert folded_tasks(loaded) == [AWKWARD_TASK, "two"]
    undo(model, AWKWARD_TASK)
    undo(loaded, AWKWARD_TASK)
    assert torch.equal(logits(loaded), logits(model))


@on_every_path
@pytest.mark.parametrize("selection", ["least", "sample"])
def test_gpt2_comes_back_too(tmp_path: Path, load: Callable[[Any, Path], Any], selection: str) -> None:
    model = with_folds(gpt2(), llama_config(selection=selection, reference="moving"))
    loaded = load(gpt2(), saved_adapter(model, tmp_path)).eval()
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("load", [through_peft, through_peft_on_meta, onto_an_existing_adapter])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_float32_adapter_of_a_16_bit_model_comes_back_to_the_bit(
    tmp_path: Path, load: Callable[[Any, Path], Any], dtype: torch.dtype
) -> None:
    model = with_folds(llama(dtype=dtype), llama_config())
    assert first_layer(model).secura_change["default"].inner.dtype == torch.float32
    loaded = load(llama(dtype=dtype), saved_adapter(model, tmp_path)).eval()
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_transformers_rounds_the_factors_to_a_16_bit_base_and_keeps_the_folds(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = with_folds(llama(dtype=dtype), llama_config())
    loaded = through_transformers(llama(dtype=dtype), saved_adapter(model, tmp_path))
    # transformers makes adapters in the dtype of the base, those of LoRA too.
    assert first_layer(loaded).secura_change["default"].inner.dtype == dtype
    for layer, original in zip(secura_layers(loaded), secura_layers(model), strict=True):
        assert_close(layer._ledger("default").entries(), original._ledger("default").entries(), rtol=0, atol=0)
    assert_close(logits(loaded), logits(model), rtol=0.1, atol=0.1)


def test_16_bit_factors_come_back_to_the_bit_without_autocast(tmp_path: Path) -> None:
    model = with_folds(llama(dtype=torch.bfloat16), llama_config(), autocast_adapter_dtype=False)
    folder = saved_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(llama(dtype=torch.bfloat16), folder, autocast_adapter_dtype=False)
    assert torch.equal(logits(loaded), logits(model))
    dtypes = {one.dtype for name, one in loaded.named_parameters() if "secura_change" in name}
    assert dtypes == {torch.bfloat16}


@on_every_path
@pytest.mark.parametrize("change", ["cabr", "cur"])
def test_indices_that_the_selection_rule_would_not_give_survive(
    tmp_path: Path, load: Callable[[Any, Path], Any], change: str
) -> None:
    model = adapted(llama(), llama_config(change=change))
    by_the_rule = logits(model)
    for layer in secura_layers(model):
        for side in (layer.secura_columns, layer.secura_rows):
            side["default"] = torch.tensor([7, 0, 11, 3])
    assert (logits(model) - by_the_rule).abs().max() > 1e-2
    loaded = load(llama(), saved_adapter(model, tmp_path)).eval()
    assert torch.equal(logits(loaded), logits(model))
    assert first_layer(loaded).secura_columns["default"].tolist() == [7, 0, 11, 3]


def test_a_loaded_adapter_saves_to_the_same_file(tmp_path: Path) -> None:
    model = with_folds(llama(), llama_config(reference="moving"))
    first = saved_adapter(model, tmp_path / "first")
    second = saved_adapter(PeftModel.from_pretrained(llama(), first), tmp_path / "second")
    assert_close(load_file(second / "adapter_model.safetensors"), load_file(first / "adapter_model.safetensors"))
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (first, second)]
    assert configs[0]["saved"] == configs[1]["saved"]


@on_every_path
@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_a_stack_of_folds_comes_back_to_the_bit_and_grows_on(
    tmp_path: Path, load: Callable[[Any, Path], Any], change: str
) -> None:
    model = adapted(llama(), llama_config(change=change, inner_r=None, reference="moving"))
    for seed in range(5):
        fold(model, AWKWARD_TASK)
        moved(model, seed=seed)
    loaded = load(llama(), saved_adapter(model, tmp_path)).eval()
    assert first_layer(loaded)._ledger("default").count() == 5
    assert torch.equal(logits(loaded), logits(model))
    for each in (model, loaded):
        fold(each, AWKWARD_TASK)
        moved(each, seed=6)
    assert torch.equal(logits(loaded), logits(model))


def test_a_loaded_adapter_folds_further_and_saves_what_it_has_become(tmp_path: Path) -> None:
    model = with_folds(llama(), llama_config())
    loaded = PeftModel.from_pretrained(llama(), saved_adapter(model, tmp_path / "first"), is_trainable=True)
    fold(loaded, "three")
    again = PeftModel.from_pretrained(llama(), saved_adapter(loaded, tmp_path / "second"))
    assert folded_tasks(again) == [AWKWARD_TASK, "two", "three"]
    assert torch.equal(logits(again), logits(loaded))


def test_the_pickle_format_comes_back_too(tmp_path: Path) -> None:
    model = with_folds(llama(), llama_config())
    folder = saved_adapter(model, tmp_path, safe_serialization=False)
    assert (folder / "adapter_model.bin").exists()
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), folder)), logits(model))


def test_is_trainable_decides_what_trains_after_loading(tmp_path: Path) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config()), tmp_path)
    for trainable in (True, False):
        loaded = PeftModel.from_pretrained(llama(), folder, is_trainable=trainable)
        trained = {name.split(".secura_")[1] for name, one in loaded.named_parameters() if one.requires_grad}
        assert trained == ({"change.default.inner", "change.default.outer"} if trainable else set())


# ------------------------------------------------------------------ what is in the file


@pytest.mark.parametrize("change", ["cabr", "cur", "low_rank"])
def test_the_file_holds_the_factors_the_indices_the_folds_and_fingerprints_and_no_more(
    tmp_path: Path, change: str
) -> None:
    model = adapted(two_linears(), small_config(change=change, reference="moving", output_bias=True))
    fold(model, "one")
    outputs(model)  # builds the reference, which must stay out of the file
    weights = load_file(saved_adapter(model, tmp_path) / "adapter_model.safetensors")
    expected = {
        "cabr": {"change.inner", "change.outer", "change.bias", "folds.0:one.core", "columns", "rows"},
        "cur": {"change.core", "change.bias", "folds.0:one.core", "columns", "rows"},
        "low_rank": {"change.up", "change.down", "change.bias", "folds.0:one.up", "folds.0:one.down"},
    }[change]
    prefix = "base_model.model.first.secura_"
    assert {key.removeprefix(prefix) for key in weights if key.startswith(prefix)} == expected | {
        "fingerprint",
        "scale",
        "seal",
        "base",
    }
    if change != "low_rank":  # neither C (17 × 4) nor R (4 × 33), in any arrangement
        assert all(weight.numel() <= 4 * 6 or key.endswith(("bias", "seal")) for key, weight in weights.items())


def test_q_and_v_of_32_layers_take_less_than_a_megabyte_at_any_width(tmp_path: Path) -> None:
    sizes = []
    for width in (128, 256):
        model = adapted(llama(layers=32, width=width), llama_config(r=16, inner_r=64))
        folder = saved_adapter(model, tmp_path / str(width))
        sizes.append((folder / "adapter_model.safetensors").stat().st_size)
        assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
        assert model.get_nb_trainable_parameters()[0] == 32 * 2 * 2 * 16 * 64  # 131 k
    assert sizes[0] == sizes[1]


def test_target_modules_are_written_in_one_order(tmp_path: Path) -> None:
    names = ["v_proj", "q_proj", "up_proj", "down_proj", "o_proj", "k_proj"]
    folder = saved_adapter(adapted(llama(), llama_config(target_modules=names)), tmp_path)
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"] == sorted(names)


def test_the_live_config_is_not_touched_by_saving(tmp_path: Path) -> None:
    config = llama_config()
    before = config.to_dict()
    model = with_folds(llama(), config)
    saved_adapter(model, tmp_path)
    assert model.peft_config["default"].to_dict() == {**before, "target_modules": config.target_modules}
    assert config.saved is None
    other = adapted(llama(seed=9), config, seed=None)
    assert torch.equal(logits(other), logits(llama(seed=9)))
    assert folded_tasks(other) == []


# ------------------------------------------------------------------ another base


def base_with_one_other_layer() -> Any:
    base = llama()
    with torch.no_grad():
        base.get_submodule("model.layers.1.self_attn.q_proj").weight[3, 4] += 1e-3  # type: ignore[index,operator]
    return base


@on_every_path
@pytest.mark.parametrize("change", ["cabr", "low_rank"])
def test_another_base_is_refused_with_the_first_layer_that_differs(
    tmp_path: Path, load: Callable[[Any, Path], Any], change: str
) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config(change=change)), tmp_path)
    with pytest.raises(BaseMismatchError, match=r"the weight of model\.layers\.1\.self_attn\.q_proj is not the one"):
        load(base_with_one_other_layer(), folder)


BESIDE = ["lm_head", "model.embed_tokens", "model.norm", "model.layers.1.mlp.down_proj"]


def base_with_another(module: str, **arguments: Any) -> Any:
    base = llama(**arguments)
    with torch.no_grad():
        base.get_submodule(module).weight *= 1.01  # type: ignore[operator]
    return base


@on_every_path
@pytest.mark.parametrize("module", BESIDE)
def test_a_base_with_other_weights_beside_the_adapted_ones_is_refused(
    tmp_path: Path, load: Callable[[Any, Path], Any], module: str
) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config()), tmp_path)
    with pytest.raises(BaseMismatchError, match=r"not those beside them, such as .* set verify_base='adapted'"):
        load(base_with_another(module), folder)


@on_every_path
@pytest.mark.parametrize("verify", ["adapted", False])
def test_a_base_that_was_meant_to_change_beside_them_is_taken_when_asked(
    tmp_path: Path, load: Callable[[Any, Path], Any], verify: Any
) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config(verify_base=verify)), tmp_path)
    load(base_with_another("lm_head"), folder)
    if verify:
        with pytest.raises(BaseMismatchError, match=r"the weight of model\.layers\.1\.self_attn\.q_proj"):
            load(base_with_one_other_layer(), folder)


@pytest.mark.parametrize("load", [load for load in LOADERS if load is not through_injection])  # PEFT finds no such key
def test_a_module_that_is_trained_and_saved_whole_may_be_another_in_the_base(
    tmp_path: Path, load: Callable[[Any, Path], Any]
) -> None:
    model = with_folds(llama(), llama_config(modules_to_save=["lm_head"]))
    folder = saved_adapter(model, tmp_path)
    loaded = load(base_with_another("lm_head"), folder).eval()
    if load is through_transformers and not LOADS_WHOLE_MODULES:
        with pytest.raises(ConfigError, match=r"use PeftModel\.from_pretrained"):
            logits(loaded)
    else:
        assert torch.equal(logits(loaded), logits(model))


def test_a_second_adapter_knows_the_base_under_the_first(tmp_path: Path) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config()), tmp_path / "one")
    model = adapted(llama(), llama_config(target_modules=["up_proj"], modules_to_save=["lm_head"]))
    model.load_adapter(str(folder), "second")
    both = saved_adapter(model, tmp_path / "both")
    said = [
        json.loads((each / "adapter_config.json").read_text())["saved"]["base"] for each in (folder, both / "second")
    ]
    assert said[0] == said[1]


def test_an_adapter_of_a_base_that_was_not_whole_says_so_and_is_taken_by_any(tmp_path: Path) -> None:
    base = llama()
    base.lm_head.to("meta")  # type: ignore[operator]
    folder = saved_adapter(get_peft_model(base, llama_config()), tmp_path)  # type: ignore[arg-type]
    assert json.loads((folder / "adapter_config.json").read_text())["saved"]["base"] is None
    through_peft(base_with_another("lm_head"), folder)


@pytest.mark.parametrize("load", [through_peft, through_peft_on_meta, through_transformers])
def test_a_refused_base_is_left_as_it_was(tmp_path: Path, load: Callable[[Any, Path], Any]) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config()), tmp_path)
    base = base_with_one_other_layer()
    with pytest.raises(BaseMismatchError):
        load(base, folder)
    assert not list(secura_layers(base))
    assert torch.equal(logits(base), logits(base_with_one_other_layer()))


@pytest.mark.parametrize("load", [through_peft, through_transformers])
def test_a_base_without_the_layer_is_refused_with_its_name(tmp_path: Path, load: Callable[[Any, Path], Any]) -> None:
    folder = saved_adapter(with_folds(llama(layers=3), llama_config()), tmp_path)
    shallow = llama(layers=3)
    del shallow.model.layers[2]  # type: ignore[union-attr,operator]
    with pytest.raises(BaseMismatchError, match=r"with a layer model\.layers\.2\.self_attn\.q_proj"):
        load(shallow, folder)


@on_every_path
def test_verify_base_false_accepts_another_base(tmp_path: Path, load: Callable[[Any, Path], Any]) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config(verify_base=False)), tmp_path)
    assert torch.isfinite(logits(load(base_with_one_other_layer(), folder))).all()


def test_verify_base_can_be_turned_off_by_whoever_loads(tmp_path: Path) -> None:
    folder = saved_adapter(with_folds(llama(), llama_config()), tmp_path)
    config = PeftConfig.from_pretrained(str(folder))
    config.verify_base = False  # type: ignore[attr-defined]
    loaded = PeftModel.from_pretrained(base_with_one_other_layer(), folder, config=config)
    assert torch.isfinite(logits(loaded)).all()


@on_every_path
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trained_in_float32", [True, False])
def test_the_same_base_in_another_dtype_is_accepted(
    tmp_path: Path, load: Callable[[Any, Path], Any], dtype: torch.dtype, trained_in_float32: bool
) -> None:
    trained, present = (torch.float32, dtype) if trained_in_float32 else (dtype, torch.float32)
    model = with_folds(llama(dtype=trained), llama_config())
    loaded = load(llama(dtype=present), saved_adapter(model, tmp_path)).eval()
    assert_close(logits(loaded).float(), logits(model).float(), rtol=0.1, atol=0.2)  # bfloat16 keeps 8 bits


# ------------------------------------------------------------------ several adapters


NAMES = [("a", "ab", "abc"), ("secura", "cur", "secura_rows"), ("default", "change", "folds")]


@pytest.mark.parametrize(
    "names", [("a", "ab", "abc"), ("secura", "cur", "secura_rows"), ("default", "change", "folds")]
)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_adapters_whose_names_contain_each_other_stay_apart(
    tmp_path: Path, names: tuple[str, ...], low_cpu_mem_usage: bool
) -> None:
    choices = [CHOICES[0], CHOICES[-1], CHOICES[9]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(llama(), llama_config(**choices[0]), adapter_name=names[0])  # type: ignore[arg-type]
        for name, choice in zip(names[1:], choices[1:], strict=True):
            model.add_adapter(name, llama_config(**choice))
        expected = []
        for seed, name in enumerate(names):
            moved(model, seed=seed, adapter_name=name)  # type: ignore[arg-type]
            fold(model, f"task {name}", adapter_name=name)
            moved(model, seed=seed + 10, adapter_name=name)  # type: ignore[arg-type]
            model.set_adapter(name)
            expected.append(logits(model))
        model.save_pretrained(tmp_path)
        folders = [tmp_path / name for name in names]
        if names[0] == "default":
            folders[0] = tmp_path
        loaded = PeftModel.from_pretrained(
            llama(), folders[0], adapter_name=names[0], low_cpu_mem_usage=low_cpu_mem_usage
        )
        for name, folder in zip(names[1:], folders[1:], strict=True):
            loaded.load_adapter(folder, name, low_cpu_mem_usage=low_cpu_mem_usage)
    for name, wanted in zip(names, expected, strict=True):
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded), wanted)
        assert folded_tasks(loaded, adapter_name=name) == [f"task {name}"]


def test_an_adapter_can_be_loaded_under_another_name(tmp_path: Path) -> None:
    model = with_folds(llama(), llama_config())
    loaded = PeftModel.from_pretrained(llama(), saved_adapter(model, tmp_path), adapter_name="renamed")
    assert torch.equal(logits(loaded), logits(model))
    assert folded_tasks(loaded, adapter_name="renamed") == [AWKWARD_TASK, "two"]


def test_only_selected_adapters_are_saved(tmp_path: Path) -> None:
    model = adapted(llama(), llama_config())
    model.add_adapter("other", llama_config(change="cur"))
    saved_adapter(model, tmp_path, selected_adapters=["other"])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["other"]
    assert not (tmp_path / "adapter_config.json").exists()


def test_adapters_that_share_one_config_object_save_their_own_folds(tmp_path: Path) -> None:
    config = llama_config()
    model = adapted(llama(), config)
    model.add_adapter("other", config)
    moved(model, seed=6, adapter_name="other")
    fold(model, "of other", adapter_name="other")
    model.save_pretrained(tmp_path)
    for name, folder, tasks in (("default", tmp_path, []), ("other", tmp_path / "other", ["of other"])):
        base = llama()
        base.load_adapter(str(folder))
        model.set_adapter(name)
        assert torch.equal(logits(base), logits(model))
        assert folded_tasks(base) == tasks


def test_deleting_an_adapter_leaves_nothing_of_it_behind() -> None:
    model = adapted(llama(), llama_config())
    model.add_adapter("other", llama_config(reference="moving", dropout=0.1))
    fold(model, "one", adapter_name="other")
    model.set_adapter("other")
    logits(model)
    model.set_adapter("default")
    expected = logits(model)
    model.delete_adapter("other")
    for layer in secura_layers(model):
        for name in layer.adapter_layer_names + layer.other_param_names:
            assert "other" not in getattr(layer, name), name
    assert torch.equal(logits(model), expected)


def test_an_adapter_added_again_under_a_deleted_name_starts_anew() -> None:
    model = adapted(llama(), llama_config(reference="moving"))
    model.add_adapter("other", llama_config(reference="moving"))
    for _ in range(2):
        model.set_adapter("other")
        assert torch.equal(logits(model), logits(llama()))
        moved(model, seed=3, adapter_name="other")
        fold(model, "one")
        assert (logits(model) - logits(llama())).abs().max() > 1e-3
        model.delete_adapter("other")
        model.add_adapter("other", llama_config(reference="moving"))


def test_the_state_dict_of_one_adapter_does_not_name_the_other() -> None:
    model = adapted(llama(), llama_config())
    model.add_adapter("other", llama_config())
    assert not any("other" in key or "default" in key for key in get_peft_model_state_dict(model))


# ------------------------------------------------------------------ how often a weight is digested


@pytest.fixture
def digests_taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many digests have been computed since it was last asked."""
    taken: list[int] = []

    def counting(hash_of: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **settings: Any) -> Any:
            taken.append(1)
            return hash_of(*arguments, **settings)

        return counted

    def since_last_asked() -> int:
        count = len(taken)
        taken.clear()
        return count

    monkeypatch.setattr(hashlib, "blake2b", counting(hashlib.blake2b))
    monkeypatch.setattr(xxhash, "xxh3_64_digest", counting(xxhash.xxh3_64_digest))
    return since_last_asked


READS_SAVED = (through_peft, through_peft_on_meta, through_transformers)


@on_every_path
def test_a_load_digests_each_layer_once_and_a_save_no_layer_again(
    load: Callable[[Any, Path], Any], digests_taken: Callable[[], int], tmp_path: Path
) -> None:
    folder = saved_adapter(adapted(llama(), llama_config()), tmp_path / "first")
    assert digests_taken() == 3 * (4 + 1)  # as they are, and rounded to two dtypes
    model = load(llama(), folder)
    assert digests_taken() == 4 + (1 if load in READS_SAVED else 3)  # q and v of two blocks, and the sample of the base
    if isinstance(model, PeftModel):
        again = saved_adapter(moved(model), tmp_path / "again")
        assert digests_taken() == 0
        model.load_adapter(str(folder), "default")
        assert digests_taken() == 0
        model.load_adapter(str(again), "other")
        assert digests_taken() == 1  # of the sample


def test_a_merge_is_no_change_of_the_weight_and_a_write_is(digests_taken: Callable[[], int], tmp_path: Path) -> None:
    model = adapted(two_linears(), small_config())
    layer = first_layer(model)
    first = layer.fingerprint()
    digests_taken()
    model.merge_adapter()
    assert torch.equal(layer.fingerprint(), first)
    model.unmerge_adapter()
    assert torch.equal(layer.fingerprint(), first)
    assert digests_taken() == 0
    with torch.no_grad():
        layer.get_base_layer().weight[0, 0] += 1
    assert not torch.equal(layer.fingerprint(), first)
    assert digests_taken() == 3
    model.load_state_dict(model.state_dict())
    layer.fingerprint()
    assert digests_taken() == 3
