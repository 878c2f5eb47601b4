"""Export to ONNX by one of three exporters, and reading back what the graph contains."""
