"""Core ML's programs, executed without Core ML: the saved file, operator by operator, with Core ML's arithmetic.

What a program computes is what Apple's documentation of the MIL operators says (coremltools.readme.io, API reference);
float16 values are stored as float16 and accumulated in float32. It is not the Neural Engine, whose own rounding nobody
documents.
"""
