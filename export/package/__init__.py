"""What goes into an artifact beside the models: manifest, model card, run.md."""
