"""Chat prompts: a text as the message of a user, in the form in which a chat model reads it before its answer."""

from __future__ import annotations

from typing import Any

# A template that writes the date of the day would give other inputs on other days. This date is the default of Llama 3.1's template.
TODAY = "26 Jul 2024"
_FIXED_DATE = f"{{%- macro strftime_now(format) -%}}{TODAY}{{%- endmacro -%}}"
_ANSWER = "answer"


def user_turn(pretrained: Any, text: str) -> str:
    """Return `text` as a user's message under the chat template of a transformers tokenizer, up to the beginning of the answer."""
    return _rendered(pretrained, [{"role": "user", "content": text}], True)


def space_before_answer(pretrained: Any) -> str:
    """Return the white space that the chat template puts between the user's turn and an answer ("" or a space, usually)."""
    question = [{"role": "user", "content": "a"}]
    before = _rendered(pretrained, question, True)
    whole = _rendered(pretrained, [*question, {"role": "assistant", "content": _ANSWER}], False)
    space = whole.removeprefix(before).partition(_ANSWER)[0]
    return space if whole.startswith(before) and not space.strip() else ""


def _rendered(pretrained: Any, messages: list[dict[str, str]], open_answer: bool) -> str:
    template = _FIXED_DATE + pretrained.get_chat_template()
    return pretrained.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=open_answer, date_string=TODAY
    )
