from saccade.train.scaling import PATIENCE, SMALLEST, START, LossScale


def test_the_factor_halves_at_once_and_doubles_after_a_while() -> None:
    scale = LossScale()
    scale.update(False)
    assert (scale.value, scale.finite) == (START / 2, 0)
    for _ in range(PATIENCE - 1):
        scale.update(True)
    assert (scale.value, scale.finite) == (START / 2, PATIENCE - 1)
    scale.update(True)
    assert (scale.value, scale.finite) == (START, 0)


def test_there_is_an_end_to_halving() -> None:
    scale, halvings = LossScale(), 0
    while not scale.hopeless:
        scale.update(False)
        halvings += 1
    assert halvings == 31
    assert scale.value == SMALLEST / 2
