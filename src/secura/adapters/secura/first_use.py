"""What transformers' own loader has put into a model, looked at before the model's first forward pass.

`load_adapter` of transformers asks no adapter what it loads. It puts every tensor of the file whose name the model
knows in place of the model's own, weights of the base included, and marks each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from secura.adapters.secura.sealing import tensor_digest, was_changed
from secura.errors import ConfigError


@dataclass(eq=False)
class LookAtFirstUse:
    """A forward pre-hook of the model's root, for one adapter whose config came from a file."""

    adapter_name: str
    base: Sequence[tuple[str, nn.Module, str, Tensor]]
    """Every parameter of the base before anything was loaded: its module's name, the module, its own name, itself."""
    sealed: Mapping[str, str] | None
    """Digests of the adapter's tensors; None where its config says nothing of what was saved."""

    @classmethod
    def put_on(
        cls, model: nn.Module, modules: Mapping[str, nn.Module], adapter_name: str, sealed: Mapping[str, str] | None
    ) -> None:
        """Look at `model` when it is next called; `modules` are its own and its layers', by name."""
        base = [
            (name, module, own_name, each)
            for name, module in modules.items()
            if not _is_of_adapter(name)
            for own_name, each in module._parameters.items()
            if each is not None
        ]
        model.register_forward_pre_hook(cls(adapter_name, base, sealed))

    @classmethod
    def take_off(cls, modules: Mapping[str, nn.Module], adapter_name: str) -> None:
        """Forget about an adapter whose tensors have been looked at otherwise."""
        for module in modules.values():
            if module._forward_pre_hooks:
                _remove(module, [hook for hook in _hooks(module) if hook.adapter_name == adapter_name])

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Refuse a base that was written to, tensors that are not those that were saved, and a config without a word.

        Raises:
            ConfigError: naming the first.
        """
        del inputs
        for name, holder, own_name, before in self.base:
            now = holder._parameters.get(own_name)
            if now is not None and now is not before and _was_loaded(now):
                raise ConfigError(
                    f"the weights file of adapter {self.adapter_name!r} has changed {name}.{own_name} of the base "
                    "model itself; load the base again, and take the adapter's files as they were saved."
                )
        part = f".secura_change.{self.adapter_name}."
        if self.sealed is None:
            if any(part in name and _was_loaded(each) for name, each in module.named_parameters()):
                raise ConfigError(
                    f"`saved` was taken out of the adapter_config.json of adapter {self.adapter_name!r}, so nothing "
                    "says what its weights should be; take the file as it was saved."
                )
        else:
            self._check_modules_beside(module, self.sealed)
        _remove(module, [self])

    def _check_modules_beside(self, model: nn.Module, sealed: Mapping[str, str]) -> None:
        for name, module in model.named_modules():
            if not isinstance(module, AuxiliaryTrainingWrapper):
                continue
            held = module.state_dict()
            for saved, stored in module.adapter_state_dict_load_map(self.adapter_name).items():
                was = sealed.get(f"{name}.{saved}")
                if was is not None and was_changed(tensor_digest(held[stored], as_in=was), was):
                    raise ConfigError(
                        f"{name}.{saved} of adapter {self.adapter_name!r} is not what was saved; take the adapter's "
                        "files as they were saved. transformers 5.6 loads no module that is saved whole; there, use "
                        "PeftModel.from_pretrained."
                    )


def _hooks(module: nn.Module) -> list[LookAtFirstUse]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, LookAtFirstUse)]


def _remove(module: nn.Module, hooks: list[LookAtFirstUse]) -> None:
    # By what it is and not by its handle, which a copy of the model does not know.
    for key in [key for key, hook in module._forward_pre_hooks.items() if any(hook is each for each in hooks)]:
        del module._forward_pre_hooks[key]


def _is_of_adapter(name: str) -> bool:
    return ".modules_to_save" in name or ".token_adapter" in name


def _was_loaded(tensor: Tensor) -> bool:
    return getattr(tensor, "_is_hf_initialized", False)
