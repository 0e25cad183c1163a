"""What networks learn. A task owns the loss on the labels, the scores, the names of metrics and what best means.

Nothing outside this room spells a metric's name.
"""
from tasks.classification import Classification

tasks = {task.name: task for task in (Classification(),)}
CLASSIFICATION = tasks["classification"]

__all__ = ["CLASSIFICATION", "Classification", "tasks"]
