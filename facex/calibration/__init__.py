"""Photographs to a quantization plan: ranges per tensor, decided once and written as a QDQ ONNX model.

The flow is `images` -> `observers` -> `plan` -> `qdq`; `graph` reads the float ONNX model that all of it is about.
"""
