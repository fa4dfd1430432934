"""A user of transformers alone: read models, and write the logits of each, what loading said, and what was imported.

plain_reader.py OUTPUT.pt FOLDER...
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig


@torch.no_grad()
def read(folder):
    """What `from_pretrained` makes of a folder, told by numbers."""
    model, said = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    tokens = AutoTokenizer.from_pretrained(folder)("word1 word2 word3", return_tensors="pt")
    logits = model.eval()(**tokens, decoder_input_ids=tokens["input_ids"]).logits
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    said = {name: sorted(map(str, value)) for name, value in said.items()}
    return {
        "logits": logits, "said": said, "tied": tied, "dtype": str(model.dtype),
        "begins": GenerationConfig.from_pretrained(folder).decoder_start_token_id,
    }  # fmt: skip


if __name__ == "__main__":
    output, *folders = sys.argv[1:]
    found = {folder: read(folder) for folder in folders}
    assert not any(name.split(".")[0] == "cached_ds" for name in sys.modules)
    torch.save(found, output)
