from rgtg_hf.evaluation.chart import Series, draw_series


def test_methods_are_drawn_into_a_png(tmp_path):
    path = tmp_path / "chart.png"
    series = [Series("steered", [0, 1], [0.1, 0.5], [0.1, 0.1]), Series("best-of-n", [0.6], [0.3], line=False)]
    draw_series(series, path, title="Two methods", x_name="KL", y_name="gold")
    assert path.read_bytes().startswith(b"\x89PNG")
