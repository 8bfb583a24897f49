"""Which modules SECURA adapts, and how its indices, folds and fingerprints travel in a checkpoint.

Every loader must end with the indices that were trained, whatever the selection rule would
give on the machine that loads. They are written twice: into the weights file, where PEFT's
own loading hook reads them, and into adapter_config.json, from which a layer is built with
the right ones at once; transformers' `load_adapter` and FSDP2 call no hook.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    AuxiliaryTrainingWrapper,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from secura.adapters.base_sample import base_sample
from secura.adapters.fingerprint import (
    WeightDigests,
    fingerprint_from_text,
    fingerprint_text,
    fingerprints_agree,
    is_of_quantized,
)
from secura.adapters.offloading import brought_in, is_offloaded
from secura.adapters.secura.config import SecuraConfig
from secura.adapters.secura.first_use import LookAtFirstUse
from secura.adapters.secura.layer import Linear, SecuraLayer
from secura.adapters.secura.ledger import folds_by_key
from secura.adapters.secura.sealing import (
    UNKNOWN_BASE,
    by_layer,
    can_be_sealed,
    check_config_seal,
    check_tensors,
    make_seal,
    plain_key,
    refuse_non_finite,
    seal_as_tensor,
    seal_from_tensor,
    sealed_settings,
    tensor_digest,
)
from secura.errors import BaseMismatchError, ConfigError

_PEFT_PREFIX = "base_model.model."


class SecuraModel(BaseTuner):
    """Puts SECURA layers into a model; what PEFT calls a tuner."""

    prefix: str = "secura_"
    tuner_layer_cls = SecuraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        assert isinstance(peft_config, SecuraConfig)
        # Called before any layer is replaced, so a refusal leaves the model as it was.
        self._seal = None
        if peft_config.saved is not None:
            others = [each for name, each in self.peft_config.items() if each is peft_config]
            if "seal" in peft_config.saved:
                check_config_seal(peft_config)
                # A config that an adapter of this model has already is used for a new one, with weights of its own.
                self._seal = peft_config.saved["seal"] if len(others) < 2 else None
            elif len(others) < 2:
                self._seal = {"tensors": {}}
                warnings.warn(_UNSEALED, stacklevel=2)
        check = peft_config.saved if peft_config.verify_base else None
        self._verified = _verify_base(model, check) if check else {}
        self._whole_base = None
        sample = base_sample(model, but=_saved_whole(peft_config))
        if sample is not None:
            # By the hash of earlier versions, since a stored one may be compared once the sample is gone. It is small.
            digests, stored = WeightDigests("blake2b"), (check or {}).get("base")
            if stored is not None and not digests.match(fingerprint_from_text(stored), lambda: nullcontext(sample)):
                _refuse_whole_base(peft_config)
            self._whole_base = digests.fingerprint(lambda: nullcontext(sample))

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        del parameter_name
        assert isinstance(peft_config, SecuraConfig)
        if isinstance(target, SecuraLayer):
            target.update_layer(adapter_name, peft_config, current_key)
            return
        base_layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        quantized = None
        quantization = get_quantization_kwargs(self)
        if not isinstance(base_layer, (nn.Linear, Conv1D)):
            quantized = resolve_quantization_backend(base_layer, **quantization)
        if not isinstance(base_layer, (nn.Linear, Conv1D)) and (quantized is None or quantized.layer_type != "linear"):
            raise ConfigError(
                f"target module {current_key} is a {type(base_layer).__name__}, but SECURA adapts torch.nn.Linear "
                "and transformers' Conv1D (quantized or not); leave it out of target_modules."
            )
        digests = self._verified.get(current_key)
        with brought_in([base_layer]):  # PEFT moves the adapter to where it finds the weight
            new_module = Linear(target, adapter_name, peft_config, current_key, digests, **quantization)
            if adapter_name not in self.active_adapters:
                new_module.requires_grad_(False)
            self._replace_module(parent, target_name, new_module, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names`, one for each row of a batch, to every layer."""
        del args
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        known = {name for layer in self.modules() if isinstance(layer, SecuraLayer) for name in layer.secura_change}
        unknown = set(adapter_names) - known - {"__base__"}
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")
        # Beam search repeats every row, but for an encoder, which still sees the rows as they came.
        by_beam = [name for name in adapter_names for _ in range(kwargs.get("num_beams") or 1)]
        in_encoder = set() if (encoder := _encoder(self.model)) is None else set(encoder.modules())
        handles = []
        for module in self.modules():
            if isinstance(module, (SecuraLayer, AuxiliaryTrainingWrapper)):
                names = list(adapter_names) if module in in_encoder else by_beam
                if isinstance(module, AuxiliaryTrainingWrapper):  # modules_to_save, which an adapter may do without
                    names = [name if name in module._adapters else "__base__" for name in names]
                hook = partial(_add_adapter_names, adapter_names=names)
                handles.append(cast(nn.Module, module).register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # ------------------------------------------------------------------ checkpoints

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        selected = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        layers: dict[str, dict[str, str]] = {}
        folds: list[str] = []
        for name, layer in _layers_with(outer_modules(model), adapter_name):
            record = layers[name.removeprefix(_PEFT_PREFIX)] = {}
            if is_offloaded(layer._change(adapter_name)):
                with layer.weights_at_hand([adapter_name]):
                    at_hand = cast(nn.Module, layer).state_dict(prefix=f"{name}.")
                    selected |= {key: value.clone() for key, value in at_hand.items() if key in selected}
            scale = layer.secura_settings[adapter_name].scale
            selected[f"{name}.secura_scale.{adapter_name}"] = torch.tensor([scale], dtype=torch.float64)
            record["scale"] = repr(scale)
            folds = layer._ledger(adapter_name).keys()
            for side in ("columns", "rows"):
                container = getattr(layer, f"secura_{side}")
                if adapter_name in container:
                    selected[f"{name}.secura_{side}.{adapter_name}"] = container[adapter_name].int()
                    record[side] = " ".join(str(index) for index in container[adapter_name].tolist())
            fingerprint = layer.fingerprint()
            if fingerprint is not None:
                selected[f"{name}.secura_fingerprint.{adapter_name}"] = fingerprint
                record["fingerprint"] = fingerprint_text(fingerprint)
        # For SecuraConfig.save_pretrained, which PEFT calls next; not a field of the live config.
        to_save: dict[str, Any] = {"layers": layers, "folds": folds, "base": None}
        if layers:
            name, layer = next(_layers_with(outer_modules(model), adapter_name))
            whole_base = layer.whole_base.get(adapter_name)
            selected[f"{name}.secura_base.{adapter_name}"] = UNKNOWN_BASE if whole_base is None else whole_base
            to_save["base"] = None if whole_base is None else fingerprint_text(whole_base)
            sealed = selected | _modules_beside(model, adapter_name, state_dict)
            if can_be_sealed(sealed):
                tensors = {
                    plain_key(cls._remove_adapter_name_from_key(key, adapter_name)): tensor_digest(tensor)
                    for key, tensor in sealed.items()
                }
                to_save["seal"] = make_seal(sealed_settings(config), tensors, dict(to_save))
                selected[f"{name}.secura_seal.{adapter_name}"] = seal_as_tensor(to_save["seal"]["whole"])
            else:
                to_save["unsealed"] = True
        config.__dict__["_to_save"] = to_save
        return selected

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # A fold's factor lies one level deeper than PEFT's rule looks.
        folds = f".secura_folds.{adapter_name}."
        if folds in key:
            return key.replace(folds, ".secura_folds.")
        return super()._remove_adapter_name_from_key(key, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        state_dict, modules = dict(state_dict), outer_modules(model)
        layers = dict(_layers_with(modules, adapter_name))
        cls._check_seal(layers, _saved_names_beside(modules, adapter_name), config, adapter_name, state_dict)
        LookAtFirstUse.take_off(modules, adapter_name)
        taken: list[tuple[SecuraLayer, dict[str, Tensor], float, dict[str, dict[str, Tensor]]]] = []
        stored = by_layer({key: key for key in state_dict})
        for name, layer in layers.items():
            if is_offloaded(layer._change(adapter_name)):
                raise ConfigError(
                    f"adapter {adapter_name!r} is offloaded by accelerate, so nothing can be loaded into it; load it "
                    "under another name, or take the hooks off with accelerate.hooks.remove_hook_from_submodules."
                )
            own = stored.get(plain_key(name), {})
            fingerprint = state_dict.pop(own["fingerprint"]) if "fingerprint" in own else None
            if fingerprint is not None and getattr(config, "verify_base", True):
                _verify_layer(name.removeprefix(_PEFT_PREFIX), layer, fingerprint)
            whole_base = state_dict.pop(own["base"]) if "base" in own else UNKNOWN_BASE
            present = layer.whole_base.get(adapter_name)
            if present is not None and whole_base.any() and not fingerprints_agree(whole_base.cpu(), present):
                _refuse_whole_base(config)
            indices = {f"secura_{side}": state_dict.pop(own[side]) for side in ("columns", "rows") if side in own}
            # A checkpoint without a scale is older than scales are.
            scale = float(state_dict.pop(own["scale"])) if "scale" in own else 1.0
            folds = folds_by_key(
                (short.removeprefix("folds."), state_dict[key])
                for short, key in own.items()
                if short.startswith("folds.")
            )
            taken.append((layer, indices, scale, folds))
        for layer, indices, scale, folds in taken:  # only once every layer has been found to match
            layer.set_stored(adapter_name, indices, scale, folds)
            layer.sealed_tensors.pop(adapter_name, None)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter's layers in, and note what its config says that they will hold.

        PEFT's own hook after an injection is called for the first adapter alone.
        """
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        modules = outer_modules(model)
        adapted = {name.removeprefix(_PEFT_PREFIX): layer for name, layer in _layers_with(modules, adapter_name)}
        for layer in adapted.values():
            layer.whole_base.pop(adapter_name, None)
            if self._whole_base is not None:
                layer.whole_base[adapter_name] = self._whole_base
        saved = getattr(config, "saved", None)
        seal, self._seal = self._seal, None
        nothing_is_said = saved is None and bool(config.__dict__.get("_was_read"))
        if saved is not None or nothing_is_said:
            _look_through_what_is_loaded(model, has_saved=saved is not None)
        if seal is not None or nothing_is_said:
            LookAtFirstUse.put_on(model, modules, adapter_name, None if seal is None else seal["tensors"])
        if saved is None or seal is None:
            return
        odd = sorted(adapted.keys() ^ saved.get("layers", {}).keys())
        if odd and "seal" in saved:
            which = "was not" if odd[0] in adapted else "was"
            raise ConfigError(
                f"layer {odd[0]} {which} among those that the adapter was saved with; take target_modules and the "
                "other settings as they were saved."
            )
        sealed = by_layer(seal["tensors"])
        for name, layer in adapted.items():
            own = sealed.get(name, {})
            if "fingerprint" in saved.get("layers", {}).get(name, {}) and getattr(config, "verify_base", True):
                own["of_base"] = saved["layers"][name]["fingerprint"]
            layer.sealed_tensors[adapter_name] = own

    @classmethod
    def _check_seal(
        cls,
        layers: Mapping[str, SecuraLayer],
        beside: Mapping[str, str],
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> None:
        """Refuse tensors that are not those of an adapter as it was saved, and take their seal out of `state_dict`.

        Args:
            layers: those of the adapter, by name.
            beside: the name in the file of each tensor of modules saved beside them, by its name in the model.
            config: the adapter's.
            adapter_name: the name it is loaded under.
            state_dict: what is to be loaded.
        """
        layers = {name.removeprefix(_PEFT_PREFIX): layer for name, layer in layers.items()}
        # Modules saved beside the layers are sealed since the sample of the base is.
        seals_beside = any(".secura_base" in key for key in state_dict)
        of_beside = {key: state_dict[key] for key in beside if key in state_dict}
        tensors = {plain_key(beside[key]): each for key, each in of_beside.items()} if seals_beside else {}
        for key, tensor in state_dict.items():
            if key in of_beside:
                continue
            plain = plain_key(key)
            if plain.partition(".secura_")[0] not in layers:
                raise ConfigError(
                    f"the adapter's weights file holds {key}, which is no tensor of its own; loading it would "
                    "change the base model itself."
                )
            tensors[plain] = tensor
        of_seal = [key for key in state_dict if key.endswith(".secura_seal")]
        wholes = [seal_from_tensor(state_dict.pop(key)) for key in of_seal]
        for key in of_seal:
            del tensors[plain_key(key)]
        refuse_non_finite(tensors)
        for name, layer in layers.items():
            for factor, held in layer._change(adapter_name)._parameters.items():
                if held is not None and f"{name}.secura_change.{factor}" not in tensors:
                    raise ConfigError(f"the adapter's weights file lacks {name}.secura_change.{factor}; copy it again.")
        # The config's seal is of what it was loaded with; what is loaded later, such as a checkpoint, has its own.
        is_first = any(adapter_name in layer.sealed_tensors for layer in layers.values())
        seal = (getattr(config, "saved", None) or {}).get("seal") if is_first else None
        if not wholes and seal is None:
            return
        if len(wholes) != 1 or (is_first and seal is None):
            which = "adapter_config.json" if wholes else "weights file"
            raise ConfigError(f"the seal was taken out of the adapter's {which}; take the files as they were saved.")
        digests = {key: tensor_digest(tensor, as_in=wholes[0]) for key, tensor in tensors.items()}
        check_tensors(sealed_settings(config), digests, wholes[0], seal)


_TAKEN_FROM_THE_CONFIG = re.compile(r"\.secura_(base|columns|rows|scale|fingerprint|seal)(\.|$)")
"""Tensors that transformers' loader finds no place for, since a layer has what they hold from the config already."""

_UNSEALED = (
    "this adapter was saved without a seal, by an earlier secura or divided, so damage to it goes unnoticed; "
    "`secura doctor --seal` checks its files and seals it."
)

_TRAINED_IN_FEWER_BITS = (
    "the adapter was trained on a base in fewer bits than this one has. Its outputs differ a little from those in "
    "training, and whether this is the same base is told by the weights beside the adapted ones alone."
)


def _modules_beside(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the modules that are saved beside the layers, whole or by token, under the names PEFT gives them."""
    found = {}
    for name, module in _wrappers(outer_modules(model)):
        own = {key.removeprefix(f"{name}."): each for key, each in state_dict.items() if key.startswith(f"{name}.")}
        found |= {f"{name}.{key}": each for key, each in module.adapter_state_dict(adapter_name, own).items()}
    return found


def _saved_names_beside(modules: Mapping[str, nn.Module], adapter_name: str) -> dict[str, str]:
    """The name in the file of each tensor of modules beside the layers, by its name in the model."""
    return {
        f"{name}.{stored}": f"{name}.{saved}"
        for name, module in _wrappers(modules)
        for saved, stored in module.adapter_state_dict_load_map(adapter_name).items()
    }


def _wrappers(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Any]]:  # PEFT declares fewer arguments
    for name, module in modules.items():
        if isinstance(module, AuxiliaryTrainingWrapper):
            yield name.removeprefix("_fsdp_wrapped_module."), module


def _look_through_what_is_loaded(model: nn.Module, *, has_saved: bool) -> None:
    """Look at what transformers finds no place for, where it loads this adapter next by itself.

    It asks no model which keys of an adapter it may leave alone, and only lists the others, so the result of its loader
    is looked through, on this one model. What a layer has from `saved` is taken off the list; any other tensor of ours
    on it shows that the two files do not belong together.
    """
    load = getattr(type(model), "_load_pretrained_model", None)
    if load is not None:
        # A partial pickles, unlike a closure.
        cast(Any, model)._load_pretrained_model = partial(_load_and_look_through, load, has_saved)


def _load_and_look_through(load: Callable[..., Any], has_saved: bool, *args: Any, **kwargs: Any) -> Any:
    try:
        loaded = load(*args, **kwargs)
    except SafetensorError as problem:
        raise ConfigError(
            f"the weights file of the adapter is damaged or cut short ({problem}); take the file as it was saved."
        ) from problem
    unexpected = getattr(loaded[0] if isinstance(loaded, tuple) else loaded, "unexpected_keys", None)
    if isinstance(unexpected, set):
        if has_saved:
            unexpected.difference_update([key for key in unexpected if _TAKEN_FROM_THE_CONFIG.search(key)])
        odd = sorted(key for key in unexpected if ".secura_" in key)
        if odd:
            why = "its settings have no place" if has_saved else "adapter_config.json lacks `saved`"
            raise ConfigError(
                f"the adapter's weights file holds {odd[0]}, for which {why}; take the files as they were saved."
            )
    return loaded


def _encoder(model: nn.Module) -> nn.Module | None:
    """The encoder of an encoder-decoder model; transformers answers with the model itself where there is none."""
    get_encoder = getattr(model, "get_encoder", None)
    encoder = None if get_encoder is None else get_encoder()
    return None if encoder is model else encoder


def _add_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del module
    return args, {**kwargs, "adapter_names": adapter_names}


def outer_modules(model: nn.Module) -> dict[str, nn.Module]:
    """A model's modules by name, each once, in their order, without the many that SECURA layers hold of adapters."""
    found: dict[str, nn.Module] = {}
    seen, to_come = set(), [("", model)]
    while to_come:
        name, module = to_come.pop()
        if module in seen:
            continue
        seen.add(module)
        found[name] = module
        inside = {"base_layer": module.base_layer} if isinstance(module, SecuraLayer) else module._modules
        prefix = f"{name}." if name else ""
        to_come += [(prefix + each, child) for each, child in reversed(inside.items()) if child is not None]
    return found


def _layers_with(modules: Mapping[str, nn.Module], adapter_name: str) -> Iterator[tuple[str, SecuraLayer]]:
    for name, module in modules.items():
        if isinstance(module, SecuraLayer) and adapter_name in module.secura_change:
            yield name.replace("_fsdp_wrapped_module.", "").removeprefix("_orig_mod."), module


def _verify_base(model: nn.Module, saved: dict[str, Any]) -> dict[str, WeightDigests]:
    """Refuse a base model that an adapter was not made for; what was computed to find out, by layer."""
    modules, digests, unpacked = outer_modules(model), {}, False
    for name, record in saved.get("layers", {}).items():
        if "fingerprint" not in record:
            continue
        module = modules.get(name)
        if module is None:
            raise BaseMismatchError(
                f"the adapter was made for a base model with a layer {name}, which this one does not have; load the "
                "base model it was trained on."
            )
        layer = module if isinstance(module, SecuraLayer) else _without_adapter(module)
        fingerprint = fingerprint_from_text(record["fingerprint"])
        _verify_layer(name, layer, fingerprint)
        digests[name] = layer._digests
        unpacked |= is_of_quantized(fingerprint) and layer.quantization_backend is None
    if unpacked:
        warnings.warn(_TRAINED_IN_FEWER_BITS, stacklevel=2)
    return digests


def _saved_whole(config: PeftConfig) -> set[str]:
    """Modules that an adapter saves whole, with the heads that PEFT adds to them once the first adapter is in."""
    # PEFT's model of questions and answers has its head's name in the midst of its code.
    heads = dict.fromkeys(("SEQ_CLS", "TOKEN_CLS"), SEQ_CLS_HEAD_NAMES) | {"QUESTION_ANS": ["qa_outputs"]}
    task = str(getattr(config.task_type, "value", config.task_type))
    return {*(getattr(config, "modules_to_save", None) or ()), *heads.get(task, ())}


def _refuse_whole_base(config: PeftConfig) -> None:
    if getattr(config, "verify_base", True) is not True:
        return
    raise BaseMismatchError(
        "the adapter was made for another base model: the weights that it adapts are the same, but not those beside "
        "them, such as the embeddings, the norms or the output head; load that base model, or set "
        "verify_base='adapted' in the adapter's config where it was meant to change."
    )


def _without_adapter(module: nn.Module) -> SecuraLayer:
    bare = Linear.__new__(Linear)
    nn.Module.__init__(bare)
    SecuraLayer.__init__(bare, module)
    return bare


def _verify_layer(name: str, layer: SecuraLayer, stored: Tensor) -> None:
    if not layer.is_made_for(stored.to("cpu", torch.int64)):
        raise BaseMismatchError(
            f"the adapter was made for another base model: the weight of {name} is not the one it was trained on; "
            "load that base model, or set verify_base=False in the adapter's config to accept wrong outputs."
        )
