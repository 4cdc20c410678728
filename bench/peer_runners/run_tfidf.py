"""A bag of words: scikit-learn's logistic regression on TF-IDF, both with their defaults."""

from __future__ import annotations

import sys

import runner
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def train(task: runner.Task) -> runner.Predict:
    return make_pipeline(TfidfVectorizer(), LogisticRegression(**task.options)).fit(task.texts, task.labels).predict


if __name__ == "__main__":
    sys.exit(runner.main(train, ["scikit-learn"]))
