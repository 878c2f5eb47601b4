"""Export to GGUF: conversion, importance matrix, quantization. To add a model family, start at `families`."""
