"""The entry point `vllm.general_plugins`, by which vLLM finds the policies that are served with a head."""

__all__ = ["STEERED", "register"]

# The architecture to ask for, and vLLM's own that it is made of.
STEERED = {
    "SteeredLlamaForCausalLM": "LlamaForCausalLM",
    "SteeredMistralForCausalLM": "MistralForCausalLM",
    "SteeredQwen2ForCausalLM": "Qwen2ForCausalLM",
    "SteeredQwen3ForCausalLM": "Qwen3ForCausalLM",
}


def register() -> None:
    """Makes the architectures known to vLLM. Each is imported when a server asks for it."""
    from vllm import ModelRegistry

    for name in STEERED:
        ModelRegistry.register_model(name, f"rgtg_hf.serving.vllm_models:{name}")
