"""Networks: the zoo and its registry, their checkpoints, the network that a run deploys."""
from models.checkpoint import read_checkpoint
from models.loading import ModelCheckpoint, load_model, open_checkpoint
from models.naming import name_from_path
from models.probe import check_batches, feature_shapes, get_classifier
from models.registry import aliases, check_name, create_model, default_learning_rate, model_dict

__all__ = ["ModelCheckpoint", "aliases", "check_batches", "check_name", "create_model", "default_learning_rate",
           "feature_shapes", "get_classifier", "load_model", "model_dict", "name_from_path", "open_checkpoint",
           "read_checkpoint"]
