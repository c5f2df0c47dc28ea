"""Real answers of vision-language models, and their scores: one, or none with a reason."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.chat_completion import Choice
from servers import choice_of

from worldgymnast.endpoint import EndpointConfig, UnusableReply
from worldgymnast.judges.local import LocalVLM
from worldgymnast.judges.prompt import RUBRICS, NoScore, parse
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.replies import answer_text
from worldgymnast.scenes import proposals

BINARY, PARTIAL, PROGRESS = (RUBRICS[name] for name in ("binary-v1", "partial-v1", "progress-v1"))

READ = [
    # ---------------- as asked for, and marked up
    ("The drawer moved.\nFinal Score: 1", BINARY, 1),
    ("**Final Score:** 0", BINARY, 0),
    ("Final Score: **1**", BINARY, 1),
    ("**Final Score: 1**", BINARY, 1),
    ("### Final Score: 1", BINARY, 1),
    ("### Final Score\n1", BINARY, 1),
    ("**Final Score:**\n\n**1**", BINARY, 1),
    ("__Final Score__: _1_", BINARY, 1),
    ("`Final Score: 1`", BINARY, 1),
    ("```\nFinal Score: 1\n```", BINARY, 1),
    ("> Final Score: 1", BINARY, 1),
    ("- Final Score: 1", BINARY, 1),
    ("final score = <1>", BINARY, 1),
    ("Final Score: <1>", BINARY, 1),
    ("Final Score: [1]", BINARY, 1),
    ("Final Score: (1)", BINARY, 1),
    ("Final Score: \"1\"", BINARY, 1),
    ("FINAL SCORE - 1", BINARY, 1),
    ("Final Score \u2013 1", BINARY, 1),
    ("Final Score \u2192 1", BINARY, 1),
    ("Final_Score: 1", BINARY, 1),
    ("FinalScore=1", BINARY, 1),
    ("Final Score 1", BINARY, 1),
    ("Final Score:1", BINARY, 1),
    ("Final\u00a0Score:\u00a01", BINARY, 1),
    ("Final Score: 1<|im_end|>", BINARY, 1),
    ("Final Score: 1</s>", BINARY, 1),
    ("<b>Final Score:</b> 1<br>", BINARY, 1),
    ("| Final Score | 1 |", BINARY, 1),
    ("| Score | 1 |", BINARY, 1),
    ("$\\boxed{1}$", BINARY, 1),
    ("\\boxed{1}", BINARY, 1),
    ("\\[\n\\boxed{0}\n\\]", BINARY, 0),
    ("Final Score: $\\boxed{1}$", BINARY, 1),
    ("\\boxed{\\text{Final Score: } 1}", BINARY, 1),
    ("\\boxed{\\text{1}}", BINARY, 1),
    ("<answer>1</answer>", BINARY, 1),
    ("<answer>Final Score: 1</answer>", BINARY, 1),
    ("<|begin_of_box|>1<|end_of_box|>", BINARY, 1),
    ("<score>1</score>", BINARY, 1),
    # ---------------- sentences
    ("The final score is 0.", BINARY, 0),
    ("Therefore, the final score would be 1.", BINARY, 1),
    ("I give it a final score of 1.", BINARY, 1),
    ("The final score for this task is 1.", BINARY, 1),
    ("The drawer is not open, so the final score is 0.", BINARY, 0),
    ("A final score of 1 would require an open drawer. It is closed.\nFinal Score: 0", BINARY, 0),
    ("If it were open, the final score would be 1.\nFinal Score: 0", BINARY, 0),
    ("Final Score: 1 because the drawer is open", BINARY, 1),
    ("Final Score: 1 (the drawer is open)", BINARY, 1),
    ("Final Score: 1 - the drawer is open", BINARY, 1),
    ("Final Score: 1, since the drawer is open.", BINARY, 1),
    ("Final Score: 1, not 0.", BINARY, 1),
    ("Final Score: 1. The drawer is open.", BINARY, 1),
    ("Score: 1 (2 of 3 steps done)", BINARY, 1),
    ("Final Score: 0 (it is unclear whether the drawer moved)", BINARY, 0),
    ("Final Score: 1 point", BINARY, 1),
    ("Final Score: 1!", BINARY, 1),
    # ---------------- scales and brackets before the number
    ("Final Score (0-1): 1", BINARY, 1),
    ("Final Score (0 or 1): 1", BINARY, 1),
    ("Final Score [0/1]: 1", BINARY, 1),
    ("Final Score (1 = success): 0", BINARY, 0),
    ("Final Score (0 = failure, 1 = success): 1", BINARY, 1),
    ("**Final Score (0-1):** **0**", BINARY, 0),
    ("Final Score <0|1>: 1", BINARY, 1),
    ("Final Score (5 = done): 3", PROGRESS, 3),
    ("(5 = done): 3", PROGRESS, 3),
    ("Score (out of 5): 4", PROGRESS, 4),
    ("Score (0-5): 4", PROGRESS, 4),
    ("Score (/5): 4", PROGRESS, 4),
    ("Score [0, 1]: 0.5", PARTIAL, 0.5),
    ("Final Score on a scale of 0 to 5: 4", PROGRESS, 4),
    ("Final Score: 1 on a 0-1 scale", BINARY, 1),
    ("On a scale of 0 to 5, I give a final score of 3.", PROGRESS, 3),
    ("Final Score: 3 (0-5 scale)", PROGRESS, 3),
    ("Final Score (0, 0.5 or 1): 0.5", PARTIAL, 0.5),
    # ---------------- fractions, percent, commas
    ("Final Score: 3/5", PROGRESS, 3),
    ("Final Score: 0/5", PROGRESS, 0),
    ("Final Score: 3 out of 5", PROGRESS, 3),
    ("Final Score: 3 (out of 5)", PROGRESS, 3),
    ("Final Score: 3 of 5.", PROGRESS, 3),
    ("Score:1/1", BINARY, 1),
    ("Final Score: 0/1", BINARY, 0),
    ("Final Score: 1/2", PARTIAL, 0.5),
    ("Final Score: \u00bd", PARTIAL, 0.5),
    ("Final Score: 50%", PARTIAL, 0.5),
    ("Final Score: 100%", BINARY, 1),
    ("Punktzahl: 0,5", PARTIAL, 0.5),
    ("Final Score: .5", PARTIAL, 0.5),
    ("Final Score: 0.50", PARTIAL, 0.5),
    ("Final Score: 1.0", BINARY, 1),
    ("Final Score: 1e0", BINARY, 1),
    ("Final Score: +1", BINARY, 1),
    # ---------------- several
    ("Final Score: 1\nFinal Score: 1", BINARY, 1),
    ("I will end with Final Score: <0|1>.\nFinal Score: 1.0", BINARY, 1),
    ("Format: Final Score: <0|0.5|1>\nFinal Score: 0.5", PARTIAL, 0.5),
    ("I have to choose a final score: 0 or 1.\nFinal Score: 1", BINARY, 1),
    ("Grasp score: 1\nPlacement score: 0\nFinal Score: 0", BINARY, 0),
    ("Score: 0.5 for the grasp\nFinal Score: 1", PARTIAL, 1),
    ("Score: 1\n1. The drawer is open.\n2. The arm is away.", BINARY, 1),
    ("1. The arm moved.\n2. The drawer opened.\n\nScore: 1", BINARY, 1),
    # ---------------- JSON
    ('{"observation": "it is open", "score": 1}', BINARY, 1),
    ('```json\n{"score": 0}\n```', BINARY, 0),
    ('Here is my verdict:\n{"score": 1}', BINARY, 1),
    ('Here it is:\n```json\n{"score": 1}\n```\nI hope it helps.', BINARY, 1),
    ('{"score": "1"}', BINARY, 1),
    ('{"score": "1/1"}', BINARY, 1),
    ('{"final_score": 1}', BINARY, 1),
    ('{"Final Score": 1}', BINARY, 1),
    ('{"result": {"score": 1}}', BINARY, 1),
    ('{"criteria": {"grasp": {"score": 0}}, "score": 1}', BINARY, 1),
    ('{"score": 0, "final_score": 1}', BINARY, 1),
    ('[{"score": 1}]', BINARY, 1),
    ("{'score': 1}", BINARY, 1),
    ('{"score": 1,}', BINARY, 1),
    ('{"score": 1, "score": 1}', BINARY, 1),
    ('{"score": 1.0}', BINARY, 1),
    ('{"observation": "a final score of 0 is tempting", "score": 1}', BINARY, 1),
    ('The set {drawer, arm}.\n{"score": 1}', BINARY, 1),
    # ---------------- digits, words and labels of other languages
    ("Final Score\uff1a\uff11", BINARY, 1),
    ("\u6700\u7ec8\u5f97\u5206\uff1a1\u5206", BINARY, 1),
    ("\u5f97\u5206\uff1a1", BINARY, 1),
    ("Final Score: \u0661", BINARY, 1),
    ("\u6700\u7ec8\u5f97\u5206\u662f1\u3002", BINARY, 1),
    ("Final Score\uff1a\u30101\u3011", BINARY, 1),
    ("Final Score: one", BINARY, 1),
    ("Final Score: Zero.", BINARY, 0),
    ("1", BINARY, 1),
    ("**1**", BINARY, 1),
    ("1.", BINARY, 1),
    ("<1>", BINARY, 1),
    ("3/5", PROGRESS, 3),
    ("Answer: 1", BINARY, 1),
    ("The score is 1.", BINARY, 1),
    # ---------------- thoughts
    ("<think>1 or 0? Final Score: 0?</think>\nFinal Score: 1", BINARY, 1),
    ("The score may be 0. Final Score: 0\n</think>\n\nFinal Score: 1", BINARY, 1),
    ("<thinking>Final Score: 0</thinking>Final Score: 1", BINARY, 1),
    ("<reasoning>Final Score: 0</reasoning>Final Score: 1", BINARY, 1),
    ("<think>I close it with </think> so. Final Score: 0</think>Final Score: 1", BINARY, 1),
    ("<think>\n<think>Final Score: 0</think>Final Score: 1", BINARY, 1),
    ("[THINK]Final Score: 0[/THINK]Final Score: 1", BINARY, 1),
    ("\u25c1think\u25b7Final Score: 0\u25c1/think\u25b7Final Score: 1", BINARY, 1),
    ("<|channel|>analysis<|message|>Final Score: 0<|end|><|start|>assistant<|channel|>final<|message|>Final Score: 1",
     BINARY, 1),
    ("analysisFinal Score: 0 or 1?assistantfinalFinal Score: 1", BINARY, 1),
    ("&lt;think&gt;Final Score: 0&lt;/think&gt;Final Score: 1", BINARY, 1),
    ("<think></think>{\"score\": 1}", BINARY, 1),
    ("<think>0</think><answer>1</answer>", BINARY, 1),
    # ---------------- words beside the number, other languages and lists
    ("Final Score: Success (1)", BINARY, 1),
    ("Final Score: Failure (0)", BINARY, 0),
    ("Final Score: Success = 1", BINARY, 1),
    ("Final Score: 0 / Failure", BINARY, 0),
    ("Final Score: 1 (Success)", BINARY, 1),
    ("Final Score: 0 - Failure", BINARY, 0),
    ("Final Score: <1|", BINARY, 1),
    ("Final Score: <0|1>\n1", BINARY, 1),
    ("Final Score:\n- 1", BINARY, 1),
    ("Final Score:\n\u2022 0", BINARY, 0),
    ("Final Score: 1 The drawer is open.", BINARY, 1),
    ("The task is accomplished (score 1).", BINARY, 1),
    ("Final Score: I give it 3", PROGRESS, 3),
    ("Final Score: half (0.5)", PARTIAL, 0.5),
    ('{"score": "1 (success)"}', BINARY, 1),
    ('{"score": 0, "max_score": 1}', BINARY, 0),
    ("Is the final score 1? No.\nFinal Score: 0", BINARY, 0),
    ("Final Scores: 1", BINARY, 1),
    ("Score: 1\n\nFinal decision: 0", BINARY, 0),
    ("\\boxed{\\frac{1}{2}}", PARTIAL, 0.5),
    ("Final Score: 1/2 = 0.5", PARTIAL, 0.5),
    ("Endg\u00fcltige Punktzahl: 0", BINARY, 0),
    ("Pontua\u00e7\u00e3o final: 1", BINARY, 1),
    ("Nota final: 1", BINARY, 1),
    ("Punteggio finale: 0", BINARY, 0),
    ("\u6700\u7ec8\u5f97\u5206\uff1a\u96f6", BINARY, 0),
    ("~~Final Score: 1~~\nFinal Score: 0", BINARY, 0),
    # ---------------- a number after the score that is no score
    ("Final Score: 0\n\nThe score would be 1 if the drawer had been fully opened.", BINARY, 0),
    ("Final Score: 0\n\nTo get a score of 1, the drawer would need to be open.", BINARY, 0),
    ("Final Score: 1\n\nNote: I initially considered 0, but the drawer is open.", BINARY, 1),
    ("Final Score: 1\nConfidence: 0", BINARY, 1),
    ("Final Score: 1 with 0 failures", BINARY, 1),
    ("Final Score: 3 since 4 is too high", PROGRESS, 3),
    ("Final Score: 3 (out of a possible 5)", PROGRESS, 3),
    ("Score: 3\nMax: 5", PROGRESS, 3),
    ("Final Score: 1\n(1 = success, 0 = failure)", BINARY, 1),
    ("I cannot tell if it is open.\n\nFinal Score: 0", BINARY, 0),
    # ---------------- thoughts under other names
    ("<|START_THINKING|>Final Score: 1<|END_THINKING|><|START_RESPONSE|>Final Score: 0<|END_RESPONSE|>", BINARY, 0),
    ("<unused94>thought\nFinal Score: 1<unused95>Final Score: 0", BINARY, 0),
    ("<mm:think>Final Score: 1</mm:think>Final Score: 0", BINARY, 0),
    ("<longcat_think>Final Score: 1</longcat_think>Final Score: 0", BINARY, 0),
    ("<reason>Final Score: 1</reason>Final Score: 0", BINARY, 0),
    ("<rationale>Final Score: 1</rationale>0", BINARY, 0),
    ("## Thinking\nFinal Score: 1?\n## Final Response\nFinal Score: 0", BINARY, 0),
    ("<REASONING>Final Score: 1</REASONING>\n<CONCLUSION>\n0\n</CONCLUSION>", BINARY, 0),
]  # fmt: skip

REFUSED = [
    ("", BINARY, "empty"),
    (None, BINARY, "empty"),
    (" \n", BINARY, "empty"),
    # ---------------- no score
    ("The drawer is open, 1 of 1.", BINARY, "no score"),
    ("The drawer is open.\n1", BINARY, "no score"),
    ("Final Score: <0|1>", BINARY, "no score"),
    ("Final Score: <0|0.5|1>", PARTIAL, "no score"),
    ("Final Score: success", BINARY, "no score"),
    ("Final Score:", BINARY, "no score"),
    ("Final Score: unknown", BINARY, "no score"),
    ("Final Score: not 1", BINARY, "no score"),
    ("The final score is not 1.", BINARY, "no score"),
    ("It does not deserve a final score of 1.", BINARY, "no score"),
    ("Final Score: 1 if the drawer is open, otherwise 0", BINARY, "no score"),
    ("Score 1 if it clearly has, and 0 if it has not.", BINARY, "no score"),
    ("Grasp score: 1", BINARY, "no score"),
    ("F1-score: 1", BINARY, "no score"),
    ('{"observation": "it is', BINARY, "no score"),
    ('{"score": 1, "observation": "it is', BINARY, "no score"),
    ('{"observation": "it is open"}', BINARY, "no score"),
    ('{"score": true}', BINARY, "no score"),
    ('{"score": null}', BINARY, "no score"),
    ('{"score": [1]}', BINARY, "no score"),
    ('{"score": "open"}', BINARY, "no score"),
    ("[]", BINARY, "no score"),
    ("yes", BINARY, "no score"),
    # ---------------- ambiguous
    ("Final Score: 0 or 1", BINARY, "ambiguous"),
    ("Final Score: 1 or 0? I cannot tell", BINARY, "ambiguous"),
    ("1 or 0? I cannot tell", BINARY, "no score"),
    ("Final Score: 0, 0.5, or 1", PARTIAL, "ambiguous"),
    ("Final Score: 0.5 or 1", PARTIAL, "ambiguous"),
    ("Final Score: 0.5-1", PARTIAL, "ambiguous"),
    ("Final Score: 0-1", BINARY, "ambiguous"),
    ("Final Score: 0 \u2192 1", BINARY, "ambiguous"),
    ("Score: 0 -> 1", BINARY, "ambiguous"),
    ("Score: between 0 and 1", BINARY, "no score"),
    ("Score: ~1", BINARY, "ambiguous"),
    ("Score: >0", BINARY, "ambiguous"),
    ("Score: about 1", BINARY, "no score"),
    ("Final Score: 1?", BINARY, "ambiguous"),
    ("Final Score: 1 (or 0)", BINARY, "ambiguous"),
    ("Final Score: 1 (maybe 0)", BINARY, "ambiguous"),
    ("Final Score: 1 (0)", BINARY, "ambiguous"),
    ("Final Score: 1, or rather 0", BINARY, "ambiguous"),
    ("Final Score: 3 (could be 4)", PROGRESS, "ambiguous"),
    ("Final Score: 3+", PROGRESS, "ambiguous"),
    ("Final Score: 3\nOn second thought: 4", PROGRESS, "contradictory"),
    ("Final Score: 1... actually 0", BINARY, "ambiguous"),
    ("Final Score (1): 0", BINARY, "ambiguous"),
    ("Final Score: 1 0", BINARY, "ambiguous"),
    ("Final Score: 1, 0", BINARY, "ambiguous"),
    ("Final Score: 1,0", BINARY, "ambiguous"),
    ("Final Score: 01", BINARY, "ambiguous"),
    ("Final Score: 1st", BINARY, "ambiguous"),
    ("Final Score: 1 drawer was opened", BINARY, "ambiguous"),
    ("Final Score: 1 would be too much", BINARY, "ambiguous"),
    ("Final Score:\n1. The drawer is closed.\n2. The arm is away.", BINARY, "ambiguous"),
    ("Final Score: one of the steps was done", BINARY, "ambiguous"),
    ("| Final Score | 1 | 0 |", BINARY, "ambiguous"),
    ("\\boxed{0 or 1}", BINARY, "ambiguous"),
    ('{"score": "0 or 1"}', BINARY, "no score"),
    # ---------------- another scale
    ("Final Score: 1/2", BINARY, "out of range"),
    ("Final Score (maybe): 1", BINARY, "ambiguous"),
    ("Final Score: 1/5", BINARY, "ambiguous"),
    ("Final Score: 1 out of 5", BINARY, "ambiguous"),
    ("Final Score: 1 (out of 5)", BINARY, "ambiguous"),
    ("Final Score: 1 (on a scale of 0 to 5)", BINARY, "ambiguous"),
    ("Final Score: 10/10", BINARY, "ambiguous"),
    ("Final Score: 1 on a 0-5 scale", BINARY, "ambiguous"),
    ("On a scale of 0 to 5, I give a final score of 1.", BINARY, "ambiguous"),
    ("Final Score: 1 (0-5 scale)", BINARY, "ambiguous"),
    ("Final Score: 1 (0 to 5)", BINARY, "ambiguous"),
    ("Final Score on a scale of 0 to 5: 1", BINARY, "ambiguous"),
    ("\u5f97\u5206\uff1a1\uff08\u6ee1\u52065\u5206\uff09", BINARY, "ambiguous"),
    ("Final Score: 0 < 1", BINARY, "ambiguous"),
    ("Final Score: 1/2", PROGRESS, "ambiguous"),
    ("Final Score (0-5): 1", BINARY, "ambiguous"),
    ("Final Score (5 = done): 1", BINARY, "ambiguous"),
    ("Final Score (0-1): 1", PROGRESS, "ambiguous"),
    ("Final Score: 80%", PROGRESS, "ambiguous"),
    # ---------------- out of range
    ("Final Score: 7", BINARY, "out of range"),
    ("Final Score: 0.5", BINARY, "out of range"),
    ("Final Score: -1", BINARY, "out of range"),
    ("Final Score: \u22121", BINARY, "out of range"),
    ("Final Score: 80%", BINARY, "out of range"),
    ("Final Score: 10", BINARY, "out of range"),
    ("Final Score: 3.5", PROGRESS, "out of range"),
    ('{"score": 7}', BINARY, "out of range"),
    ('{"score": NaN}', BINARY, "out of range"),
    ('{"score": 1e999}', BINARY, "out of range"),
    ('{"score": ' + "1" * 400 + "}", BINARY, "out of range"),
    ("Final Score: " + "1" * 300, BINARY, "out of range"),
    ("Final Score: " + "1" * 5000, BINARY, "no score"),
    ("Final Score:" + " " * 399 + "10", BINARY, "no score"),
    # ---------------- contradictory
    ("Final Score: 1\nNo: Final Score: 0", BINARY, "contradictory"),
    ("Final Score: 1\nWait, it should be 0.", BINARY, "contradictory"),
    ("Final Score: 1\n0", BINARY, "contradictory"),
    ("\\boxed{1}\nFinal Score: 0", BINARY, "contradictory"),
    ('{"score": 1, "score": 0}', BINARY, "contradictory"),
    ('{"score": 1}\n{"score": 0}', BINARY, "contradictory"),
    ('{"score": 1}\nFinal Score: 0', BINARY, "contradictory"),
    ("Score: 1\nScore: 0", BINARY, "contradictory"),
    # ---------------- thoughts that never end
    ("<think>The final score may be 1. Final Score: 1", BINARY, "cut off"),
    ("Final Score: 1\n<think>Let me look again", BINARY, "cut off"),
    ("<|channel|>analysis<|message|>Final Score: 1", BINARY, "cut off"),
    ("[THINK]Final Score: 1", BINARY, "cut off"),
    ("\u25c1think\u25b7Final Score: 1", BINARY, "cut off"),
    ("analysisWe see it. Final Score: 1", BINARY, "cut off"),
    ("<think>Final Score: 1</think>", BINARY, "no score"),
    # ---------------- taken back
    ("Final Score: 1\n\nActually, the drawer isn't open. I'd change my score to 0.", BINARY, "contradictory"),
    ("Final Score: 1\n\nIt is closed. I need to change my answer. The answer is 0.", BINARY, "contradictory"),
    ("Final Score: 1\n\nActually, it should be zero.", BINARY, "contradictory"),
    ("Final Score: 1\n\nOops - I misread the last frame. It should be zero.", BINARY, "contradictory"),
    ("Final Score: 1\n\nThis should have been 0 as the drawer is closed.", BINARY, "contradictory"),
    ("Final Score: 1\n\nLet me re-check. The drawer is closed. So 0.", BINARY, "contradictory"),
    ("Final Score: 1\nCorrected Score: 0", BINARY, "contradictory"),
    ("Final Score: 1\n\nEdit: 0", BINARY, "contradictory"),
    ("Final Score: 1\n\nI made a mistake.", BINARY, "contradictory"),
    ("Final Score: 1\nP.S. 0", BINARY, "contradictory"),
    ("Final Score: 1\nScore: 0", BINARY, "contradictory"),
    ("Final Score: 1, then 0", BINARY, "contradictory"),
    ("Final Score: 1. Make that 0.", BINARY, "contradictory"),
    ("Final Score: 1, however the task is incomplete, so 0", BINARY, "contradictory"),
    ("Final Score: 1, yet it's a 0", BINARY, "contradictory"),
    ("Final Score: 1. The score is 0.", BINARY, "contradictory"),
    ("Final Score: 1 (changed to 0 after review)", BINARY, "contradictory"),
    ("Final Score: 1 as of frame 5, and 0 as of frame 8", BINARY, "contradictory"),
    ("\u6700\u7ec8\u5f97\u5206\uff1a1\uff0c\u4e0d\uff0c0", BINARY, "contradictory"),
    ("\u5f97\u5206\uff1a1\uff0c\u4f46\u5e94\u4e3a0", BINARY, "contradictory"),
    ('{"score": 1}\nActually it should be 0.', BINARY, "contradictory"),
    ('{"score": "1, no 0"}', BINARY, "no score"),
    # ---------------- scores of parts
    ("Final Score: 1 for grasping, 0 for placing", BINARY, "contradictory"),
    ("Final Score: 1 point for grasping, 0 points for placing", BINARY, "contradictory"),
    ("Final Score: 1 (grasp) + 0 (place)", BINARY, "contradictory"),
    ("Final Score: 1 on grasp, 0 on place", BINARY, "contradictory"),
    ("Final Score: 3 (4 if lenient)", PROGRESS, "contradictory"),
    # ---------------- a number and words that contradict each other
    ("Final Score: 1 (Failure)", BINARY, "ambiguous"),
    ("Final Score: 0 - Success", BINARY, "ambiguous"),
    ("Final Score: 1 (not accomplished)", BINARY, "ambiguous"),
    ("Final Score: 0 (task accomplished)", BINARY, "ambiguous"),
    ("Final Score: Success (0)", BINARY, "ambiguous"),
    ("Final Score: 1 (zero)", BINARY, "contradictory"),
    ("Result: failure\nFinal Score: 1", BINARY, "contradictory"),
    ("Final Score: 1\n\nThe task was not accomplished.", BINARY, "contradictory"),
    ('{"success": false, "score": 1}', BINARY, "ambiguous"),
    # ---------------- only supposed
    ("If the drawer is open: Final Score: 1", BINARY, "no score"),
    ("If it is open:\nFinal Score: 1", BINARY, "no score"),
    ("Assuming the drawer is open: Final Score: 1", BINARY, "no score"),
    ("I can't view images, but if the drawer is open the Final Score: 1", BINARY, "no score"),
    ("For example, 'Final Score: 1'. I can't see the images.", BINARY, "no score"),
    ("Hypothetically, Final Score: 1", BINARY, "no score"),
    ("Had the drawer been open, I'd have written Final Score: 1.", BINARY, "no score"),
    ("The final score might be 1", BINARY, "no score"),
    ("Final score: could be 1", BINARY, "no score"),
    # ---------------- parts of numbers
    ("Final Score: one-half", PARTIAL, "ambiguous"),
    ("Final Score: one - half", PARTIAL, "ambiguous"),
    ("Final Score: 0 point 5", PARTIAL, "ambiguous"),
    ("Final Score: 0-point-5", PARTIAL, "ambiguous"),
    ("Final Score: two-thirds", PROGRESS, "ambiguous"),
    ("Final Score: four-and-a-half", PROGRESS, "ambiguous"),
    ("Final Score: 4 and a half", PROGRESS, "ambiguous"),
    ("Final Score: 3-ish", PROGRESS, "ambiguous"),
    ("Final Score: 3.x", PROGRESS, "ambiguous"),
    # ---------------- another scale elsewhere
    ("Final Score: 5\n/10", PROGRESS, "ambiguous"),
    ("Final Score: 5\n(out of 10)", PROGRESS, "ambiguous"),
    ("Final Score: 5\n\n(scale 0-10)", PROGRESS, "ambiguous"),
    ("Final Score: 5\nMax Score: 10", PROGRESS, "ambiguous"),
    ("Final Score: 5 (10 = perfect)", PROGRESS, "ambiguous"),
    ("Final Score: 5 (out of ten)", PROGRESS, "ambiguous"),
    ("Using a 0-10 scale:\nFinal Score: 5", PROGRESS, "ambiguous"),
    ("Scores range from 0 to 10.\nFinal Score: 1", BINARY, "ambiguous"),
    ("Final Score: 1\n%", BINARY, "ambiguous"),
    ('{"score": 5, "out_of": 10}', PROGRESS, "ambiguous"),
    # ---------------- boxes and marks
    ("Final Score: [ ] 0 [x] 1", BINARY, "ambiguous"),
    ("Final Score:\n[ ] 0\n[x] 1", BINARY, "ambiguous"),
    ("Final Score: 0 / **1**", BINARY, "ambiguous"),
    ("Final Score: 0|(1)", BINARY, "ambiguous"),
    # ---------------- JSON that is cut off, thoughts that never end
    ('```json\n{"observation": "Final Score: 0", "sco', BINARY, "no score"),
    ('Here: {"observation": "the score is 0', BINARY, "no score"),
    ("<|START_THINKING|>Final Score: 1", BINARY, "cut off"),
    ("<unused94>thought\nFinal Score: 1", BINARY, "cut off"),
    ("<plan>Final Score: 1", BINARY, "cut off"),
    ("<inner_voice>Final Score: 1", BINARY, "cut off"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "rubric", "score"), READ)
def test_a_score_is_read_however_it_is_written(text: str, rubric, score: float) -> None:
    assert parse(text, rubric) == score


@pytest.mark.parametrize(("text", "rubric", "kind"), REFUSED)
def test_an_ambiguous_score_is_none(text: str | None, rubric, kind: str) -> None:
    with pytest.raises(NoScore) as error:
        parse(text, rubric)
    assert error.value.kind == kind


PIECES = (
    "Final Score", "Score", "score", ": ", " ", "\n", "0", "1", "0.5", "5", "/", "|", "-", "(", ")", "[", "]", "<", ">",
    "{", "}", '"', "or", " is ", "not", "\\boxed{", "$", "**", "%", ",", ".", "?", "<think>", "</think>", "=", "\u2192",
    "out of ", "1e999", "NaN", "-1", "\u00bd", "\uff11", "if ", "```json", "<answer>", "\ud800",
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14), st.sampled_from([BINARY, PARTIAL, PROGRESS])
)
def test_any_text_yields_a_valid_score_or_none(pieces: list[str], rubric) -> None:
    with contextlib.suppress(NoScore):
        assert parse("".join(pieces), rubric) in rubric.scores


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "{" * 1_000_000,
        '{"a":' * 200_000,
        '{"score":' + "[" * 100_000,
        "Final Score: " * 80_000,
        "<think" * 170_000,
        "Final Score: 1" + "." * 999_000,
        "Final Score:" + " " * 999_000 + "1",
        "Final Score: 1\n" + "wait " * 190_000 + "0",
        "x" * 10_000_000,
    ],
    ids=lambda text: text[:12],
)
def test_parsing_takes_linear_time(text: str) -> None:
    """A second of the processor; a square of a million would be days."""
    began = time.process_time()
    with pytest.raises(NoScore) as error:
        parse(text, BINARY)
    assert time.process_time() - began < 60
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "reason",
    [
        "stop",
        None,
        "",
        "STOP",
        "eos",
        "eos_token",
        "end_turn",
        "stop_sequence",
        "COMPLETE",
        {"type": "stop"},
        "done",
        "null",
        "normal",
        "stop ",
    ],
)
def test_a_complete_answer_counts(reason: Any) -> None:
    assert parse(answer_text(SimpleNamespace(**_simple(choice_of(finish_reason=reason)))), BINARY) == 1


def _simple(choice: dict[str, Any]) -> dict[str, Any]:
    return {**choice, "message": SimpleNamespace(**choice["message"])}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("length", "cut off"), ("max_tokens", "cut off"), ("MAX_TOKENS", "cut off"), ("model_length", "cut off"),
        ("content_filter", "refused"), ("SAFETY", "refused"), ("tool_calls", "tool call"),
        ("function_call", "tool call"), ("abort", "not ended"), ("error", "not ended"), (7, "not ended"),
        ({"type": "length"}, "cut off"), ([], "not ended"),
    ],
)  # fmt: skip
def test_an_incomplete_answer_is_none(reason: Any, kind: str) -> None:
    with pytest.raises(UnusableReply) as error:
        answer_text(SimpleNamespace(**_simple(choice_of(finish_reason=reason))))
    assert error.value.kind == kind


# ---------------------------------------------------------------- log-probabilities


def likely(*tokens: str, at: int, p: float = 0.6, logprob: Any = None, others: Any = None) -> Any:
    """A choice in these tokens; at one of them, 1 has that probability and 0 the rest."""
    top = [{"token": "1", "logprob": float(np.log(p))}, {"token": "0", "logprob": float(np.log(1 - p))}]
    told = [
        {"token": token, "bytes": None, "logprob": -0.1 if logprob is None else logprob,
         "top_logprobs": (top if others is None else others) if i == at else []}
        for i, token in enumerate(tokens)
    ]  # fmt: skip
    told[at]["logprob"] = float(np.log(p)) if logprob is None else logprob
    return Choice.construct(
        **{**choice_of("".join(tokens)), "message": SimpleNamespace(content="".join(tokens))},
        logprobs=SimpleNamespace(content=[_token(token) for token in told]),
    )


def _token(told: dict[str, Any]) -> SimpleNamespace:
    top = told["top_logprobs"]
    return SimpleNamespace(**{**told, "top_logprobs": top and [o and SimpleNamespace(**o) for o in top]})


JUDGE = VLMJudge(VLMConfig(EndpointConfig("m", "http://127.0.0.1:1/v1"), logprobs=True))


@pytest.mark.parametrize(
    ("tokens", "at"),
    [
        (("Final", " Score", " (", "0", "-", "1", "):", " ", "1"), 8),
        (("Step", " 1", ".", "\n", "Final", " Score", ":", " ", "1", " (", "1", " of", " 2", ")"), 8),
        (("<think>", "Final Score: ", "0", "</think>", "Final Score: ", "1"), 5),
        (("\\boxed{", "1", "}"), 1),
        (("Score", " is", " ", "1", ".", "0"), 3),
    ],
)
def test_the_probability_is_that_of_the_token_that_was_read_as_the_score(tokens: tuple[str, ...], at: int) -> None:
    assert JUDGE._read(likely(*tokens, at=at)) == pytest.approx({0.0: 0.4, 1.0: 0.6})


@pytest.mark.parametrize(
    ("logprob", "others"),
    [
        (None, [None]),
        (float("nan"), []),
        (5.0, []),
        (None, [{"token": None, "logprob": None}]),
        (float("inf"), [{"token": "0", "logprob": float("nan")}]),
        ("much", [{"token": 1, "logprob": "much"}]),
        (-1e300, []),
        (10**400, []),
    ],
)
def test_invalid_log_probabilities_keep_the_written_score(logprob: Any, others: Any) -> None:
    choice = likely("Final Score: ", "1", at=1, logprob=logprob, others=others)
    assert JUDGE._read(choice)[1.0] == 1.0


def test_log_probabilities_of_another_text_are_not_used() -> None:
    choice = likely("Final Score: ", "1", at=1)
    choice.message.content = "Final Score: 0"
    assert JUDGE._read(choice) == {0.0: 1.0}
    for told in (None, SimpleNamespace(content=None), SimpleNamespace(content=[None, 3])):
        choice.logprobs = told
        assert JUDGE._read(choice) == {0.0: 1.0}


# ---------------------------------------------------------------- proposals


@pytest.mark.parametrize(
    "text",
    [
        '["open the drawer", "wipe the table"]',
        '```json\n["open the drawer", "wipe the table"]\n```',
        'Here are [2] ideas:\n["open the drawer.", "wipe the table"]\nGood luck [1].',
        '<think>["close the door"]</think>["open the drawer", "wipe the table"]',
        '["open the drawer", null, 3, ["x"], "Open the drawer", "wipe  the\\ntable", ""]',
        '{"instructions": ["open the drawer", "wipe the table"]}',
        '[{"instruction": "open the drawer"}, {"task": "wipe the table"}, {"other": 1}]',
        '["open the drawer", "\\ud800", "wipe the table", "' + "x" * 300 + '"]',
        '["open the drawer", ' + "1" * 5000 + ', NaN, "wipe the table"]',
    ],
)
def test_sentences_are_parsed_from_answers(text: str) -> None:
    assert proposals.parse(text, 2) == ["open the drawer", "wipe the table"]


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[1]" * 300_000, "[]", "[null]", '<think>["open it"]', '{"a": {"b": 1}}', '["\\ud800"]']
)
def test_missing_sentences_are_one_line(text: str) -> None:
    with pytest.raises(UnusableReply) as error:
        proposals.parse(text, 3)
    assert len(str(error.value)) < 200


# ---------------------------------------------------------------- a model in this process, pictures


def test_a_local_model_s_answer_counts_only_if_complete() -> None:
    made = LocalVLM.__new__(LocalVLM)
    tokenizer = SimpleNamespace(decode=lambda row, skip_special_tokens: " ".join(map(str, row)))
    made.processor = SimpleNamespace(tokenizer=tokenizer)
    made.model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 3]))
    assert made._text([5, 6, 3, 0, 0]) == "5 6"
    with pytest.raises(NoScore, match="truncated after 2 tokens") as error:
        made._text([5, 6])
    assert error.value.kind == "cut off"
