"""Flags of the smallest trainings, for tests of whole command lines."""

BRIEF = ["--fit.steps", "1", "--threads", "1"]
TINY_WORLD = [
    *(
        "--autoencoder.steps",
        "1",
        "--world.autoencoder.channels",
        "4",
        "--world.autoencoder.widths",
        "8",
        "8",
        "8",
        "8",
    ),
    *("--world.autoencoder.blocks", "0", "0", "0", "0", "--world.transformer.channels", "4", "--frames", "2"),
    *("--world.transformer.width", "16", "--world.transformer.layers", "1", "--world.transformer.heads", "2"),
]
TINY_POLICY = ["--policy.width", "8", "--policy.blocks", "1", "--policy.hidden", "8", "--batch", "2"]
TINY_JUDGE = ["--judge.widths", "8", "8", "8", "--batch", "4"]
