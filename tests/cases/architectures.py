"""The architectures of the tiny models, and what each reads: the name of its data, their kind, the shape of one example."""

KINDS = {
    "LlamaForCausalLM": ("text", "text", ()),
    "GPT2LMHeadModel": ("text", "text", ()),
    "BertForSequenceClassification": ("sections", "text", ()),
    "ViTForImageClassification": ("arrays", "arrays", (1, 8, 8)),
    "ResNetForImageClassification": ("arrays", "arrays", (1, 8, 8)),
    "MLPForClassification": ("arrays", "arrays", ()),
}
ARCHITECTURES = tuple(KINDS)
