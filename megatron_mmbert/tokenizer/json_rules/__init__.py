"""The rules in a ``tokenizer.json``: the text that its pieces stand for, and how long it may make a text."""
