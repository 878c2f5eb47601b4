"""Export to GGUF: conversion, importance matrix, quantization."""
