"""ONNX directories in onnxruntime-genai, which runs in a child process."""
