"""Hugging Face folders to checkpoints and back, streamed.

:mod:`megatron_ipt.models.tensor_mapping` says which tensors correspond and where their rows are; ``importer`` and
``exporter`` read that list in opposite directions, ``output_folder`` makes the target appear when it is complete,
``commands`` has the functions to call. ``checkpoint`` and ``hugging_face`` read and write the two kinds of folder,
``formats`` the files in them. Only comparing predictions needs Megatron-Core or transformers.
"""
