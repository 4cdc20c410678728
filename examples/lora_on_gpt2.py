"""Trains a LoRA adapter on GPT-2, exports it for PEFT, and merges it into the weights.

python examples/lora_on_gpt2.py sms_spam --rank 16
"""

import argparse
from pathlib import Path

import pyllmclf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="sms_spam")
parser.add_argument("--model", default="gpt2")
parser.add_argument("--weights", default="pretrained")
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--output-dir", type=Path, default=Path("adapter"))
options = parser.parse_args()

result = pyllmclf.finetune(
    options.model,
    options.data,
    weights=options.weights,
    trainable="lora",
    lora=pyllmclf.LoRAConfig(rank=options.rank, alpha=options.rank, dropout=0.05),
    learning_rate=2e-4,
    epochs=options.epochs,
)
model = result.classifier.state.model
trained = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name or name.startswith("head."))
total = sum(p.numel() for p in model.parameters())
print(f"{trained:,} of {total:,} parameters were trained")
for split, metrics in result.metrics.items():
    print(f"{split}: accuracy {metrics['accuracy']:.2%}")

# PeftModel.from_pretrained(base, FOLDER) opens the first, AutoModelForSequenceClassification the second.
result.classifier.export(options.output_dir / "peft", format="peft", overwrite=True)
result.classifier.export(options.output_dir / "merged", format="huggingface", overwrite=True)
print(f"written to {options.output_dir}/peft and {options.output_dir}/merged")
