"""The model that tests/research/test_small_model.py serves is found among the installed packages."""

from tests.research.tiny_llama import packaged_model


def install(folder, package, files):
    """A package as pip leaves it: files, and a record of them."""
    written = {f"{package}/{name}": bytes(size) for name, size in files.items()}
    about = f"{package}-1.0.dist-info"
    record = "".join(f"{name},,\n" for name in written)
    for name, data in (*written.items(), (f"{about}/METADATA", f"Name: {package}\nVersion: 1.0\n".encode()),
                       (f"{about}/RECORD", record.encode())):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_the_largest_model_of_the_installed_packages_is_found(tmp_path):
    assert packaged_model([str(tmp_path)]) == ""
    install(tmp_path, "plain", {"weights.bin": 900})
    install(tmp_path, "vocabulary", {"tokens.gguf": 50})
    assert packaged_model([str(tmp_path)], at_least=100) == ""
    install(tmp_path, "small", {"q4.gguf": 200, "q8.gguf": 300})
    install(tmp_path, "smaller", {"q4.gguf": 250})
    assert packaged_model([str(tmp_path)], at_least=100) == str(tmp_path / "small" / "q8.gguf")
    (tmp_path / "small" / "q8.gguf").unlink()
    assert packaged_model([str(tmp_path)], at_least=100) == str(tmp_path / "smaller" / "q4.gguf")
