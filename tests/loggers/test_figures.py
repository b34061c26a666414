import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from scipy.spatial.distance import squareform

from convscope.loggers import cluster_order, correlation_heatmap, learning_map
from convscope.loggers._canvas import MISSING_FACE, MISSING_STRIPE, Page, require_matplotlib
from convscope.loggers._heatmap import HEATMAP_SIDE

LEFT, TOP = 46, 42  # where a heat-map's cells start


def planted(sizes: list[int], noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled filters that follow one hidden signal a group, with random signs; (correlations, groups)."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    signal = rng.normal(size=(600, len(sizes)))[:, groups] * rng.choice([-1, 1], len(groups))
    return np.corrcoef(signal + noise * rng.normal(size=signal.shape), rowvar=False), groups


def cell(picture: np.ndarray, row: int, column: int, count: int) -> np.ndarray:
    """The colour in the middle of a heat-map's cell."""
    middle = [(2 * place + 1) * HEATMAP_SIDE // (2 * count) for place in (row, column)]
    return picture[TOP + middle[0], LEFT + middle[1]].astype(int)


@pytest.mark.parametrize("sizes", [[3, 4, 5], [20, 30, 10, 4], [60, 60, 60]])
def test_planted_groups_stand_together(sizes: list[int]) -> None:
    matrix, groups = planted(sizes, noise=0.5, seed=len(sizes))
    ordered = groups[cluster_order(matrix)]
    assert np.count_nonzero(np.diff(ordered)) == len(sizes) - 1


def test_order_is_a_permutation_with_constant_filters_last() -> None:
    matrix, _ = planted([5, 6], noise=1.0, seed=0)
    matrix[[1, 7]], matrix[:, [1, 7]] = 0.0, 0.0
    order = cluster_order(matrix)
    assert sorted(order) == list(range(11))
    assert order[-2:].tolist() == [1, 7]


def test_constant_filters_marked_with_nan_are_last_too() -> None:
    matrix = np.eye(4)
    matrix[0], matrix[:, 0] = np.nan, np.nan
    assert cluster_order(matrix)[-1] == 0


def test_order_is_that_of_scipy_on_one_minus_absolute_correlation() -> None:
    from scipy.cluster.hierarchy import leaves_list, linkage

    matrix, _ = planted([4, 5, 3], noise=0.8, seed=3)
    distance = 1 - np.abs(matrix)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    assert cluster_order(matrix).tolist() == leaves_list(tree).tolist()


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros(4), np.zeros((0, 0))])
def test_no_square_matrix_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"non-empty square \(C, C\)"):
        correlation_heatmap(matrix, "conv1")


def test_heatmap_colours_tell_sign_and_size() -> None:
    matrix = np.eye(3)
    matrix[0, 1] = matrix[1, 0] = -0.9
    order = cluster_order(matrix).tolist()
    picture = correlation_heatmap(matrix, "conv1")
    negative = cell(picture, order.index(0), order.index(1), 3)
    zero = cell(picture, order.index(0), order.index(2), 3)
    one = cell(picture, 0, 0, 3)
    assert negative[2] > negative[0] + 60, "a negative correlation is blue"
    assert zero.min() > 240, "no correlation is white"
    assert one[0] > one[2] + 60, "a positive one is red"


def test_constant_filters_are_hatched_and_nothing_else_is() -> None:
    matrix = np.eye(4)
    matrix[2, 2] = 0.0
    picture = correlation_heatmap(matrix, "conv1")
    cells = picture[TOP : TOP + HEATMAP_SIDE, LEFT : LEFT + HEATMAP_SIDE]
    grey = (cells == MISSING_FACE).all(axis=2) | (cells == MISSING_STRIPE).all(axis=2)
    edge = HEATMAP_SIDE * 3 // 4
    assert grey[edge:].all()
    assert grey[:, edge:].all()
    assert not grey[:edge, :edge].any()


def test_title_counts_filters() -> None:
    one = correlation_heatmap(np.eye(5), "conv1")
    other = correlation_heatmap(np.diag([1.0, 1, 1, 1, 0]), "conv1")
    assert (one[:TOP] != other[:TOP]).any(), "the number of constant filters is in the title"


def test_opposite_correlations_do_not_cancel_in_large_layers() -> None:
    signs = np.where(np.arange(1024) % 2, -1.0, 1.0)
    picture = correlation_heatmap(np.outer(signs, signs), "conv1")
    cells = picture[TOP : TOP + HEATMAP_SIDE, LEFT : LEFT + HEATMAP_SIDE].astype(int)
    assert np.ptp(cells, axis=2).min() > 60, "every cell has a strong colour"


