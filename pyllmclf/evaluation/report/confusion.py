"""What is confused with what: the confusion matrix, and the most confused pairs of classes with examples."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.readers import TextData
from ..confused_pairs import confused_pairs
from ..metrics import EvaluationResult
from ..multi_label import MultiLabelResult
from .errors import place_of
from .shown_text import ShownText, shown_text

TABLE_CLASSES = 20
"""Most classes of a confusion matrix that is a table; that of more is an image."""
IMAGE_CLASSES = 1_000
"""Most classes of the image; of more, those with the most wrong predictions."""
PAIRS, EXAMPLES, EXAMPLE_CHARACTERS = 20, 3, 300
LEVELS = 5
"""Shades of a cell."""
OVERVIEW_CLASSES = 250
"""Classes above which a cell is smaller than three pixels where the image is shown whole."""
PIXELS, CELL = 704, 14
"""Width of the image as it is shown at first, and of a cell at the largest enlargement, about."""
LEVELS_OF_ZOOM = (1, 2, 4, 8, 16, 32)
RIGHT, WRONG = (46, 110, 200), (222, 96, 30)
"""Colours of the image: on the diagonal, and beside it."""
ORDERED_BEST = 200
"""Classes up to which the leaves of the tree are turned so that neighbours are most alike, which takes cubic time."""


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused.

    Attributes
    ----------
    true, predicted : str
    texts : int
        Of the true class, for which the other one is predicted.
    of : int
        Texts of the true class.
    examples : list of (int, str, ShownText)
        The most confident of these texts: number, place in the data, text.
    """

    true: str
    predicted: str
    texts: int
    of: int
    examples: list[tuple[int, str, ShownText]]


@dataclass(frozen=True)
class MatrixImage:
    """The confusion matrix as an image.

    Attributes
    ----------
    order : list of int
        Classes of the rows and columns: classes that are confused are neighbours.
    names : list of str
    uri : str
        A PNG of a pixel a cell.
    overview : str
        One whose cells are as large as nine, for the smallest sizes; empty where they are large enough.
    levels : list of int
        Enlargements to choose from.
    """

    order: list[int]
    names: list[str]
    uri: str
    overview: str
    levels: list[int]


def pairs_of(result: EvaluationResult | MultiLabelResult, data: TextData) -> list[Pair]:
    """The most frequent confusions, most frequent first; see :func:`..confused_pairs.confused_pairs`."""
    return [
        Pair(
            str(pair["true"]),
            str(pair["predicted"]),
            pair["texts"],
            pair["of"],
            [
                (each["row"], place_of(data, each["row"]), shown_text(each["text"], beginning=EXAMPLE_CHARACTERS))
                for each in pair["examples"]
            ],
        )
        for pair in confused_pairs(result, data, PAIRS, EXAMPLES)
    ]


def matrix_rows(result: EvaluationResult) -> list[dict[str, Any]]:
    """Rows of the table: the class's ``name``, and ``cells`` with texts, share of the class, and shade from 0 to 5."""
    matrix = result.confusion_matrix
    totals = np.maximum(matrix.sum(axis=1), 1)
    names = list(map(str, result.classes))
    rows = []
    for true, name in enumerate(names):
        cells = []
        for predicted, texts in enumerate(matrix[true].tolist()):
            share = texts / totals[true]
            level = min(LEVELS, 1 + int(share * LEVELS)) if texts else 0
            kind = "right" if true == predicted else "wrong"
            cells.append({"texts": texts, "share": share, "level": level, "kind": kind, "predicted": names[predicted]})
        rows.append({"name": name, "cells": cells})
    return rows


