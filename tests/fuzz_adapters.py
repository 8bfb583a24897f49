"""Adapter folders that were damaged, mixed up or edited: `python -m tests.fuzz_adapters --cases 10000 --seed 0`.

Each case changes one saved folder in one way, or in two, and loads it through PEFT or through transformers. What may
come of it is a refusal with a reason, or the same bits, of the adapted model and of the base under it. Anything else
is a fault: other outputs without a word, an error of another kind out of our code, or more than a few seconds. PEFT,
transformers and safetensors refuse some folders, such as JSON that is none, before any code of ours sees them; these
are counted apart, and our own commands give them a sentence.

Left out: `peft_type` made that of another method.
"""

import argparse
import copy
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from adapted_models import VOCABULARY, adapted, llama, logits, moved, saved_adapter
from oldest_versions import LOADS_WHOLE_MODULES

import secura.adapters
from secura.adapters import SecuraConfig, fold
from secura.errors import SecuraError

Outcome = Literal["refused", "refused by a library", "same", "wrong", "bare", "slow"]
SLOW_SECONDS = 10.0
"""Of the process's own time: a machine that is busy makes no folder slow."""
HANG_SECONDS = 600
OURS = str(Path(secura.adapters.__file__).parents[1])
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass
class Folder:
    """An adapter as it is saved, to be changed."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    text: str | None = None
    """adapter_config.json, where it is not simply `config`."""
    raw: bytes | None = None
    """The weights file, where it is not simply `tensors`."""

    def write(self, path: Path) -> None:
        path.mkdir()
        (path / CONFIG).write_text(json.dumps(self.config) if self.text is None else self.text)
        save_file({key: tensor.contiguous() for key, tensor in self.tensors.items()}, path / WEIGHTS)
        if self.raw is not None:
            (path / WEIGHTS).write_bytes(self.raw)


Change = Callable[[Folder, Folder, random.Random], None]


def pick(folder: Folder, draw: random.Random) -> str:
    return draw.choice(sorted(folder.tensors))


def drop_tensor(folder: Folder, other: Folder, draw: random.Random) -> None:
    del folder.tensors[pick(folder, draw)]


def add_tensor(folder: Folder, other: Folder, draw: random.Random) -> None:
    layer = "base_model.model.model.layers.0.self_attn.k_proj"
    key, shape = draw.choice(
        [
            ("base_model.model.lm_head.weight", (VOCABULARY, 32)),
            (f"{layer}.base_layer.weight", (16, 32)),
            (f"{layer}.weight", (16, 32)),
            ("base_model.model.model.norm.weight", (32,)),
            (f"{layer}.secura_folds.7:more.core", (4, 4)),
            (f"{layer}.secura_folds.7-9:more.core", (3, 4, 4)),
            (f"{layer}.secura_base", (4,)),
            (f"{layer}.secura_else", (4,)),
            ("nonsense", (2,)),
        ]
    )
    folder.tensors[key] = torch.randn(shape)


def swap_tensors(folder: Folder, other: Folder, draw: random.Random) -> None:
    one, two = pick(folder, draw), pick(folder, draw)
    folder.tensors[one], folder.tensors[two] = folder.tensors[two], folder.tensors[one]


def change_tensor(folder: Folder, other: Folder, draw: random.Random) -> None:
    key = pick(folder, draw)
    old = folder.tensors[key].clone()
    ways: list[Callable[[], Tensor]] = [
        lambda: old.flip(0),
        lambda: old.T.contiguous() if old.dim() == 2 else old.roll(1),
        lambda: old.roll(1, -1),
        lambda: torch.zeros_like(old),
        lambda: torch.full_like(old.float(), draw.choice([float("nan"), float("inf")])),
        lambda: old.to(draw.choice([torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int8])),
        lambda: old[:-1],
        lambda: old.repeat(2, *[1] * (old.dim() - 1)),
        lambda: old.reshape(-1),
        lambda: -old if old.dtype != torch.uint8 else old + 1,
    ]
    folder.tensors[key] = draw.choice(ways)()


def flip_bit(folder: Folder, other: Folder, draw: random.Random) -> None:
    key = pick(folder, draw)
    raw = folder.tensors[key].clone().contiguous()
    bits = raw.view(-1).view(torch.uint8)
    place = draw.randrange(bits.numel())
    bits[place] = bits[place] ^ (1 << draw.randrange(8))
    folder.tensors[key] = raw


def truncate_weights(folder: Folder, other: Folder, draw: random.Random) -> None:
    with tempfile.TemporaryDirectory() as path:
        save_file(folder.tensors, Path(path) / WEIGHTS)
        raw = bytearray((Path(path) / WEIGHTS).read_bytes())
    if draw.random() < 0.5:
        folder.raw = bytes(raw[: draw.randrange(len(raw))])
    else:
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        folder.raw = bytes(raw)


NUMBERS = [0, -1, 1, 2, 0.5, 1e-3, 2e8, 200_000_000, 1e308, float("inf"), float("-inf"), float("nan"), True]
ANYTHING: list[Any] = [*NUMBERS, None, "", "x", "0.2", [], {}, [1], {"a": 1}, [[]], {"q_proj": "x"}, "(a+)+$" * 3]
SETTINGS: dict[str, list[Any]] = {
    "change": ["cabr", "cur", "low_rank"],
    "norm": ["none", "paper", "released", "bounded", "row_bounded"],
    "reference": ["fixed", "moving"],
    "fold": ["keep", "undamped"],
    "scale": ["natural", "plain"],
    **dict.fromkeys(("tau", "floor", "alpha", "r", "inner_r"), NUMBERS),
    "target_modules": [["k_proj"], ["q_proj", "v_proj", "k_proj"], "all-linear", r".*(k|v)_proj", "(.*)*x", "(((", []],
    "exclude_modules": [["k_proj"], "(a|a?)+$", ["lm_head"]],
    "layers_to_transform": [[0], 0, [5]],
    "rank_pattern": [{"k_proj": 2}, {"(.*)*": 2}, {"k_proj": 2e8}],
    "alpha_pattern": [{"v_proj": 3.0}, {"v_proj": float("nan")}],
    "output_bias": [True],
    "modules_to_save": [["lm_head"], ["norm"], ["k_proj"], [], "lm_head"],
    "peft_type": ["X", "secura"],
}


def change_setting(folder: Folder, other: Folder, draw: random.Random) -> None:
    key = draw.choice(sorted(SETTINGS))
    folder.config[key] = draw.choice(SETTINGS[key] + (ANYTHING if draw.random() < 0.3 else []))


def drop_setting(folder: Folder, other: Folder, draw: random.Random) -> None:
    del folder.config[draw.choice(sorted(folder.config))]


def change_saved(folder: Folder, other: Folder, draw: random.Random) -> None:
    saved = folder.config.get("saved")
    if not isinstance(saved, dict) or not isinstance(saved.get("layers"), dict) or not saved["layers"]:
        return
    part = draw.randrange(9)
    layers = saved["layers"]
    layer = draw.choice(sorted(layers))
    if part == 0:
        folder.config["saved"] = draw.choice(ANYTHING)
    elif part == 1:
        saved[draw.choice(sorted(saved))] = draw.choice(ANYTHING)
    elif part == 2:
        del saved[draw.choice(sorted(saved))]
    elif part == 3:
        del layers[layer]
    elif part == 4:
        another = draw.choice(sorted(layers))
        layers[layer], layers[another] = layers[another], layers[layer]
    elif part == 5 and layers[layer]:
        layers[layer].pop(draw.choice(sorted(layers[layer])))
    elif part == 6 and layers[layer]:
        key = draw.choice(sorted(layers[layer]))
        words = str(layers[layer][key]).split()
        draw.shuffle(words)
        layers[layer][key] = draw.choice(
            [" ".join(words), " ".join(words[:-1]), "-1 2 3 4", "9999 1 2 3", "x", 3, None]
        )
    elif part == 7 and isinstance(saved.get("folds"), list):
        folds = saved["folds"]
        saved["folds"] = draw.choice(
            [
                *(folds[::-1], folds[:-1], folds * 2, [*folds, "9:more"], ["x"], [1]),
                *([key.replace("-", "-9") for key in folds], [*folds, "9-999999999:more"], ["5-2:one"]),
            ]
        )
    elif isinstance(saved.get("seal"), dict):
        seal = saved["seal"]
        seal[draw.choice(sorted(seal))] = draw.choice(ANYTHING)


def change_text(folder: Folder, other: Folder, draw: random.Random) -> None:
    text = json.dumps(folder.config)
    folder.text = draw.choice(
        [
            text[: draw.randrange(len(text))],
            text[:-1] + ', "tau": 0.9}',
            text[:-1] + ', "saved": null}',
            text[:-1] + ', "more": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "[]",
            "null",
            text[:-1] + ', "r": 1' + "0" * 5000 + "}",
        ]
    )


def cross(folder: Folder, other: Folder, draw: random.Random) -> None:
    if draw.random() < 0.5:
        folder.tensors = dict(other.tensors)
    else:
        folder.config = copy.deepcopy(other.config)


CHANGES: dict[str, Change] = {
    each.__name__: each
    for each in (
        *(drop_tensor, add_tensor, swap_tensors, change_tensor, flip_bit, truncate_weights),
        *(change_setting, drop_setting, change_saved, change_text, cross),
    )
}


def made_folders(place: Path) -> dict[str, tuple[Folder, Folder]]:
    """Of each kind, two adapters that were trained apart."""
    small = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["k_proj", "v_proj"]}
    kinds: dict[str, dict[str, Any]] = {
        "secura": {"inner_r": 6},
        "cur-lora": {},
        "bounded-lora": {},
        "ledger": {"inner_r": 6},
        "head": {"modules_to_save": ["lm_head"]},
    }
    made = {}
    for kind, settings in kinds.items():
        pair = []
        for seed in (2, 3):
            name = "secura" if kind in ("ledger", "head") else kind
            model: Any = adapted(new_base(), SecuraConfig.preset(name, **small, **settings), seed=seed)
            if kind == "ledger":
                for task in ("one", "two", "two", "two"):
                    fold(model, task)
                    moved(model, seed + len(task))
            if kind == "head":
                head = model.base_model.model.lm_head.modules_to_save["default"].weight
                head.data.mul_(1 + seed / 10)
            path = saved_adapter(model, place / f"{kind}-{seed}")
            pair.append(Folder(json.loads((path / CONFIG).read_text()), load_file(path / WEIGHTS)))
        made[kind] = (pair[0], pair[1])
    return made


BASE = llama(layers=1)  # k and v have one shape, so tensors can be swapped between layers


def new_base() -> Any:
    return copy.deepcopy(BASE)  # faster than building one


def through_peft(path: Path) -> Any:
    return PeftModel.from_pretrained(new_base(), str(path)).eval()


def through_transformers(path: Path) -> Any:
    model = new_base()
    model.load_adapter(str(path))
    return model.eval()


LOADERS = {"peft": through_peft} | ({"transformers": through_transformers} if LOADS_WHOLE_MODULES else {})


def outcome_of(path: Path, load: Callable[[Path], Any], expected: Tensor, base: Tensor) -> tuple[Outcome, str]:
    """What came of loading a folder, and the reason."""
    began = time.process_time()
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG_SECONDS)
    try:
        model = load(path)
        found = logits(model)
        undone = logits_without(model)
    except SecuraError as problem:
        said: tuple[Outcome, str] = ("refused", str(problem))
    except Exception as problem:
        kind: Outcome = "bare" if in_our_code(problem) else "refused by a library"
        said = (kind, f"{type(problem).__name__}: {str(problem)[:200]}")
    else:
        same = torch.equal(found, expected) and torch.equal(undone, base)
        said = ("same", "") if same else ("wrong", "")
    finally:
        signal.alarm(0)
    return ("slow", said[1]) if time.process_time() - began > SLOW_SECONDS else said


def give_up(number: int, frame: Any) -> None:
    raise TimeoutError(f"still at it after {HANG_SECONDS} seconds")


def in_our_code(problem: Exception) -> bool:
    """Whether code of ours raised it, or handed on what led to it."""
    trace = problem.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith(OURS) and code.co_name != "inject_adapter":  # PEFT's own, with a note added
            return True
        trace = trace.tb_next
    return False


def logits_without(model: Any) -> Tensor:
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            return logits(model)
    model.disable_adapters()
    return logits(model)


def fuzz(cases: int, seed: int, *, loaders: tuple[str, ...] = tuple(LOADERS)) -> tuple[Counter[str], list[str]]:
    """Counts of outcomes, and a line for each fault."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as place:
        made = made_folders(Path(place))
        base = logits(new_base())
        expected = {}
        for kind, (folder, _) in made.items():
            folder.write(Path(place) / kind)
            for name in loaders:
                expected[kind, name] = logits(LOADERS[name](Path(place) / kind))
        for case in range(cases):
            if case % 500 == 0 and case:
                print(f"{case} of seed {seed}: {dict(counts)}, {len(faults)} faults", file=sys.stderr, flush=True)
            kind, loader = draw.choice(sorted(made)), draw.choice(loaders)
            changed, other = copy.deepcopy(made[kind])
            names = draw.choices(sorted(CHANGES), k=draw.choice([1, 1, 1, 2]))
            path = Path(place) / f"case-{case}"
            try:
                for name in names:
                    CHANGES[name](changed, other, draw)
                changed.write(path)
            except (KeyError, IndexError, ValueError, RuntimeError, TypeError):  # the second change found no hold
                counts["not made"] += 1
                continue
            outcome, said = outcome_of(path, LOADERS[loader], expected[kind, loader], base)
            if outcome == "wrong" and "cross" in names:  # the other adapter whole is an adapter, and no mix-up
                with_other = copy.deepcopy(made[kind][1])
                whole = Path(place) / f"other-{case}"
                with_other.write(whole)
                outcome, said = outcome_of(path, LOADERS[loader], logits(LOADERS[loader](whole)), base)
                shutil.rmtree(whole)
            counts[outcome] += 1
            if outcome not in ("refused", "refused by a library", "same"):
                what = f"{kind} through {loader}, {'+'.join(names)}"
                faults.append(f"case {case} of seed {seed}: {what}: {outcome} {said} {detail(changed, made[kind][0])}")
                print(faults[-1], file=sys.stderr, flush=True)
            shutil.rmtree(path)
    return counts, faults


def detail(changed: Folder, folder: Folder) -> str:
    """Which settings and tensors differ."""
    settings = {key: each for key, each in changed.config.items() if key != "saved" and folder.config.get(key) != each}
    gone = [key for key in folder.config if key not in changed.config]
    tensors = sorted(changed.tensors.keys() ^ folder.tensors.keys())
    return f"settings {settings}, without {gone}, tensors {tensors}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loader", choices=sorted(LOADERS), action="append")
    given = parser.parse_args()
    counts, faults = fuzz(given.cases, given.seed, loaders=tuple(given.loader or LOADERS))
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
