"""Pictures: where a cell, a number and a rod are drawn, and in which colour."""

import jax.numpy as jnp
import numpy as np

from gempi_jax.rl import pictures


def middle(picture, row, column):
    return picture[pictures.SCALE * row + pictures.SCALE // 2, pictures.SCALE * column + pictures.SCALE // 2].tolist()


def test_cells_have_their_colours():
    picture = np.asarray(pictures.cells(jnp.asarray([[pictures.BLUE, pictures.RED, pictures.BACKGROUND]])))
    assert picture.shape == (pictures.SCALE, 3 * pictures.SCALE, 3)
    expected = [pictures.BLUE, pictures.RED, pictures.BACKGROUND]
    assert [middle(picture, 0, column) for column in range(3)] == pictures.PALETTE[expected].tolist()


def test_the_last_feature_of_a_cell_shows():
    features = jnp.zeros((1, 2, 3)).at[0, 0, 0].set(1.0).at[0, 0, 2].set(1.0)
    picture = np.asarray(pictures.channels(features))
    assert middle(picture, 0, 0) == pictures.PALETTE[3].tolist()
    assert middle(picture, 0, 1) == pictures.PALETTE[pictures.BACKGROUND].tolist()


def test_numbers_are_blue_above_and_red_below_nothing():
    picture = np.asarray(pictures.values(jnp.asarray([[9.0, 0.0, -9.0]])))
    expected = [pictures.BLUE, pictures.BACKGROUND, pictures.RED]
    found = np.asarray([middle(picture, 0, column) for column in range(3)], int)
    assert np.abs(found - pictures.PALETTE[expected]).max() <= 1


def test_a_rod_lies_between_its_ends():
    picture = np.asarray(pictures.rods(jnp.asarray([[0.0, 0.0, 0.0, 0.8]]), (pictures.RED,)))
    red = (picture == pictures.PALETTE[pictures.RED]).all(-1)
    rows, columns = np.nonzero(red)
    # x = 0 is column 120, y = 0.8 row 16 and y = 0 row 80; 0.05 around them are 4 pixels.
    assert (rows.min(), rows.max()) == (12, 83)
    assert (columns.min(), columns.max()) == (116, 123)
