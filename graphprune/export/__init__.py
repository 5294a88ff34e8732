"""Export: a pruned network becomes a file, for PyTorch (``.pt2``) and for everybody else (ONNX)."""

from graphprune.export.onnx_file import METADATA_PREFIX, export_onnx
from graphprune.export.program import load_program, program_of, save_program

__all__ = ["METADATA_PREFIX", "export_onnx", "load_program", "program_of", "save_program"]
