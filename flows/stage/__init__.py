"""Decode and validate: a batch of bytes -> the typed rows of staging.<source> and its rejects."""

from flows.stage.codes import Code
from flows.stage.rules import RuleFailed
from flows.stage.stage import Stage

__all__ = ["Code", "RuleFailed", "Stage"]
