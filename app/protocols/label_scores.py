"""Results as one object of labels and scores, as TorchServe's image classifier writes them. Knows no transport."""

from app.classification.classifier import Inference
from app.classification.ranking import top_k
from app.models.registry import Model

# Number of classes in a result of TorchServe.
CLASSES = 5


def label_scores(model: Model, result: Inference) -> dict[str, float]:
    """Return the five best classes of an image and their scores, best first. Equal labels are numbered."""
    ranked = top_k(result.logits, CLASSES, model.contents.manifest.activation)
    return {model.unique_labels[index]: score for index, score in ranked}
