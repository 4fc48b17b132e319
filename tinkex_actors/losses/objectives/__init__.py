"""Objectives: ready-made losses, each with its paper, its formula and what it reads."""
