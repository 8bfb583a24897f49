"""A small anchor bank for tests, of the tiny model's own."""

from pathlib import Path

import torch
from tiny_models import tiny_model, tiny_tokenizer

from secura.anchors.bank import AnchorBank, write_bank
from secura.anchors.teacher import write_teacher
from secura.anchors.writing import Wanted, write_texts


def tiny_bank(folder: Path, *, texts: int = 12, tokens: int = 10, seed: int = 0) -> AnchorBank:
    model = tiny_model()
    wanted = Wanted(texts=texts, tokens=tokens, seed=seed, prompts=[[5, 6, 7], [8, 9]])
    base = {"model": "tiny", "fingerprint": "0"}
    bank = write_texts(model, tiny_tokenizer(), wanted, base=base, unfinished=folder.with_name("unfinished"))
    write_bank(folder, bank)
    with torch.no_grad():
        write_teacher(folder, model, bank)
    return bank