@pytest.mark.parametrize("count", [1, 2, 20, 21, 119, 121, 500])
def test_heatmap_of_any_size_fits_a_card(count: int) -> None:
    picture = correlation_heatmap(np.eye(count), "a" * 200)
    assert picture.shape == (332, 350, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(("layers", "checks"), [(1, 1), (1, 1000), (20, 8), (24, 1000), (300, 3)])
def test_learning_map_of_any_size_fits_a_card(layers: int, checks: int) -> None:
    values = np.random.default_rng(0).random((layers, checks))
    names = [f"backbone.stages.{i // 9}.blocks.{i}.branch_main.conv" for i in range(layers)]
    picture = learning_map(values, names, range(checks), "probe accuracy", "accuracy")
    assert picture.shape[1] == 350
    assert 200 < picture.shape[0] < 700


def map_cells(picture: np.ndarray) -> np.ndarray:
    """The framed area of a learning map: inside the first run of ink along the frame."""
    ink = (picture == (34, 34, 34)).all(axis=2)
    top = int(np.flatnonzero(ink.sum(axis=1) > 60)[0])
    bottom = int(np.flatnonzero(ink.sum(axis=1) > 60)[-1])
    columns = np.flatnonzero(ink[top + 1 : bottom].all(axis=0))
    return picture[top + 1 : bottom, columns[0] + 1 : columns[1]]


def test_learning_map_puts_input_on_top_and_time_to_the_right() -> None:
    cells = map_cells(learning_map([[0.0, 0.3], [0.6, 1.0]], ["a", "b"], [0, 1], "t", "u", 0, 1))
    height, width = cells.shape[:2]
    shown = [cells[height * row // 4, width * column // 4].tolist() for row, column in ((1, 1), (1, 3), (3, 1), (3, 3))]
    viridis = matplotlib.colormaps["viridis"]
    assert shown == [list(viridis(value, bytes=True)[:3]) for value in (0.0, 0.3, 0.6, 1.0)]


def test_what_was_not_measured_is_hatched_with_a_legend() -> None:
    values = np.full((2, 2), 0.5)
    whole = learning_map(values, ["a", "b"], [0, 1], "t", "u", 0, 1)
    values[1, 0], values[0, 1] = np.nan, np.inf
    holed = learning_map(values, ["a", "b"], [0, 1], "t", "u", 0, 1)
    cells = map_cells(holed)
    grey = (cells == MISSING_FACE).all(axis=2) | (cells == MISSING_STRIPE).all(axis=2)
    half, middle = grey.shape[0] // 2, grey.shape[1] // 2
    assert grey[half + 1 :, : middle - 1].all()
    assert grey[: half - 1, middle + 1 :].all()
    assert not grey[: half - 1, : middle - 1].any()
    assert (holed[-30:] != whole[-30:]).any(), "a legend at the foot"
    assert (whole[-20:] == 255).all(), "and none where all is measured"


def test_one_peak_among_a_thousand_checks_is_not_skipped() -> None:
    for place in (0, 137, 501, 999):
        values = np.zeros((1, 1000))
        values[0, place] = 1.0
        cells = map_cells(learning_map(values, ["a"], range(1000), "t", "u", 0, 0.1))
        assert len(np.unique(cells.reshape(-1, 3), axis=0)) > 1


@pytest.mark.parametrize("values", [[[np.nan, np.nan]], [[2.0, 2.0]], [[0.0, 0.0]], [[-1e-12, 1e-12]]])
def test_flat_or_missing_values_are_drawn(values: list[list[float]]) -> None:
    assert learning_map(values, ["conv1"], [0, 1], "t", "u").shape[2] == 3


@pytest.mark.parametrize(("vmin", "vmax"), [(0.0, None), (None, 0.0), (0.0, 1.0)])
def test_given_limits_hold_where_all_values_are_beyond(vmin: float | None, vmax: float | None) -> None:
    beyond = 5.0 if vmax is not None else -5.0
    cells = map_cells(learning_map([[beyond]], ["conv1"], [0], "t", "u", vmin, vmax))
    end = 1.0 if vmax is not None else 0.0
    assert cells[5, 5].tolist() == list(matplotlib.colormaps["viridis"](end, bytes=True)[:3])


def test_limits_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match=r"vmin must be below vmax, got vmin=1 and vmax=0"):
        learning_map([[0.5]], ["conv1"], [0], "t", "u", 1, 0)


@pytest.mark.parametrize(
    ("values", "layers", "x"),
    [([[1.0, 2.0]], ["a"], [0]), ([[1.0]], ["a", "b"], [0]), ([1.0], ["a"], [0]), (np.zeros((0, 0)), [], [])],
)
def test_table_that_does_not_match_is_refused(values: object, layers: list[str], x: list[int]) -> None:
    with pytest.raises(ValueError, match="values must be a non-empty"):
        learning_map(values, layers, x, "t", "u")


def test_users_style_changes_no_picture_and_is_not_changed() -> None:
    matrix, _ = planted([3, 4], noise=0.5, seed=1)

    def draw() -> list[np.ndarray]:
        from convscope.loggers import _canvas

        _canvas._glyphs.cache_clear()
        return [
            correlation_heatmap(matrix, "conv_$1$"),
            learning_map([[0.1, np.nan]], ["conv_$1$"], [0, 1], "t", "u"),
        ]

    plain = draw()
    style = {
        "font.size": 30,
        "font.family": "serif",
        "text.usetex": True,
        "text.color": "red",
        "figure.dpi": 30,
        "figure.facecolor": "black",
        "image.cmap": "gray",
        "axes.grid": True,
    }
    with matplotlib.rc_context(style):
        before = dict(matplotlib.rcParams)
        styled = draw()
        assert dict(matplotlib.rcParams) == before
    for one, other in zip(plain, styled, strict=True):
        np.testing.assert_array_equal(one, other)


def test_drawing_does_not_import_pyplot() -> None:
    program = (
        "import sys, convscope.loggers as loggers; "
        "sys.modules.pop('matplotlib.pyplot', None); "  # torchmetrics imports it
        "loggers.correlation_heatmap([[1.0]], 'conv1'); "
        "loggers.learning_map([[1.0]], ['conv1'], [0], 't', 'u'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (
        require_matplotlib,
        lambda: correlation_heatmap([[1.0]], "conv1"),
        lambda: learning_map([[1.0]], ["conv1"], [0], "t", "u"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'convscope\[plot\]'"):
            draw()


@pytest.mark.parametrize(("x", "y"), [(-30, 5), (95, 5), (5, -4), (5, 48), (200, 200)])
def test_text_over_the_edge_is_cut(x: int, y: int) -> None:
    page = Page(100, 50)
    page.text("a long line of text", x, y)
    page.text("a long line of text", x, y, upwards=True)
    assert page.pixels.shape == (50, 100, 3)
