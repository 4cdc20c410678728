"""Turns a CSV file into a classifier: trains, prints figures, saves, classifies new texts.

    python examples/csv_to_classifier.py reviews.csv --model bert-base-uncased

The columns of texts and labels are found by their usual names (text, review, ...; label, class, ...).
"""

import argparse

import pyllmclf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="file or folder of data, or the name of a data set")
parser.add_argument("--model", default="gpt2")
parser.add_argument("--weights", default="pretrained")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--output-dir", default="classifier")
options = parser.parse_args()

result = pyllmclf.finetune(
    options.model,
    options.data,
    weights=options.weights,
    validation=0.1,
    trainable="all",
    epochs=options.epochs,
    scheduler="linear",
    warmup_ratio=0.1,
    class_weights="balanced",
    early_stopping=2,
    output_dir=options.output_dir,
    overwrite=True,  # the classifier of an earlier call
)
print(f"validation accuracy {result.metrics['validation']['accuracy']:.2%}")

classifier = pyllmclf.load(f"{options.output_dir}/best")
texts = ["Congratulations, you have won a prize! Call now.", "I will be ten minutes late."]
for text, label, row in zip(texts, classifier.predict(texts), classifier.predict_proba(texts), strict=True):
    print(f"{label} ({row.max():.1%}): {text}")
