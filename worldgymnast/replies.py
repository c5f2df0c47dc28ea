"""The text of a chat reply: why it ended, which part of it is the answer, and without the model's thoughts.

Servers that speak OpenAI's API differ in all three. An answer that was cut off, refused or is only a thought is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from worldgymnast.endpoint import Unusable
from worldgymnast.files import short

_ENDED = ("stop", "stop_sequence", "stop_token", "eos", "eos_token", "end_turn", "end_of_turn", "complete", "completed",
          "finished", "finish", "end", "done", "normal", "null", "none")  # fmt: skip
"""What servers call an answer that the model itself ended; some say nothing at all."""
_CALLED = {
    "length": "cut off", "max_tokens": "cut off", "model_length": "cut off", "max_output_tokens": "cut off",
    "content_filter": "refused", "safety": "refused", "refusal": "refused", "sensitive": "refused",
    "tool_calls": "tool call", "tool_call": "tool call", "function_call": "tool call", "tool_use": "tool call",
}  # fmt: skip
_THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_text", "thought", "redacted_thinking", "reasoning_content",
                  "reasoning_summary", "summary_text", "analysis")  # fmt: skip

_NAMES = (
    r"(?:[a-z]{1,12}[:_])?(?:start_|end_|begin_)?(?:think|thinking|thought|thoughts|thought_process|reasoning|reason"
    r"|rationale|reflection|analysis|scratchpad|details|plan|planning|monologue|deliberation)"
)
_HEADED = r"^[ \t]{0,3}#{1,4}[ \t*]{1,6}"
_MARK = re.compile(
    rf"(?P<closes_too>[<\[◁]\|?\s{{0,3}}end_(?:of_)?{_NAMES}\|?[>\]▷]|<unused95>"
    rf"|{_HEADED}final[ \t]{{1,3}}(?:response|answer|output)[ \t:*]{{0,6}}$)"
    rf"|(?P<opens>[<\[◁]\|?\s{{0,3}}{_NAMES}(?:\s[^<>\[\]\n]{{0,60}})?\|?[>\]▷]"
    rf"|<unused94>(?:thought)?|{_HEADED}(?:thinking|thoughts)[ \t:*]{{0,6}}$"
    r"|<\|begin_of_thought\|>|<\|channel\|?>\s{0,3}(?:analysis|commentary|thought))"
    rf"|(?P<closes>[<\[◁][/|]{{1,2}}\s{{0,3}}{_NAMES}\s{{0,3}}\|?[>\]▷]"
    r"|<\|end_of_thought\|>|<\|channel\|?>\s{0,3}final|<channel\|>)",
    re.IGNORECASE | re.MULTILINE,
)
_FIRST_TAG = re.compile(r"\s*<([a-z][a-z_:-]{4,30})>", re.IGNORECASE)
_ANSWER_TAGS = ("answer", "score", "final_answer", "final_score", "final", "response", "output", "conclusion", "result",
                "verdict", "strong", "start_of_turn", "assistant")  # fmt: skip
"""Tags that may stay open before an answer; any other that never closes is a thought that was cut off."""
_BARE_CHANNELS = re.compile(r"\s*analysis(?=[A-Z])")
"""How an answer begins whose channel marks the server removed: "analysisWe need ...assistantfinalFinal Score: 1"."""


def answer_of(choice: Any) -> str:
    """The text of a reply's choice, thoughts that stand in it included.

    Raises:
        Unusable: it was cut off, refused, calls a tool, or has no text.
    """
    message = getattr(choice, "message", None)
    _check_ended(getattr(choice, "finish_reason", None))
    if refusal := getattr(message, "refusal", None):
        raise Unusable("refused", f"the model refuses: {short(refusal)}")
    if getattr(message, "tool_calls", None) or getattr(message, "function_call", None):
        raise Unusable("tool call", "a tool call in the place of an answer")
    text = _joined(getattr(message, "content", None))
    if not text.strip():
        thought = any(getattr(message, name, None) for name in ("reasoning_content", "reasoning", "thinking"))
        raise Unusable("empty", "an answer that is only a thought" if thought else "empty answer")
    return text


def _check_ended(reason: Any) -> None:
    """Raises `Unusable` where the model did not end its answer itself."""
    if isinstance(reason, Mapping):  # SGLang's own form: {"type": "stop", "matched": ...}
        reason = reason.get("type")
    if reason is None or (isinstance(reason, str) and not reason.strip()):
        return
    name = reason.strip().lower().removeprefix("finish_reason_") if isinstance(reason, str) else ""
    if name not in _ENDED:
        kind = _CALLED.get(name, "not ended")
        fix = "; raise max_tokens" if kind == "cut off" else ""
        raise Unusable(kind, f"an answer that did not end by itself (finish_reason {short(reason)}){fix}")


def _joined(content: Any) -> str:
    """Text as it is, or the texts of a list of parts, without those that are thoughts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping) and not {"type", "text"} & content.keys():
        return json.dumps(content, default=str)
    parts = content if isinstance(content, list) else [content]
    return "\n".join(filter(None, map(_text, parts)))


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type") in _THOUGHT_PARTS:
        return ""
    if part.get("type") == "refusal":
        raise Unusable("refused", f"the model refuses: {short(part.get('refusal'))}")
    if part.get("thought") is True:  # Gemini's own form
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else ""


def without_thoughts(text: str) -> str | None:
    """The text without what the model thought aloud; None where the thought never ends.

    A mark that only closes, as chat templates that open the thought themselves leave it, ends a thought that began
    with the text.

    >>> without_thoughts("<think>1 or 0?</think>Final Score: 1").strip()
    'Final Score: 1'
    >>> without_thoughts("Final Score: 0? Let me see.</think>Final Score: 1").strip()
    'Final Score: 1'
    >>> without_thoughts("<think>The score may be 1") is None
    True
    """
    text = text.replace("&lt;", "<").replace("&gt;", ">")
    if _BARE_CHANNELS.match(text):
        _, found, after = text.rpartition("assistantfinal")
        return after if found else None
    tag = _FIRST_TAG.match(text)
    named = tag[1].lower() if tag and not _MARK.match(text.lstrip()) else "answer"
    if named not in _ANSWER_TAGS and f"</{named}>" not in text.lower():
        return None
    said: list[str] = []
    start, thinks = 0, False
    for mark in _MARK.finditer(text):
        if mark["opens"]:
            said += [] if thinks else [text[start : mark.start()]]
        elif not thinks:
            said.clear()
        start, thinks = mark.end(), bool(mark["opens"])
    return None if thinks else "\n".join([*said, text[start:]])
