"""Compares BERT and GPT: the same data, settings and seeds for both, and McNemar's test on their disagreements.

python examples/compare_bert_and_gpt.py sms_spam --models bert-base-uncased gpt2 --seeds 3
"""

import argparse

import pyllmclf
from pyllmclf.evaluation.statistics import mcnemar

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="sms_spam", help="a data set with a test split")
parser.add_argument("--models", nargs=2, default=["bert-base-uncased", "gpt2"])
parser.add_argument("--weights", default="pretrained")
parser.add_argument("--trainable", default="last_block")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seeds", type=int, default=3)
options = parser.parse_args()

try:
    test = pyllmclf.load_dataset(options.data)["test"]
except (pyllmclf.PyllmclfError, KeyError) as error:
    parser.error(f"data: {options.data} is no data set with a test split ({error})")
evaluated = []
for model in options.models:
    runs = pyllmclf.finetune_seeds(
        model,
        options.data,
        seeds=options.seeds,
        weights=options.weights,
        trainable=options.trainable,
        epochs=options.epochs,
        progress=False,
    )
    accuracy = runs.summary["test"]["accuracy"]
    seconds = sum(run.timing["train_seconds"] for run in runs.results) / len(runs.results)
    print(f"{model}: test accuracy {accuracy['mean']:.2%} ± {accuracy['std']:.2%}, {seconds:.0f} s of training")
    evaluated.append(runs.results[0].classifier.evaluate_texts(test))

only_first, only_second, p = mcnemar(*evaluated)
print(
    f"only {options.models[0]} is right on {only_first} texts, only {options.models[1]} on {only_second}: p = {p:.3f}"
)
