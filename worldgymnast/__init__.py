"""Finetune a vision-language-action policy by reinforcement learning inside a learned world model."""

__version__ = "0.1.0"
