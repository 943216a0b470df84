from collections.abc import Callable
from typing import Any

HEADER_LIMIT: int
STRING_LIMIT: int
KEY_LIMIT: int
ENTRY_LIMIT: int
TENSOR_LIMIT: int
TENSOR_NAME_LIMIT: int

def parse(read: Callable[[int, int], bytes], size: int, file: str) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]], int]: ...
