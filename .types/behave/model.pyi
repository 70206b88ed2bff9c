from typing import Any, TypeAlias

Scenario: TypeAlias = Any
