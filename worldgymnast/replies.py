"""Extract the answer's text from a chat reply, without the model's reasoning.

OpenAI-compatible servers differ in how they report the finish reason, the content and the reasoning. A truncated or
refused answer, or one that is only reasoning, is unusable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from worldgymnast.endpoint import UnusableReply
from worldgymnast.files import short

_COMPLETE = frozenset(
    {
        "stop",
        "stop_sequence",
        "stop_token",
        "eos",
        "eos_token",
        "end_turn",
        "end_of_turn",
        "complete",
        "completed",
        "finished",
        "finish",
        "end",
        "done",
        "normal",
        "null",
        "none",
    }
)
"""Finish reasons of complete answers; some servers report none."""
_FAILURE_KINDS = {
    "length": "cut off",
    "max_tokens": "cut off",
    "model_length": "cut off",
    "max_output_tokens": "cut off",
    "content_filter": "refused",
    "safety": "refused",
    "refusal": "refused",
    "sensitive": "refused",
    "tool_calls": "tool call",
    "tool_call": "tool call",
    "function_call": "tool call",
    "tool_use": "tool call",
}
"""Failure kind by finish reason."""
_REASONING_PARTS = frozenset(
    {
        "thinking",
        "reasoning",
        "reasoning_text",
        "thought",
        "redacted_thinking",
        "reasoning_content",
        "reasoning_summary",
        "summary_text",
        "analysis",
    }
)
"""Types of content parts that are reasoning."""

_NAMES = (
    r"(?:[a-z]{1,12}[:_])?(?:start_|end_|begin_)?(?:think|thinking|thought|thoughts|thought_process|reasoning|reason"
    r"|rationale|reflection|analysis|scratchpad|details|plan|planning|monologue|deliberation)"
)
_HEADING = r"^[ \t]{0,3}#{1,4}[ \t*]{1,6}"
_MARK = re.compile(
    rf"(?P<closes_too>[<\[◁]\|?\s{{0,3}}end_(?:of_)?{_NAMES}\|?[>\]▷]|<unused95>"
    rf"|{_HEADING}final[ \t]{{1,3}}(?:response|answer|output)[ \t:*]{{0,6}}$)"
    rf"|(?P<opens>[<\[◁]\|?\s{{0,3}}{_NAMES}(?:\s[^<>\[\]\n]{{0,60}})?\|?[>\]▷]"
    rf"|<unused94>(?:thought)?|{_HEADING}(?:thinking|thoughts)[ \t:*]{{0,6}}$"
    r"|<\|begin_of_thought\|>|<\|channel\|?>\s{0,3}(?:analysis|commentary|thought))"
    rf"|(?P<closes>[<\[◁][/|]{{1,2}}\s{{0,3}}{_NAMES}\s{{0,3}}\|?[>\]▷]"
    r"|<\|end_of_thought\|>|<\|channel\|?>\s{0,3}final|<channel\|>)",
    re.IGNORECASE | re.MULTILINE,
)
_FIRST_TAG = re.compile(r"\s*<([a-z][a-z_:-]{4,30})>", re.IGNORECASE)
_ANSWER_TAGS = frozenset(
    {
        "answer",
        "score",
        "final_answer",
        "final_score",
        "final",
        "response",
        "output",
        "conclusion",
        "result",
        "verdict",
        "strong",
        "start_of_turn",
        "assistant",
    }
)
"""Tags that may stay open before an answer; any other unclosed tag starts truncated reasoning."""
_BARE_CHANNELS = re.compile(r"\s*analysis(?=[A-Z])")
"""Start of an answer without channel markers: "analysisWe need ...assistantfinalFinal Score: 1"."""


def answer_text(choice: Any) -> str:
    """The text of a reply's choice, including inline reasoning.

    Raises:
        UnusableReply: the answer is truncated, refused, a tool call, or empty.
    """
    message = getattr(choice, "message", None)
    _check_finish_reason(getattr(choice, "finish_reason", None))
    if refusal := getattr(message, "refusal", None):
        raise UnusableReply("refused", f"the model refuses: {short(refusal)}")
    if getattr(message, "tool_calls", None) or getattr(message, "function_call", None):
        raise UnusableReply("tool call", "tool call instead of an answer")
    text = _join(getattr(message, "content", None))
    if not text.strip():
        has_reasoning = any(getattr(message, name, None) for name in ("reasoning_content", "reasoning", "thinking"))
        raise UnusableReply("empty", "reasoning without an answer" if has_reasoning else "empty answer")
    return text


def _check_finish_reason(reason: Any) -> None:
    """Raise `UnusableReply` if the answer is incomplete."""
    if isinstance(reason, Mapping):  # SGLang's form: {"type": "stop", "matched": ...}
        reason = reason.get("type")
    if reason is None or (isinstance(reason, str) and not reason.strip()):
        return
    name = reason.strip().lower().removeprefix("finish_reason_") if isinstance(reason, str) else ""
    if name not in _COMPLETE:
        kind = _FAILURE_KINDS.get(name, "not ended")
        fix = "; raise max_tokens" if kind == "cut off" else ""
        raise UnusableReply(kind, f"incomplete answer (finish_reason {short(reason)}){fix}")


def _join(content: Any) -> str:
    """Text as is, or joined from parts without reasoning."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping) and not {"type", "text"} & content.keys():
        return json.dumps(content, default=str)
    parts = content if isinstance(content, list) else [content]
    return "\n".join(filter(None, map(_text, parts)))


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    kind = part.get("type")
    if isinstance(kind, str) and kind in _REASONING_PARTS:
        return ""
    if kind == "refusal":
        raise UnusableReply("refused", f"the model refuses: {short(part.get('refusal'))}")
    if part.get("thought") is True:  # Gemini's form
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else ""


def strip_reasoning(text: str) -> str | None:
    """The text without inline reasoning; None if the reasoning is truncated.

    A closing mark without an opening one ends reasoning that starts with the text. Chat templates that open the
    reasoning themselves produce such replies.

    >>> strip_reasoning("<think>1 or 0?</think>Final Score: 1").strip()
    'Final Score: 1'
    >>> strip_reasoning("Final Score: 0? Let me see.</think>Final Score: 1").strip()
    'Final Score: 1'
    >>> strip_reasoning("<think>The score may be 1") is None
    True
    """
    text = text.replace("&lt;", "<").replace("&gt;", ">")
    if _BARE_CHANNELS.match(text):
        _, separator, answer = text.rpartition("assistantfinal")
        return answer if separator else None
    tag = _FIRST_TAG.match(text)
    tag_name = tag[1].lower() if tag and not _MARK.match(text.lstrip()) else "answer"
    if tag_name not in _ANSWER_TAGS and f"</{tag_name}>" not in text.lower():
        return None
    kept: list[str] = []
    start, is_reasoning = 0, False
    for mark in _MARK.finditer(text):
        if not mark["opens"] and not is_reasoning:
            kept.clear()
        elif not is_reasoning:
            kept.append(text[start : mark.start()])
        start, is_reasoning = mark.end(), bool(mark["opens"])
    return None if is_reasoning else "\n".join([*kept, text[start:]])
