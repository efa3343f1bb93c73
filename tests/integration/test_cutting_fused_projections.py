"""A cut model is stored as the dense one is, also where a file holds in one tensor what transformers makes several weights of."""

from __future__ import annotations

import pytest
from cases.model_files import save_with_transformers
from safetensors.torch import load_file
from transformers import NomicBertModel

from tasks.contract import Work
from tasks.structuring import run_cut


@pytest.mark.parametrize("cut", [{"width": 0.5}, {"depth": 0.5}])
def test_queries_keys_and_values_in_one_tensor_are_put_together_again(tmp_path, cut):
    sizes = {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    save_with_transformers(tmp_path / "dense", "NomicBertModel", "nomic_bert", vocab_size=50, **sizes)
    output = tmp_path / "out"
    output.mkdir()
    params = {"criterion": "magnitude", "cut": cut}
    run_cut(Work(model=tmp_path / "dense", params=params, output=output))
    stored = load_file(output / "model.safetensors")
    assert stored["encoder.layers.0.attn.Wqkv.weight"].shape == (36, 12)
    again, information = NomicBertModel.from_pretrained(output, output_loading_info=True)
    assert not information["missing_keys"]
    assert not information["unexpected_keys"]
    dense = NomicBertModel.from_pretrained(tmp_path / "dense")
    kept = {str(weight.tolist()) for name, weight in dense.state_dict().items() if "q_proj" in name}
    assert {str(w.tolist()) for name, w in again.state_dict().items() if "q_proj" in name} <= kept
