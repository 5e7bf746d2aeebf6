"""What probes predicted, image by image, and the accuracies that follow from it.

A row for each validation image (split "id") and each image of unseen classes ("ood"). Columns: split, image
(its index in the split), label, knn, linear, and for OOD knn_folds and linear_folds. What was not scored is
missing.
"""

import pandas as pd

# Accuracy: its split, and the column of the predictions that it is computed from.
MEASURES = {
    "id_knn_accuracy": ("id", "knn"),
    "id_linear_accuracy": ("id", "linear"),
    "ood_knn_accuracy": ("ood", "knn"),
    "ood_linear_accuracy": ("ood", "linear"),
    "ood_knn_folds_accuracy": ("ood", "knn_folds"),
    "ood_linear_folds_accuracy": ("ood", "linear_folds"),
}
COLUMNS = ["split", "image", "label", "knn", "linear", "knn_folds", "linear_folds"]  # of predictions


def correct(predictions: pd.DataFrame, measure: str) -> pd.Series:
    """Whether each scored image was classified right, by its index; see MEASURES."""
    split, column = MEASURES[measure]
    rows = predictions[(predictions["split"] == split) & predictions[column].notna()].set_index("image")
    return (rows[column] == rows["label"]).astype(bool)


def accuracies(predictions: pd.DataFrame) -> dict[str, float]:
    """The fraction of images classified right, for each of MEASURES that was scored."""
    scored = [name for name, (_, column) in MEASURES.items() if predictions[column].notna().any()]
    return {measure: float(correct(predictions, measure).mean()) for measure in scored}
