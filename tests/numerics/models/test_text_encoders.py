"""Bodies of masked language models are encoders, also those that transformers lists nowhere for text encoding."""

from __future__ import annotations

import pytest
import torch
from cases.model_files import edit_weights, save_with_transformers

from tasks.contract import BadInput
from tasks.examples.batches import Batch, logits_of
from tasks.loading.models import load

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 1,
}
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
BATCH = Batch(positions=(0, 1), inputs={"input_ids": IDS, "attention_mask": MASK}, lengths=(4, 2))


@pytest.mark.parametrize(
    ("name", "model_type", "values"),
    [
        ("MPNetModel", "mpnet", {}),
        ("CamembertModel", "camembert", {}),
        ("ModernBertModel", "modernbert", {"bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}),
    ],
)
def test_an_encoder_answers_with_the_mean_of_its_tokens_without_padding(tmp_path, name, model_type, values):
    reference = save_with_transformers(tmp_path, name, model_type, **SMALL, **values)
    model = load(tmp_path)
    assert model.family == "text_encoder"
    with torch.no_grad():
        states = reference(input_ids=IDS, attention_mask=MASK).last_hidden_state
        expected = torch.stack([states[0].mean(0), states[1, :2].mean(0)])
        torch.testing.assert_close(logits_of(model, BATCH), expected)


def test_positions_that_older_exports_hold_beside_the_weights_are_no_hindrance(tmp_path):
    save_with_transformers(tmp_path, "MPNetModel", "mpnet", **SMALL)
    edit_weights(
        tmp_path, lambda tensors: tensors.update({"embeddings.position_ids": torch.arange(512)[None]})
    )
    with torch.no_grad():
        assert logits_of(load(tmp_path), BATCH).shape == (2, 16)


def test_a_body_with_a_decoder_is_no_encoder(tmp_path):
    sizes = {"vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    save_with_transformers(tmp_path, "BartModel", "bart", **sizes)
    with pytest.raises(BadInput, match="BartModel is no causal or masked language model"):
        load(tmp_path)
