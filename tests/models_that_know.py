"""A stand-in model that knows the right answers: every number between the answer and its score is then ours.

It is a `PreTrainedModel` with the real interface: forward with padding masks and a key-value
cache, `generate` by transformers. What it has read is kept in the cache itself (a token as
its key, its place among the known texts as its value), so a cache that is padded, copied or
cut wrongly makes it forget.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationMixin,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from secura.tasks.prompting import answer_tokens, end_tokens, prompt_tokens, token_ids
from secura.tasks.question import Item, PlainText

_SURE = 30.0
_LOST = 0
_START = 1


class KnowingModel(PreTrainedModel, GenerationMixin):
    """Predicts the next token of the texts it knows; anything else it holds for equally likely."""

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.nothing = nn.Parameter(torch.zeros(1))
        self.places: dict[tuple[int, int], int] = {}
        self.next_token: dict[int, int] = {}
        self.post_init()

    def learn(self, known: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Learn texts to recognise, each with what to say after it."""
        for read, said in known:
            place = _START
            for token in read:
                place = self.places.setdefault((place, token), len(self.places) + 2)
            for token in said:
                self.next_token[place] = token
                place = self.places.setdefault((place, token), len(self.places) + 2)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        del kwargs
        count = input_ids.shape[1]
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        mask = torch.ones(len(input_ids), seen + count) if attention_mask is None else attention_mask
        assert mask.shape == (len(input_ids), seen + count), "the mask covers the cache and the new tokens"
        if position_ids is not None:
            expected = (mask.cumsum(1) - 1).clamp(min=0)[:, -count:].long()
            assert torch.equal((position_ids * mask[:, -count:]).long(), (expected * mask[:, -count:]).long())
        began = past_key_values.layers[0].values[:, 0, -1, 0].tolist() if seen else [_START] * len(input_ids)
        places = [
            self._walk(int(start), row, valid)
            for start, row, valid in zip(began, input_ids.tolist(), mask[:, -count:].tolist(), strict=True)
        ]
        if past_key_values is not None:
            keys, values = input_ids.float(), torch.tensor(places, dtype=torch.float32)
            past_key_values.update(keys[:, None, :, None], values[:, None, :, None], 0)
        kept = [row[-logits_to_keep:] for row in places]
        logits = self.nothing * torch.zeros(len(kept), len(kept[0]), self.config.vocab_size)
        for row, each in enumerate(kept):
            for column, place in enumerate(each):
                if place in self.next_token:
                    logits[row, column, self.next_token[place]] = _SURE
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values if use_cache else None)

    def _walk(self, place: int, tokens: Sequence[int], valid: Sequence[float]) -> list[int]:
        walked = []
        for token, counts in zip(tokens, valid, strict=True):
            place = self.places.get((place, token), _LOST) if counts else place
            walked.append(place)
        return walked


def model_that_knows(tokenizer: PreTrainedTokenizerBase, items: Iterable[Item], *, context: int = 8192) -> KnowingModel:
    """A model that gives the right answer to each question, and expects every word of each text."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = KnowingModel(config)
    model.learn(_known(tokenizer, item) for item in items)
    return model.eval()


def _known(tokenizer: PreTrainedTokenizerBase, item: Item) -> tuple[list[int], list[int]]:
    if isinstance(item, PlainText):
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return [int(start)], token_ids(tokenizer, item.text, special=False)
    said = answer_tokens(tokenizer, item.asked, item.answer, end=False) + end_tokens(tokenizer)
    return prompt_tokens(tokenizer, item.asked), said
