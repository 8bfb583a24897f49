"""A small file in the layout of PEFT's method comparison, with numbers made up by us."""

from typing import Any


def peft_result(experiment: str, *, old: bool = False) -> dict[str, Any]:
    """One result.

    Args:
        experiment: method and name, such as `lora/tiny-rank32`.
        old: whether from before the memory fields were renamed and forgetting was measured.
    """
    memory = "cuda" if old else "accelerator"
    last = {
        "step": 5000,
        "test accuracy": 0.48,
        "train loss": 0.6,
        "train samples": 20000,
        "train total tokens": 4198051,
    }
    return {
        "run_info": {
            "created_at": "2026-08-01T10:00:00+00:00",
            "total_time": 1993.5,
            "experiment_name": experiment,
            "peft_branch": "main",
            "train_config": {
                "model_id": "meta/tiny",
                "dtype": "bfloat16",
                "batch_size": 4,
                "max_steps": 5000,
                "seed": 0,
                "optimizer_type": "AdamW",
                "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
            },
            "peft_config": {"peft_type": "LORA", "r": 32},
            "error_msg": "",
        },
        "train_info": {
            f"{memory}_memory_reserved_avg": 11868689976,
            f"{memory}_memory_max": 22273851392,
            f"{memory}_memory_reserved_99th": 17710763212,
            "train_time": 1796.2,
            "file_size": 36715216,
            "num_trainable_params": 9175040,
            "num_total_params": 3221924864,
            "status": "success",
            "metrics": [{"step": 250, "valid accuracy": 0.34}, last if old else {**last, "forgetting": 0.07}],
        },
        "meta_info": {
            "model_info": {"sha": "13af", "created_at": "2024-09-18T15:23:48+00:00"},
            "dataset_info": {
                "metamath": {"sha": "aa4f", "created_at": "2023-09-21T17:22:46+00:00"},
                "gsm8k": {"sha": "e53f", "created_at": "2022-04-12T10:22:10+00:00"},
            },
            "package_info": {"transformers-version": "4.52.4", "peft-version": "0.15.2.dev0"},
            "system_info": {"system": "Linux", "gpu" if old else "accelerator": "NVIDIA L40S"},
            "pytorch_info": "",
        },
    }
