"""Carries out runs of `secura train` in however many processes were launched: a program for tests.

Its one argument is a JSON file: a list of {"set": [...], "out": ..., "resume": ...}. Beside each
run it leaves `sharded.json`, whether weights were divided, the logits of the model as it is after
training, divided or not, and what each process holds in the end: `process-N.json`.
"""

import hashlib
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from secura.adapters.dividing import whole_state
from secura.adapters.sharding import is_sharded
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.training.processes import is_main_process, join_processes, leave_processes, process_index

TOKENS = torch.arange(7, 23)[None]


def main() -> None:
    join_processes()
    for each in json.loads(Path(sys.argv[1]).read_text()):
        config = load_config(None, each["set"], {"out": each["out"]})
        prepared = prepare_run(config, resume=each.get("resume", False))
        result = train_and_report(prepared, Console(file=io.StringIO()))
        sharded = any(is_sharded(weight) for weight in prepared.model.parameters())
        prepared.model.eval()
        with torch.no_grad():
            logits = prepared.model(TOKENS).logits
        state = whole_state(prepared.model) or prepared.model.state_dict()
        bits = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
        own = {"scale": result.scale, "certificate": result.certificate and asdict(result.certificate), "bits": bits}
        (Path(each["out"]) / f"process-{process_index()}.json").write_text(json.dumps(own))
        if is_main_process():
            save_file({"logits": logits.contiguous()}, Path(each["out"]) / "logits.safetensors")
            (Path(each["out"]) / "sharded.json").write_text(json.dumps(sharded))
    leave_processes()


if __name__ == "__main__":
    main()
