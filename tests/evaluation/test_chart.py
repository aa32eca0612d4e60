from rgtg_hf.evaluation.chart import Series, draw_reward_vs_kl, draw_series
from rgtg_hf.evaluation.report import ReportRow


def test_methods_are_drawn_into_a_png(tmp_path):
    path = tmp_path / "chart.png"
    series = [Series("guided", [0, 1], [0.1, 0.5], [0.1, 0.1]), Series("best-of-n", [0.6], [0.3], line=False)]
    draw_series(series, path, title="Two methods", x_name="KL", y_name="gold")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_rows_of_a_report_are_drawn_into_a_png(tmp_path):
    rows = [ReportRow("m", beta, 0.2 + beta / 10, 0.05, 0.0, 0.0, beta**2, 9.0) for beta in (0.0, 1.0, 2.0)]
    draw_reward_vs_kl(rows, tmp_path / "chart.png", title="Title", reward_name="Sentiment")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
