"""Whether loading a file of an exported program would execute what somebody wrote into it.

PyTorch evaluates expressions for sizes, compiles guards, and unpickles what is no tensor. Nearly all files hold tensors
and sizes alone, and are loaded. The user must say of any other file that it is trusted.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from os import PathLike
from typing import Any

import torch

_OLD = ("serialized_state_dict.json", "serialized_constants.json")
"""Files of an older format, which are pickled whatever they are called."""
_ALLOWED = ("torch.ops.", "_operator.", "math.")
"""What the operations of a program may be."""
_EXPRESSIONS = {
    *("Symbol", "Integer", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "ModularIndexing"),
    *("Where", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "PowByNatural", "FloatPow", "IntTrueDiv"),
    *("Mul", "Add", "Pow", "Rational", "Float", "Abs"),
    *("FloatTrueDiv", "CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "RoundToInt", "ToFloat"),
    *("True", "False", "true", "false", "oo", "int_oo", "L", "args", "kwargs", "size", "stride"),
}
"""Names in expressions of sizes, beside symbols as s31."""
_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant, ast.Name, ast.Call, ast.keyword),
    *(ast.Subscript, ast.Attribute, ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
_LONGEST = 4096
"""Letters of an expression."""


def unsafe_part(path: str | PathLike[str]) -> str | None:
    """Say what in a file would be carried out when it is loaded, or None.

    Raises
    ------
    OSError, zipfile.BadZipFile, ValueError, RecursionError
        If the file can't be read as one of a program.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):  # readers differ in which one they take
            return "two files of one name"
        pickled: set[str] = set()
        for name in names:
            if "aotinductor/" in name:
                return f"{name}, compiled code"
            if name.endswith(_OLD):
                return f"{name}, of an older format that is pickled"
            if name.endswith(".json"):
                content = json.loads(archive.read(name))
                found = next(_unsafe(content), None)
                if found is not None:
                    return f"{found}, in {name}"
                pickled.update(_pickled(content))
        for name in names:
            if name.endswith(".pt") or name.rpartition("/")[2] in pickled:
                content = archive.read(name)
                if content and not _is_tensors(content):
                    return f"{name}, which holds more than tensors"
    return None


def _is_tensors(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever a file of anybody's raises: it is refused
        return False
    return True


def _unsafe(value: Any) -> Iterator[str]:
    """Yield what is unsafe in a description of a program, or of its tensors."""
    for item in value if isinstance(value, list) else ():
        yield from _unsafe(item)
    for key, item in value.items() if isinstance(value, dict) else ():
        if key == "expr_str" and not _is_arithmetic(item):
            yield f"the expression {str(item)[:80]!r}, which would be evaluated"
        elif key == "guards_code" and not all(map(_is_arithmetic, item or ())):
            yield "guards, which would be compiled"
        elif _names_operation(key, value) and not str(item).startswith(_ALLOWED):
            yield f"the operation {str(item)[:80]!r}, which is none of PyTorch's"
        yield from _unsafe(item)


def _names_operation(key: str, entry: dict[str, Any]) -> bool:
    return key == "as_operator" or (key == "target" and "inputs" in entry)


def _pickled(config: Any) -> Iterator[str]:
    """Yield the names of files that a list of tensors says are pickled."""
    entries = config.get("config") if isinstance(config, dict) else None
    for entry in entries.values() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and entry.get("use_pickle"):
            yield str(entry.get("path_name")).rpartition("/")[2]


def _is_arithmetic(text: Any) -> bool:
    """Say whether an expression only counts: it names sizes and functions of them, and nothing that leads elsewhere."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _NODES) and _is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _EXPRESSIONS
    if isinstance(node, ast.Name):
        return node.id in _EXPRESSIONS or re.fullmatch(r"[suzi]\d+", node.id) is not None
    if isinstance(node, ast.Call):  # Symbol('s31', positive=True), L['x'].size()
        return isinstance(node.func, ast.Name | ast.Attribute)
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or re.fullmatch(r"\w{1,64}", node.value) is not None
    return True
