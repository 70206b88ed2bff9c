from holdfast.clock import monotonic


def test_x() -> None:
    assert monotonic() > 0
