"""The files of an artifact besides the models: manifest, model card, run.md."""
