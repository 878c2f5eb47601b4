"""Models in torch: our decode loop over a Hugging Face model, and loading students."""
