"""Negatives, losses, and fine-tuning on sentence-transformers' trainer."""

from shoptalk.training.finetuning import finetune
from shoptalk.training.negatives import mine_negatives

__all__ = ["finetune", "mine_negatives"]
