import pytest

from persona4rec_tests.reviews.builders import Workshop


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)
