"""`archer new`: the template is a lawful rule from the first moment."""

import pytest

from archer.cli.new import write_new
from archer.errors import UserError
from archer.verify import verify_rule


@pytest.mark.parametrize("parent", ["delta_net", "gated_delta_net"])
def test_the_template_passes_verification(tmp_path, parent):
    path = write_new("my_idea", parent, tmp_path)
    found = verify_rule(path.read_text(encoding="utf-8"), path.stem)
    assert found.passed, [check for check in found.checks if not check.passed]


@pytest.mark.parametrize(
    ("name", "parent", "says"),
    [
        ("../x", "delta_net", "expected letters"),
        ("1st", "delta_net", "no digit first"),
        ("x" * 61, "delta_net", "at most 60"),
        ("softmax", "delta_net", "built-in rule"),
        ("mine", "delta_nett", "did you mean 'delta_net'"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, parent, says):
    with pytest.raises(UserError, match=says):
        write_new(name, parent, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    path = write_new("mine", "delta_net", tmp_path)
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match="there already"):
        write_new("mine", "delta_net", tmp_path)
    assert path.read_text(encoding="utf-8") == "precious"
    with pytest.raises(UserError, match="no folder"):
        write_new("mine", "delta_net", tmp_path / "nowhere")
