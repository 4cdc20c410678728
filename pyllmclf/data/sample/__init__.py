"""Messages to a shop's help desk, written for this project, and a small tokenizer made from them."""
