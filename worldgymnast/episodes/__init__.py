"""Datasets of LeRobot, RLDS and WorldGym, and clips for training."""