def matrix_image(result: EvaluationResult) -> MatrixImage:
    """The confusion matrix of many classes, those that are confused beside each other."""
    shown = _most_confused(result)
    order = shown[_similarity_order(_mean_probabilities(result, shown))]
    count = len(order)
    place = np.full(len(result.classes), -1)
    place[order] = np.arange(count)
    true, predicted = place[result.labels], place[result.predictions]
    both = (true >= 0) & (predicted >= 0)
    flat, texts = np.unique(true[both] * count + predicted[both], return_counts=True)
    rows, columns = flat // count, flat % count
    totals = np.bincount(result.labels, minlength=len(result.classes))[order]
    pixels = np.zeros((count, count, 4), dtype=np.uint8)
    pixels[rows, columns, :3] = np.where((rows == columns)[:, None], RIGHT, WRONG)
    # The rarest confusion is visible, too.
    pixels[rows, columns, 3] = np.rint(255 * (0.45 + 0.55 * texts / totals[rows]))
    overview = _png(_enlarged(pixels)) if count > OVERVIEW_CLASSES else ""
    names = [str(result.classes[c]) for c in order]
    levels = [level for level in LEVELS_OF_ZOOM if level == 1 or level * PIXELS <= 2 * CELL * count]
    return MatrixImage(order.tolist(), names, _png(pixels), overview, levels)


def confusion_cells(result: EvaluationResult) -> list[list[int]]:
    """True class, predicted class and number of texts of each cell of the matrix that is not 0, by class index."""
    classes = len(result.classes)
    flat, texts = np.unique(result.labels * classes + result.predictions, return_counts=True)
    return np.stack([flat // classes, flat % classes, texts], axis=1).tolist()


def _most_confused(result: EvaluationResult) -> np.ndarray:
    """Indices of the classes that the image shows."""
    classes = len(result.classes)
    if classes <= IMAGE_CLASSES:
        return np.arange(classes)
    wrong = ~result.right
    confused = np.bincount(np.concatenate([result.labels[wrong], result.predictions[wrong]]), minlength=classes)
    return np.sort(np.argsort(-confused, kind="stable")[:IMAGE_CLASSES])


def _mean_probabilities(result: EvaluationResult, classes: np.ndarray) -> np.ndarray:
    """Mean probability of each class over the texts of each class, float64, shape [classes, classes]."""
    from scipy.sparse import csr_array

    place = np.full(len(result.classes), -1)
    place[classes] = np.arange(len(classes))
    rows = np.flatnonzero(place[result.labels] >= 0)
    true = place[result.labels[rows]]
    counts = np.maximum(np.bincount(true, minlength=len(classes)), 1)
    weights = csr_array((1.0 / counts[true], (true, np.arange(len(rows)))), shape=(len(classes), len(rows)))
    return weights @ result.probabilities[np.ix_(rows, classes)]


def _similarity_order(probabilities: np.ndarray) -> np.ndarray:
    """Order of the classes by which those that are confused are neighbours: the leaves of average linkage.

    Parameters
    ----------
    probabilities : ndarray of float64, shape [classes, classes]
        Mean probability of each column's class over the texts of each row's class.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    alike = np.sqrt(np.maximum((probabilities + probabilities.T) / 2, 0.0))  # the small ones differ, too
    np.fill_diagonal(alike, 0.0)
    distance = alike.max() - alike
    np.fill_diagonal(distance, 0.0)
    best = len(probabilities) <= ORDERED_BEST
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=best))


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Each cell as a square of nine, in the colour of the strongest cell in it; of RGBA pixels."""
    from scipy.ndimage import maximum_filter

    diagonal = np.eye(len(pixels), dtype=bool)
    right = maximum_filter(np.where(diagonal, pixels[:, :, 3], 0), size=3)
    wrong = maximum_filter(np.where(diagonal, 0, pixels[:, :, 3]), size=3)
    enlarged = np.empty_like(pixels)
    enlarged[:, :, :3] = np.where((right >= wrong)[:, :, None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    enlarged[:, :, 3] = np.maximum(right, wrong)
    return enlarged


def _png(pixels: np.ndarray) -> str:
    """A PNG of RGBA pixels, uint8, shape [rows, columns, 4], as the address of an image."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
