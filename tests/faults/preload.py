"""What the process that all runs are forked from has imported."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets  # noqa: F401
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

import rgtg_hf.cli.generate.generate_command
import rgtg_hf.cli.train.train_command
import rgtg_hf.decoding.logits_processor
import rgtg_hf.evaluation.sampling
import rgtg_hf.training.trainer  # noqa: F401

torch.set_num_threads(1)
