"""GGUF files in llama.cpp, which runs in a child process."""
