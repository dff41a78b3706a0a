"""The engine ``openai``: servers with the OpenAI completions API."""
