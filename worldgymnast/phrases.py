"""Instructions of known tasks, and their paraphrases."""

from __future__ import annotations

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "drawer-open": (
        "open the drawer",
        "pull the drawer open",
        "slide the drawer out",
        "pull out the green drawer",
    ),
    "drawer-close": (
        "close the drawer",
        "push the drawer shut",
        "shut the drawer",
        "slide the drawer back in",
    ),
    "button-press": (
        "press the button",
        "push the red button",
        "push the button in",
        "press the red button on the box",
    ),
    "plate-slide": (
        "slide the plate into the cabinet",
        "push the plate into the cabinet",
        "move the plate into its cabinet",
        "slide the black plate into the goal",
    ),
    "window-open": (
        "open the window",
        "slide the window open",
        "push the window open",
        "move the window to the side to open it",
    ),
    "door-close": (
        "close the door",
        "shut the door",
        "push the door shut",
        "swing the door closed",
    ),
    "handle-press": (
        "press the handle down",
        "push the red handle down",
        "push down the handle",
        "lower the handle of the box",
    ),
    "window-close": (
        "close the window",
        "slide the window shut",
        "push the window closed",
        "move the window to the side to close it",
    ),
    "faucet-close": (
        "close the faucet",
        "turn the faucet off",
        "turn the red tap to the right",
        "turn off the tap",
    ),
    "button-press-topdown": (
        "press the button from above",
        "push the red button down",
        "press down on the button",
        "push down the button on top of the box",
    ),
}
"""Per task its instruction, then paraphrases."""
