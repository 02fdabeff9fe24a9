"""Pipelines of diffusers in miniature, with random weights: every part is real and small, nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import Prompts
from diffmech.config.models import SamplingConfig

PIPELINE_RUNTIME = RuntimeConfig(progress=False, device="cpu", batch_size=2)
PIPELINE_PROMPTS = Prompts(kind="prompts", prompts=["a photo of a face", "a drawing of a hat", "a face with glasses"])
PIPELINE_SAMPLING = SamplingConfig(steps=4, guidance=5.0)
WORDS = ("face", "hat", "glasses", "beard", "photo", "drawing", "with", "of", "smile")
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
TEXT = 32  # width of the text encoders
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def clip_tokenizer(folder: Path, length: int = 16) -> CLIPTokenizer:
    """Return a byte-pair tokenizer whose words are letters, and WORDS."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = LETTERS + [f"{letter}</w>" for letter in LETTERS]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            if (merge := f"{parts[0]} {parts[1]}") not in merges:
                merges.append(merge)
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces.append(parts[0])
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def t5_tokenizer(length: int = 32) -> T5TokenizerFast:
    """Return a unigram tokenizer of WORDS and letters."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *LETTERS]
    model = Tokenizer(Unigram([(piece, -float(index > 12)) for index, piece in enumerate(pieces)], unk_id=2))
    model.pre_tokenizer = Metaspace()
    return T5TokenizerFast(tokenizer_object=model, model_max_length=length, extra_ids=0)


def _clip(tokenizer: CLIPTokenizer, *, projected: bool = False) -> Any:
    config = CLIPTextConfig(
        hidden_size=TEXT,
        projection_dim=TEXT,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5(tokenizer: T5TokenizerFast, width: int = TEXT) -> T5EncoderModel:
    config = T5Config(d_model=width, d_kv=8, d_ff=37, num_heads=4, num_layers=2, vocab_size=len(tokenizer))
    return T5EncoderModel(config).eval()


def _autoencoder(channels: int = 4, **extra: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        **extra,
    )


def stable_diffusion(folder: Path) -> StableDiffusionPipeline:
    """Return Stable Diffusion 1: images of 16 pixels, latents of 8."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: Path) -> StableDiffusionXLPipeline:
    """Return Stable Diffusion XL: two text encoders and the size of the image as a further condition."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=2 * TEXT,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=TEXT + 6 * 8,
        norm_num_groups=4,
    )
    return StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=_clip(tokenizer),
        text_encoder_2=_clip(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )


def stable_diffusion_3(folder: Path) -> StableDiffusion3Pipeline:
    """Return Stable Diffusion 3: joint attention over image and text, flow matching."""
    torch.manual_seed(0)
    tokenizer, t5 = clip_tokenizer(folder), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * TEXT,
        caption_projection_dim=16,
        pooled_projection_dim=2 * TEXT,
        out_channels=4,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=_clip(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=_clip(tokenizer, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5(t5, 2 * TEXT),
        tokenizer_3=t5,
    )


def flux(folder: Path) -> FluxPipeline:
    """Return Flux: double- and single-stream joint attention, packed latents, guidance as an input."""
    torch.manual_seed(0)
    tokenizer, t5 = clip_tokenizer(folder), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_autoencoder(shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_t5(t5),
        tokenizer_2=t5,
        transformer=transformer,
    )


def clip(folder: Path) -> str:
    """Write a CLIP, of images of 16 pixels and any words, and return its folder."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = _clip(tokenizer).config.to_dict() | sizes
    vision = CLIPVisionConfig(**sizes, image_size=16, patch_size=8).to_dict()
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    return str(folder)


def dit(folder: Path) -> DiTPipeline:
    """Return DiT: conditioned on one of a thousand classes, as its pipeline has it, predicting the variance too."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    )
    return DiTPipeline(
        transformer=transformer, vae=_autoencoder(), scheduler=DDIMScheduler(), id2label={0: "cat", 1: "dog, hound"}
    )


def pixart(folder: Path) -> PixArtAlphaPipeline:
    """Return PixArt: cross-attention with a mask over the padding of the prompt."""
    torch.manual_seed(0)
    t5 = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=TEXT,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        tokenizer=t5, text_encoder=_t5(t5), vae=_autoencoder(), transformer=transformer, scheduler=DDIMScheduler()
    )


PIPELINES = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "flux": flux,
    "dit": dit,
    "pixart": pixart,
}
