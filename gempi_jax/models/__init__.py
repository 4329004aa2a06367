"""Networks: one decoder for all language models, cores with memory for control, and the small heads on top."""

from gempi_jax.models.action_values import ContinuousValues, DiscreteValues
from gempi_jax.models.activations import gelu, gelu_tanh
from gempi_jax.models.cache import Cache, KeyValue, Prefix, init_cache
from gempi_jax.models.config import RMS, Band, DecoderConfig, HeadNorm, Layer, Placement
from gempi_jax.models.decoder import Decoder
from gempi_jax.models.distributions import Categorical, Distribution, Gaussian, TanhGaussian
from gempi_jax.models.gates import GRUGate, HighwayGate, InputGate, OutputGate, Residual, SigmoidTanhGate
from gempi_jax.models.heads import ActionValueHead, ValueHead
from gempi_jax.models.lora import Adapted, LoRA, init_adapters, merge_adapters
from gempi_jax.models.policy_heads import CategoricalHead, GaussianHead, TanhGaussianHead
from gempi_jax.models.popart import PopArt, PopArtHead, preserve_outputs
from gempi_jax.models.positions import Dynamic, Learned, Linear, Llama3, LongRope, Rotary, Unscaled, Yarn
from gempi_jax.models.prefill import prefill
from gempi_jax.models.recurrent import GRU, LSTM, GRUMemory, LSTMMemory, MLPCore
from gempi_jax.models.tempered import Tempered, tempered
from gempi_jax.models.torsos import CNNTorso, MLPTorso, ResNetTorso, with_previous
from gempi_jax.models.transformer_xl import Memory, NormPlacement, TransformerXL, gtrxl, trxl, trxl_i

__all__ = [
    "GRU",
    "LSTM",
    "RMS",
    "ActionValueHead",
    "Adapted",
    "Band",
    "CNNTorso",
    "Cache",
    "Categorical",
    "CategoricalHead",
    "ContinuousValues",
    "Decoder",
    "DecoderConfig",
    "DiscreteValues",
    "Distribution",
    "Dynamic",
    "GRUGate",
    "GRUMemory",
    "Gaussian",
    "GaussianHead",
    "HeadNorm",
    "HighwayGate",
    "InputGate",
    "KeyValue",
    "LSTMMemory",
    "Layer",
    "Learned",
    "Linear",
    "Llama3",
    "LoRA",
    "LongRope",
    "MLPCore",
    "MLPTorso",
    "Memory",
    "NormPlacement",
    "OutputGate",
    "Placement",
    "PopArt",
    "PopArtHead",
    "Prefix",
    "ResNetTorso",
    "Residual",
    "Rotary",
    "SigmoidTanhGate",
    "TanhGaussian",
    "TanhGaussianHead",
    "Tempered",
    "TransformerXL",
    "Unscaled",
    "ValueHead",
    "Yarn",
    "gelu",
    "gelu_tanh",
    "gtrxl",
    "init_adapters",
    "init_cache",
    "merge_adapters",
    "prefill",
    "preserve_outputs",
    "tempered",
    "trxl",
    "trxl_i",
    "with_previous",
]
