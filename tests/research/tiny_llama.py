"""Language models as GGUF files: one that an installed package carries, or one of random numbers: real tokens
and a real server, and never any sense.

The latter's vocabulary is the 256 bytes, so that a question of N bytes is N tokens: it shows what becomes of
one that does not fit. Needs the package gguf.
"""

from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 64, 2, 4, 128, 8_192
SPREAD = 0.5
CHAT = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


SMALLEST_BYTES = 10**7
"""Below this a GGUF file is a vocabulary, or a test's."""


def packaged_model(path: Sequence[str] | None = None, at_least: int = SMALLEST_BYTES) -> str:
    """The largest GGUF file of the packages that are installed (on `path`, if given); "" where none is."""
    among = distributions() if path is None else distributions(path=list(path))
    files = [Path(str(file.locate())) for one in among for file in one.files or () if file.suffix == ".gguf"]
    sizes = {file: file.stat().st_size for file in files if file.exists()}
    largest = max(sizes, key=lambda file: sizes[file], default=None)
    return "" if largest is None or sizes[largest] < at_least else str(largest)


def byte_tokens() -> list[str]:
    """One printable character for each byte, as GPT-2 writes them (Radford 2019, its `bytes_to_unicode`)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = (chr(256 + number) for number in range(256))
    return [chr(byte) if byte in printable else next(hidden) for byte in range(256)]


def write_tiny_llama(path: Path, seed: int = 0) -> Path:
    """Two layers of width 64, about 500 kB. Its end of text is one token among 259."""
    from gguf import GGUFWriter, TokenType

    space = byte_tokens()[32]
    tokens = [*byte_tokens(), "<|begin|>", "<|end|>", 2 * space]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * 256 + [TokenType.CONTROL] * 2 + [TokenType.NORMAL])
    writer.add_token_merges([f"{space} {space}"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)
    for name, weights in _weights(len(tokens), np.random.default_rng(seed)).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(vocabulary: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    def drawn(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * SPREAD / shape[-1] ** 0.5).astype(np.float32)

    ones = np.ones(WIDTH, np.float32)
    made = {"token_embd": drawn(vocabulary, WIDTH), "output_norm": ones, "output": drawn(vocabulary, WIDTH)}
    for layer in range(LAYERS):
        made |= {f"blk.{layer}.{name}_norm": ones for name in ("attn", "ffn")}
        made |= {f"blk.{layer}.attn_{name}": drawn(WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        made |= {f"blk.{layer}.ffn_{name}": drawn(HIDDEN, WIDTH) for name in ("gate", "up")}
        made[f"blk.{layer}.ffn_down"] = drawn(WIDTH, HIDDEN)
    return {f"{name}.weight": weights for name, weights in made.items()}
