"""A custom engine: a program in any language that reads prompts and writes answers, one JSON object per line.

    synthesis:
      engine: examples/extensions/command_engine.py:CommandEngine
      options: {command: [python3, examples/extensions/first_sentence.py], processes: 2}

The program gets ``{"prompt": "...", "max_tokens": 400, "seed": 7}`` and answers ``{"text": "..."}``, or ``{"refused":
"why"}`` for a prompt that it will not answer. Everything else comes from the package: chains, prompts, parsing,
filters, journal and resume. Several copies run in parallel; each handles one request at a time. The program decodes
greedily, so a request that asks for anything else is rejected instead of being answered differently.
"""

import asyncio
import json

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, RequestRefused

_LONGEST_LINE = 1 << 24


class CommandEngine(Engine):
    """Lends each request a free copy of the program."""

    def __init__(self, settings, tokenizer):
        super().__init__(settings, tokenizer)
        self._command = list(settings.options.get("command", ()))
        self._copies = int(settings.options.get("processes", 1))
        if not self._command:
            key = settings.key("options.command")
            raise RecipeError(f"{key}: required by CommandEngine, e.g. [python3, my_program.py]")
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
                key = self.settings.key("options.command")
                raise RecipeError(f"{key}: {self._command[0]}: {error.strerror}") from error
            self._programs.append(program)
            self._free.put_nowait(program)
        return self

    async def __aexit__(self, *exception):
        for program in self._programs:
            program.stdin.close()
            await program.wait()

    async def generate(self, request: Request) -> Completion:
        unable = list(request.sampling.beyond_greedy())
        if unable:
            raise RecipeError(f"{self.settings.key('generation')}: CommandEngine does not honour {', '.join(unable)}")
        settings = {"max_tokens": request.sampling.max_new_tokens, "seed": request.seed}
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
