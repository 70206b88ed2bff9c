from typing import Any, TypeAlias

Context: TypeAlias = Any
