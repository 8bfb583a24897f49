import pytest
import torch
from models_that_know import model_that_knows
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer
from transformers import GenerationConfig

from secura.evaluation.generation import GeneratedAnswer, generate_answers
from secura.tasks.prompting import prompt_tokens
from secura.tasks.question import Question

TOKENIZER = tiny_tokenizer()
PROMPTS = [prompt_tokens(TOKENIZER, "sky " * words + "?") for words in (1, 7, 3, 5, 3)]


def _said(answer: str, prompt: str = "sky?", **settings: object) -> GeneratedAnswer:
    """What comes back of a model that says exactly this."""
    model = model_that_knows(TOKENIZER, [Question(prompt=prompt, answer=answer)])
    settings = {"max_tokens": 40, **settings}
    (found,) = generate_answers(model, TOKENIZER, [prompt_tokens(TOKENIZER, prompt)], **settings)  # type: ignore[arg-type]
    return found


def test_an_answer_ends_where_the_model_ends_it() -> None:
    said = _said("blue and grey")
    assert (said.text, said.truncated) == (" blue and grey", False)
    assert said.tokens == len(TOKENIZER(" blue and grey")["input_ids"]) + 1  # the end is generated too


def test_an_answer_cut_at_the_limit_is_truncated_and_no_other_is() -> None:
    tokens = len(TOKENIZER(" blue and grey")["input_ids"])
    assert _said("blue and grey", max_tokens=tokens).truncated
    assert not _said("blue and grey", max_tokens=tokens + 1).truncated
    assert not _said("blue\nand grey", max_tokens=tokens, stop=("\n",)).truncated


@pytest.mark.parametrize(
    ("answer", "stop", "expected"),
    [
        ("blue\ngrey", ("\n",), " blue"),
        ("blue. Question: sky", ("Question:",), " blue. "),  # over several tokens
        ("blue and the sky", ("he s",), " blue and t"),  # across tokens, inside two
        ("blue Q: grey\nred", ("\n", "Q:"), " blue "),  # the first that comes
        ("blue", ("\n", ""), " blue"),  # none
        ("?sky", ("y?s",), " ?sky"),  # only together with the prompt
        ("blue sky", (" ",), ""),  # the space that joins the answer
    ],
)
def test_a_stop_string_ends_an_answer_wherever_it_comes_and_is_no_part_of_it(
    answer: str, stop: tuple[str, ...], expected: str
) -> None:
    assert _said(answer, stop=stop).text == expected


def test_generation_itself_ends_at_a_stop_string() -> None:
    said = _said("blue\ngrey and grey and grey", stop=("\n",))
    assert said.tokens == len(TOKENIZER(" blue\n")["input_ids"])


def test_a_special_token_may_be_a_stop_string() -> None:
    said = _said("blue<|end|>grey", stop=("<|end|>",))
    assert (said.text, said.truncated) == (" blue", False)


def test_a_row_that_ended_says_nothing_more_while_others_go_on() -> None:
    asked = [
        Question(prompt="a?", answer="blue"),
        Question(prompt="the sky?", answer="grey and grey and grey and grey"),
        Question(prompt="what?", answer="red\nand more of it"),
    ]
    model = model_that_knows(TOKENIZER, asked)
    prompts = [prompt_tokens(TOKENIZER, each.prompt) for each in asked]
    found = generate_answers(model, TOKENIZER, prompts, max_tokens=60, stop=("\n",), batch_size=3)
    assert [each.text for each in found] == [" blue", " grey and grey and grey and grey", " red"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_answers_depend_neither_on_the_batch_size_nor_on_the_order(architecture: str) -> None:
    model = tiny_model(architecture)
    alone = generate_answers(model, TOKENIZER, PROMPTS, max_tokens=12, batch_size=1)
    assert generate_answers(model, TOKENIZER, PROMPTS, max_tokens=12, batch_size=4) == alone
    assert generate_answers(model, TOKENIZER, PROMPTS[::-1], max_tokens=12, batch_size=4) == alone[::-1]


def test_decoding_is_greedy() -> None:
    model = tiny_model()
    tokens = torch.tensor([PROMPTS[1]])
    for _ in range(10):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    (found,) = generate_answers(model, TOKENIZER, [PROMPTS[1]], max_tokens=10)
    assert found.text == TOKENIZER.decode(tokens[0, len(PROMPTS[1]) :])
    assert found.truncated


def test_the_models_own_generation_settings_are_set_aside_and_put_back() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    plain = generate_answers(model, TOKENIZER, PROMPTS, max_tokens=12)
    inner = model.get_base_model()
    inner.generation_config = own = GenerationConfig(repetition_penalty=5.0, do_sample=True)
    assert generate_answers(model, TOKENIZER, PROMPTS, max_tokens=12) == plain
    assert inner.generation_config is own


def test_a_prompt_longer_than_the_context_loses_its_beginning_and_is_counted() -> None:
    model = tiny_model("gpt2")  # reads no place beyond its context
    long = prompt_tokens(TOKENIZER, "z" * 2 * CONTEXT)
    cut, whole = generate_answers(model, TOKENIZER, [long, PROMPTS[0]], max_tokens=20)
    assert (cut.prompt_cut, whole.prompt_cut) == (True, False)
    assert cut.tokens == CONTEXT // 16
    assert cut.truncated
    (kept,) = generate_answers(model, TOKENIZER, [long[-CONTEXT + CONTEXT // 16 :]], max_tokens=20)
    assert (kept.text, kept.prompt_cut) == (cut.text, False)


def test_a_prompt_that_leaves_little_room_cuts_no_other_answer() -> None:
    model = tiny_model("gpt2")
    crowded = prompt_tokens(TOKENIZER, "z" * (CONTEXT - 6))
    alone = generate_answers(model, TOKENIZER, PROMPTS, max_tokens=20)
    found = generate_answers(model, TOKENIZER, [crowded, *PROMPTS], max_tokens=20, batch_size=8)
    assert found[1:] == alone
    assert (found[0].tokens, found[0].prompt_cut) == (6, False)


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_of_an_adapter_are_read(config: type[PromptTuningConfig]) -> None:
    torch.manual_seed(0)
    model = tiny_model()
    adapted = get_peft_model(model, config(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with torch.no_grad():
        for weight in adapted.prompt_encoder.parameters():
            weight.mul_(20.0)  # enough to be heard
    tokens = torch.tensor([PROMPTS[1]])
    for _ in range(8):
        with torch.no_grad():
            tokens = torch.cat([tokens, adapted(tokens).logits[:, -1:].argmax(-1)], dim=1)
    expected = TOKENIZER.decode(tokens[0, len(PROMPTS[1]) :])
    found = generate_answers(adapted, TOKENIZER, PROMPTS, max_tokens=8, batch_size=4)
    assert found[1].text == expected
    assert found == generate_answers(adapted, TOKENIZER, PROMPTS, max_tokens=8, batch_size=1)
    assert generate_answers(model, TOKENIZER, PROMPTS, max_tokens=8)[1].text != expected
