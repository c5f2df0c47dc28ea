"""RLDS data sets as others write them, small."""

from foreign_data import FD, IMG, TXT, T, acts, frame, png, rlds

SENTENCE = "steps/language_instruction"
SHARD = "my_set-train.tfrecord-00000-of-00001"


def record(index, steps=4, sentences=None, **others):
    """One episode; frame i of it carries (index, i)."""
    said = [f"do thing {index}".encode()] * steps if sentences is None else sentences
    return {
        "steps/action": acts(index, steps).ravel(),
        SENTENCE: said,
        "steps/observation/image_0": [png(frame(index, i)) for i in range(steps)],
    } | others


def step(**observation):
    """The features of a step."""
    return {"action": T([7]), "language_instruction": TXT, "observation": FD({"image_0": IMG(), **observation})}


def seed_rlds(root):
    """A valid data set of two short episodes."""
    rlds(root, [record(0), record(1, 3)], step())
    return root
