"""Carries out runs of `secura train` in however many processes were launched: a program for tests.

Its one argument is a JSON file: a list of {"set": [...], "out": ..., "resume": ...}. Beside each
run it leaves `sharded.json`, whether weights were divided, and the logits of the model as it is
after training, divided or not.
"""

import io
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from secura.adapters.sharding import is_sharded
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.training.processes import is_main_process, join_processes, leave_processes

TOKENS = torch.arange(7, 23)[None]


def main() -> None:
    join_processes()
    for each in json.loads(Path(sys.argv[1]).read_text()):
        config = load_config(None, each["set"], {"out": each["out"]})
        prepared = prepare_run(config, resume=each.get("resume", False))
        train_and_report(prepared, Console(file=io.StringIO()))
        sharded = any(is_sharded(weight) for weight in prepared.model.parameters())
        prepared.model.eval()
        with torch.no_grad():
            logits = prepared.model(TOKENS).logits
        if is_main_process():
            save_file({"logits": logits.contiguous()}, Path(each["out"]) / "logits.safetensors")
            (Path(each["out"]) / "sharded.json").write_text(json.dumps(sharded))
    leave_processes()


if __name__ == "__main__":
    main()
