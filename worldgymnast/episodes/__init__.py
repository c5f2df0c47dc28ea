"""Logged rollouts on disk and in memory: LeRobot, RLDS and WorldGym folders, and the clips that training draws."""
