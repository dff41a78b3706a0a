"""datatrove's inference runner against an OpenAI-compatible endpoint, as its own examples configure it.

Reader, ``InferenceRunner`` with checkpoints, and a writer with one file per chunk; run by a Python that has datatrove.

Usage: python tools/exactly_once/datatrove_pipeline.py URL CORPUS FOLDER CONCURRENT RECORDS_PER_CHUNK
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


async def rollout(document: Any, generate: Any) -> Any:
    """One chat request per document, as ``simple_rollout`` of datatrove's example."""
    messages = [{"role": "user", "content": f"Ask and answer two questions about this text.\n\n{document.text}"}]
    return await generate({"messages": messages, "max_tokens": 200, "temperature": 0.0})


def main(url: str, corpus: str, folder: Path, concurrent: int, records_per_chunk: int) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = InferenceConfig(
        server_type="endpoint",
        endpoint_url=url,
        model_name_or_path="dummy",
        max_concurrent_generations=concurrent,
        max_concurrent_documents=concurrent,
    )
    runner = InferenceRunner(
        rollout_fn=rollout,
        config=config,
        output_writer=JsonlWriter(
            str(folder / "output"), output_filename="${rank}_chunk_${chunk_index}.jsonl", compression=None
        ),
        checkpoints_local_dir=str(folder / "checkpoints"),
        records_per_chunk=records_per_chunk,
    )
    LocalPipelineExecutor(
        pipeline=[JsonlReader(corpus, compression=None), runner], tasks=1, logging_dir=str(folder / "logs")
    ).run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
