"""Engines that generate: token ids in, token ids and text out, behind one interface."""
