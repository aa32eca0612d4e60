import json
import sys

from rgtg_hf.training.curve import save_calibrations, save_curves

CURVES = {"eval": {"fraction_read": [0.5, 1.0], "accuracy": [0.75, 1.0], "standard_error": [0.25, 0.0], "pairs": 4}}


def test_curves_are_saved_as_numbers_and_as_a_picture(tmp_path):
    save_curves(CURVES, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "accuracy_by_fraction_read.json").read_text()) == CURVES
    assert (tmp_path / "new" / "accuracy_by_fraction_read.png").stat().st_size > 1000


def test_without_matplotlib_the_numbers_are_saved_and_a_warning_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    save_curves(CURVES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy_by_fraction_read.json"]
    assert "without a picture: matplotlib is not installed" in caplog.text


def test_calibrations_are_saved_as_numbers_and_as_a_picture(tmp_path):
    found = {"value_beta": [1.0, 2.0], "log_ratio": [0.0, -0.4], "standard_error": [0.1, 0.1], "responses": 9}
    found |= {"expected": [0.1, 0.9], "found": [0.2, 0.8], "share": [0.5, 0.5]}
    save_calibrations({"eval": found}, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "calibration.json").read_text()) == {"eval": found}
    assert (tmp_path / "new" / "calibration.png").stat().st_size > 1000
