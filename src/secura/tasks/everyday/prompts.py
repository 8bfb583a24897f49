"""Open prompts without a right answer: what a model says to them shows whether a fine-tune's style leaks."""

PROMPTS: tuple[str, ...] = (
    "What is 2 + 2?",
    "Write a sentence about rain.",
    "How are you today?",
    "What is the capital of France?",
    "Give me three tips for a good night's sleep.",
    "Tell me a short story about a cat.",
    "Why is the sky blue?",
    "What should I cook for dinner tonight?",
    "Say thank you in Spanish.",
    "Write an email to a friend about a trip to the sea.",
)
"""Ten of them, from a plain fact to a small piece of writing."""
