"""Searches a grid over trainable layers and the learning rate with scikit-learn's cross-validation.

python examples/grid_search.py sms_spam --model bert-base-uncased
"""

import argparse

from sklearn.model_selection import GridSearchCV

import pyllmclf
from pyllmclf.sklearn import LLMClassifier

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="sms_spam", help="a data set with a train and a test split")
parser.add_argument("--model", default="gpt2")
parser.add_argument("--weights", default="pretrained")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--folds", type=int, default=3)
parser.add_argument("--texts", type=int, help="number of training texts; default: all")
options = parser.parse_args()

try:
    splits = pyllmclf.load_dataset(options.data)
    train, test = splits["train"], splits["test"]
except (pyllmclf.PyllmclfError, KeyError) as error:
    parser.error(f"data: {options.data} is no data set with a train and a test split ({error})")
texts, labels = train.texts[: options.texts], train.labels[: options.texts]

grid = {"trainable": ["head", "last_block", "all"], "learning_rate": [5e-5, 5e-4]}
estimator = LLMClassifier(options.model, weights=options.weights, epochs=options.epochs)
search = GridSearchCV(estimator, grid, cv=options.folds).fit(texts, labels)

scores = search.cv_results_
for score, spread, settings in zip(scores["mean_test_score"], scores["std_test_score"], scores["params"], strict=True):
    print(f"{score:.2%} ± {spread:.2%}  {settings}")
print(f"best: {search.best_params_}; accuracy on the test texts {search.score(test.texts, test.labels):.2%}")
