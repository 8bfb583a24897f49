"""The bundled model's tokenizer: ByteLevel BPE trained on the world's own text."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from secura.tasks.world.facts import COLOURS, NOUNS, QUALITIES, the_world
from secura.tasks.world.knowledge import KNOWLEDGE
from secura.tasks.world.practice import PRACTICE
from secura.tasks.world.statements import statement

# The trainer numbers its special tokens first, in the order it is given them.
END, END_ID = "<eos>", 0
PADDING, PADDING_ID = "<pad>", 1
VOCABULARY_SIZE = 1152
LONGEST_ROW_TOKENS = 1024
"""Far more than the world needs: other text falls back to bytes, and rotary positions have no end of their own."""
_SAMPLES_PER_FAMILY = 600


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on text drawn from `seed`; all 256 bytes are in, so any text encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        model_max_length=LONGEST_ROW_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def _text(seed: int) -> list[str]:
    draw = random.Random(f"tokenizer/{seed}")
    questions = [draw_one(draw) for draw_one in (KNOWLEDGE | PRACTICE).values() for _ in range(_SAMPLES_PER_FAMILY)]
    # Words that the new tasks need are in here often enough to become one token each.
    words = [f" {word}" for word in (*NOUNS, *COLOURS, *QUALITIES, *the_world().ulvish.values())] * 50
    statements = [statement(draw) for _ in range(_SAMPLES_PER_FAMILY)]
    return [f"{question.prompt} {question.answer}" for question in questions] + statements + words
