"""How a model leaves training: as a LoRA, merged, as GGUF, and for Ollama. Exact where it can be, or measured."""
