"""An engine of your own: a program in any language that reads prompts and writes answers, one JSON object a line.

    synthesis:
      engine: examples/extensions/command_engine.py:CommandEngine
      options: {command: [python3, examples/extensions/first_sentence.py], processes: 2}

The program gets ``{"prompt": "...", "max_tokens": 400, "seed": 7}`` and answers ``{"text": "..."}``, or ``{"refused":
"why"}`` where it will not answer this one. Everything else is the package's: chains, prompts, parsing, filters, journal
and resume. Several copies run beside each other; each does one request at a time.
"""

import asyncio
import json

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, RequestRefused

_LONGEST_LINE = 1 << 24


class CommandEngine(Engine):
    """Lends each request a free copy of the program."""

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self._command = list(config.options.get("command", ()))
        self._copies = int(config.options.get("processes", 1))
        if not self._command:
            raise RecipeError("synthesis.options.command: required by CommandEngine, e.g. [python3, my_program.py]")
        # Twice as many chains as copies: the next prompt is ready when an answer comes.
        self.window = 2 * self._copies
        self._programs = []
        self._free = asyncio.Queue()

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        for _ in range(self._copies):
            try:
                program = await asyncio.create_subprocess_exec(
                    *self._command, stdin=pipe, stdout=pipe, limit=_LONGEST_LINE
                )
            except OSError as error:
                raise RecipeError(f"synthesis.options.command: {self._command[0]}: {error.strerror}") from error
            self._programs.append(program)
            self._free.put_nowait(program)
        return self

    async def __aexit__(self, *exception):
        for program in self._programs:
            program.stdin.close()
            await program.wait()

    async def generate(self, request: Request) -> Completion:
        settings = {"max_tokens": self.config.generation.max_new_tokens, "seed": request.seed}
        program = await self._free.get()
        line = b""
        try:
            program.stdin.write(json.dumps({"prompt": request.prompt.text, **settings}).encode() + b"\n")
            await program.stdin.drain()
            line = await program.stdout.readline()
            answer = json.loads(line)
        except (ValueError, ConnectionError) as error:
            raise EngineError(f"{self._command[0]}: expected one line of JSON, found {line[:80]!r}") from error
        finally:
            self._free.put_nowait(program)
        if "refused" in answer:
            raise RequestRefused(answer["refused"])
        ids = self.tokenizer.encode([answer["text"]])[0]
        return Completion(ids, answer["text"], finished=True, prompt_tokens=len(request.prompt.ids))
