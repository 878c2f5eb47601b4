"""Export to ONNX by one of three exporters. To add a model family, start at `families`."""
