"""What a student can do before its weights are loaded: its chat template, its tokenizer, the headers of its files."""
