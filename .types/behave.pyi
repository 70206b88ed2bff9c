"""The part of behave that steps use; behave ships no types."""

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., None])

def given(step: str) -> Callable[[F], F]: ...
def when(step: str) -> Callable[[F], F]: ...
def then(step: str) -> Callable[[F], F]: ...
