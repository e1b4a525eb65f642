from panoptic_lovasz.reporting.plots import curves


def test_as_many_curves_as_an_evaluation_has_metrics_can_be_told_apart():
    figure = curves("Evaluations, %", {f"metric {n}": ([1, 2], [n, n]) for n in range(14)})
    (axes,) = figure.axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 14
